"""`POST /api/recordings`: adds a recording to the library.

body --pieces--> .NAME.part --the whole file is checked--> NAME        on any error the .part file is deleted
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path
from typing import IO

from aiohttp import hdrs, web

from consumers.web.api.library import AsyncLibrary
from consumers.web.api.operations import Operation, Parameter
from consumers.web.api.recording_replies import ListedRecording, listed_recording
from consumers.web.api.recordings import OCTETS
from consumers.web.door.errors import model_response
from recordings.folder import KeptRecording, Library
from recordings.opening import check_importable
from schemas.errors import Malformed, Refused

# A day of answers of six members has some hundred MB.
_MOST_BYTES = 2 * 1024**3
_PIECE_BYTES = 1024 * 1024
# An upload without a byte for so long has failed; a slow one may take an hour.
_STALL_S = 30.0
_MOST_S = 3_600.0
_NAME = Parameter("name", "The file's name; if it exists, a number is added.", {"type": "string"})


class ImportApi:
    """The handler."""

    def __init__(self, library: AsyncLibrary) -> None:
        self._library = library

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/api/recordings", self._take, "add_recording", "Recordings", "Add a recording",
                "The body is the recording's file, up to 2 GiB. It is checked completely before it is in the library.",
                ListedRecording, (408, 413, 415, 422, 507), status=201, body=OCTETS, parameters=(_NAME,),
            )
        ]  # fmt: skip

    async def _take(self, request: web.Request) -> web.Response:
        if request.content_type != OCTETS or hdrs.CONTENT_ENCODING in request.headers:
            raise Refused("unsupported_media_type", f"Send the file as {OCTETS}, without compression.", status=415)
        if (request.content_length or 0) > _MOST_BYTES:
            raise _too_large()
        wanted = request.query.get(_NAME.name) or "recording"
        part = await self._library.run(lambda library: _new_part(library, wanted))
        try:
            await _receive(request, part)
            await self._library.read_whole(lambda: _check(part, wanted))
            kept = await self._library.run(lambda library: _finish(library, part, wanted))
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            raise _unwritable(error) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return model_response(listed_recording(kept), status=201)


def _new_part(library: Library, wanted: str) -> Path:
    """A new empty file for this import alone. Raises Refused."""
    library.make()
    part = library.part_path(library.free_name(wanted))
    try:
        part.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise _unwritable(error) from None
    return part


async def _receive(request: web.Request, part: Path) -> None:
    """Writes the body into the file. Raises Refused if it is too large, too slow or incomplete; OSError."""
    count, pieces, size = 0, list[bytes](), 0
    with await asyncio.to_thread(part.open, "wb") as file:
        try:
            async with asyncio.timeout(_MOST_S):
                while piece := await _next_piece(request):
                    count += len(piece)
                    if count > _MOST_BYTES:
                        raise _too_large()
                    pieces.append(piece)
                    size += len(piece)
                    if size >= _PIECE_BYTES:
                        await asyncio.to_thread(file.write, b"".join(pieces))
                        pieces, size = [], 0
        except TimeoutError:
            raise Refused(
                "body_too_slow",
                f"The upload stopped for {_STALL_S:g} s, or took more than an hour: send the file again.",
                status=408,
            ) from None  # fmt: skip
        except web.RequestPayloadError:
            raise Refused("body_cut", "The upload ended before the end of the file: send it again.") from None
        await asyncio.to_thread(_write_last, file, b"".join(pieces))


async def _next_piece(request: web.Request) -> bytes:
    async with asyncio.timeout(_STALL_S):
        return await request.content.readany()


def _write_last(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _check(part: Path, name: str) -> None:
    """Reads the whole file. Raises Refused if it is not a recording, is damaged, or cannot be replayed."""
    try:
        check_importable(part)
    except Malformed as error:
        raise Refused("damaged_recording", str(error).replace(str(part), name), status=422) from None
    except Refused as error:
        raise Refused(error.code, str(error).replace(str(part), name), status=error.status) from None


def _finish(library: Library, part: Path, wanted: str) -> KeptRecording:
    """Renames the file; adds a number if its name was taken meanwhile. Raises Refused, OSError."""
    name = part.name.removeprefix(".").removesuffix(".part")
    if (library.folder / name).exists():
        name = library.free_name(wanted)
    part.rename(library.folder / name)
    return library.find(name)


def _too_large() -> Refused:
    return Refused(
        "body_too_large", f"The file has more than {_MOST_BYTES // 1024**3} GiB: copy it into the library's folder.",
        status=413,
    )  # fmt: skip


def _unwritable(error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Refused("disk_full", "The disk is full: make room, then send the file again.", status=507)
    reason = error.strerror or str(error)
    return Refused("not_written", f"The file cannot be written into the library's folder: {reason}.", status=503)
