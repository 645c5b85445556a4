"""Recordings over HTTP: the list, downloads, stars, differences, deletion."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web

from consumers.web.api.library import AsyncLibrary
from consumers.web.api.operations import Operation, Parameter
from consumers.web.api.recording_replies import (
    ListedRecording,
    RecordingDifference,
    RecordingList,
    ShownDifference,
    ShownRecording,
    listed_recording,
    shown_recording,
)
from consumers.web.door.errors import model_response
from consumers.web.door.request import whole_number
from recordings.difference import Difference, first_difference
from recordings.folder import KeptRecording, Library
from schemas.errors import Malformed, Refused
from schemas.rules.choice import shortened

_PAGE, _LONGEST_PAGE = 50, 200
# Enough for what a person types; each word is searched in each recording.
_MOST_WORDS_LETTERS = 200
_MOST_VALUE_LETTERS = 500
_STRING = {"type": "string"}
_LISTING = (
    Parameter("words", "Only recordings with each of these words in the prompt, a member's name or the file's name.",
              {"type": "string", "maxLength": _MOST_WORDS_LETTERS}),
    Parameter("after", "The `next` of the previous page.", _STRING),
    Parameter("limit", f"The number of recordings on a page; by default {_PAGE}.",
              {"type": "integer", "minimum": 1, "maximum": _LONGEST_PAGE}),
)  # fmt: skip
_OTHER = Parameter("other", "The other recording's name.", {"type": "string", "minLength": 1}, required=True)
OCTETS = "application/octet-stream"


class RecordingsApi:
    """The handlers."""

    def __init__(self, library: AsyncLibrary) -> None:
        self._library = library

    def operations(self) -> list[Operation]:
        path = "/api/recordings/{name}"
        return [
            Operation(
                "GET", "/api/recordings", self._list, "list_recordings", "Recordings", "List the recordings",
                "The recordings of the library, the newest file first, a page at a time.",
                RecordingList, (404,), parameters=_LISTING,
            ),
            Operation(
                "GET", path, self._show, "show_recording", "Recordings", "Show a recording",
                "Its request, its members, the versions that recorded it, and its result.", ShownRecording, (404,),
            ),
            Operation(
                "GET", f"{path}/file", self._send, "download_recording", "Recordings", "Download a recording",
                "The file, in MCAP format; Range and the conditions of RFC 9110 are supported.", OCTETS, (404,),
                also={206: OCTETS, 304: None, 412: None, 416: None},
            ),
            Operation(
                "PUT", f"{path}/star", self._star, "star_recording", "Recordings", "Star a recording",
                "A starred recording is never deleted to make room.", ListedRecording, (404,),
            ),
            Operation(
                "DELETE", f"{path}/star", self._unstar, "unstar_recording", "Recordings", "Remove the star",
                "The recording may be deleted again to make room.", ListedRecording, (404,),
            ),
            Operation(
                "GET", f"{path}/difference", self._compare, "compare_recordings", "Recordings",
                "Compare two recordings",
                "The first difference: in the request, else a window and a field of its frame; null if there is none.",
                RecordingDifference, (404, 422), parameters=(_OTHER,),
            ),
            Operation(
                "DELETE", path, self._delete, "delete_recording", "Recordings", "Delete a recording",
                "Deletes the file from the library.", None, (404,), status=204,
            ),
        ]  # fmt: skip

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        limit = whole_number(query, "limit", "a number of recordings")
        limit = _PAGE if limit is None else limit
        if not 1 <= limit <= _LONGEST_PAGE:
            raise Refused("bad_limit", f"limit is {limit}: give a whole number from 1 to {_LONGEST_PAGE}.")
        words = query.get("words", "")
        if len(words) > _MOST_WORDS_LETTERS:
            raise Refused("bad_words", f"words has {len(words)} letters: give at most {_MOST_WORDS_LETTERS}.")
        after = query.get("after")
        found = await self._library.run(lambda library: _page(library, words, after, limit + 1))
        shown = [listed_recording(kept) for kept in found[:limit]]
        return model_response(RecordingList(recordings=shown, next=shown[-1].name if len(found) > limit else None))

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return model_response(shown_recording(await self._library.run(lambda library: library.find(name))))

    async def _send(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = await self._library.path(name)
        headers = {
            hdrs.CONTENT_TYPE: OCTETS,
            hdrs.CONTENT_DISPOSITION: attachment(name),
            hdrs.CACHE_CONTROL: "no-store",
        }
        return web.FileResponse(path, headers=headers)

    async def _star(self, request: web.Request) -> web.Response:
        return await self._set_star(request, is_starred=True)

    async def _unstar(self, request: web.Request) -> web.Response:
        return await self._set_star(request, is_starred=False)

    async def _set_star(self, request: web.Request, *, is_starred: bool) -> web.Response:
        name = request.match_info["name"]

        def starred(library: Library) -> KeptRecording:
            library.star(name, is_starred=is_starred)
            return library.find(name)

        return model_response(listed_recording(await self._library.run(starred)))

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._library.run(lambda library: library.delete(name))
        return web.Response(status=204)

    async def _compare(self, request: web.Request) -> web.Response:
        names = request.match_info["name"], request.query.get("other", "")
        if not names[1]:
            raise Refused("no_other", "The parameter other is missing: add ?other=NAME.")
        one, other = [await self._library.path(name) for name in names]
        try:
            found = await self._library.read_whole(lambda: first_difference(one, other))
        except Malformed as error:
            message = str(error).replace(str(one), names[0]).replace(str(other), names[1])
            raise Refused("damaged_recording", message, status=422) from None
        difference = _shown(found) if found else None
        return model_response(RecordingDifference(name=names[0], other=names[1], difference=difference))


def _page(library: Library, words: str, after: str | None, most: int) -> list[KeptRecording]:
    """At most `most` recordings with these words, after the one named `after`. Raises Refused if that is missing."""
    # A name that is not UTF-8 can be neither shown nor requested.
    kept = [one for one in library.listed() if _is_text(one.name)]
    if after is not None:
        found = next((index for index, one in enumerate(kept) if one.name == after), None)
        if found is None:
            raise Refused(
                "no_recording", f"The recording {shortened(after)!r} was deleted: load the list from its beginning.",
                status=404,
            )  # fmt: skip
        kept = kept[found + 1 :]
    return [one for one in kept if one.matches(words)][:most]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(found: Difference) -> ShownDifference:
    one, other = _json(found.one), _json(found.other)
    return ShownDifference(window=found.window, field=found.field[:_MOST_VALUE_LETTERS], one=one, other=other)


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()[:_MOST_VALUE_LETTERS]


def attachment(name: str) -> str:
    """The Content-Disposition of a file (RFC 6266): its name in ASCII for old clients, and its exact name."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in " ._-()+") else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
