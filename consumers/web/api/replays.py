"""Replays and recording over HTTP: plays a recording as a session, and records a session."""

from __future__ import annotations

import msgspec
from aiohttp import web

from consumers.web.api.bodies import PlaybackBody, ReplayBody, read_json_body
from consumers.web.api.library import AsyncLibrary
from consumers.web.api.opening import Opener, require_process
from consumers.web.api.operations import Operation
from consumers.web.api.recording_replies import Keeping, OpenedReplay, ShownPlayback
from consumers.web.door.errors import model_response
from recordings.folder import recording_name
from recordings.opening import replay_opening
from schemas import keys
from schemas.control import Play, Playback
from schemas.errors import Malformed, Refused
from schemas.grid import NS_PER_MS
from schemas.keys import entry_ms
from transport.keeping import ask_to_keep
from transport.redis.cluster import KeyedCommand
from transport.redis.connection import AsyncPipe, accepted, redis_ns
from transport.replays import SIGN_S, clock_read, find_playback, order_playback, read_clock
from transport.sessions import find_session, new_session_id, read_opening

_NOT_BEGUN = Playback(-1, -1, 1.0, paused=False)
# A player without a sign of life for so long has ended, or is too slow to follow orders.
_SILENT_MS = 3_000 * SIGN_S


class ReplaysApi:
    """The handlers."""

    def __init__(self, pipe: AsyncPipe, library: AsyncLibrary, opener: Opener) -> None:
        self._pipe, self._library, self._opener = pipe, library, opener

    def operations(self) -> list[Operation]:
        playback = "/api/sessions/{session}/playback"
        return [
            Operation(
                "POST", "/api/recordings/{name}/replay", self._replay, "open_replay", "Replays", "Play a recording",
                "Opens a session of its own with the recorded frames, which all frontends can show.",
                OpenedReplay, (404, 408, 409, 413, 415, 422), status=201, body=ReplayBody,
            ),
            Operation(
                "GET", playback, self._show_playback, "show_playback", "Replays", "Show the position of a replay",
                "The window that every page shows, the last one, the speed, and whether a process plays it.",
                ShownPlayback, (404, 409),
            ),
            Operation(
                "POST", playback, self._order_playback, "change_playback", "Replays",
                "Pause a replay, change its position or its speed", "The replay follows within a quarter of a second.",
                ShownPlayback, (404, 408, 409, 413, 415), status=202, body=PlaybackBody,
            ),
            Operation(
                "POST", "/api/sessions/{session}/keep", self._keep, "record_session", "Recordings", "Record a session",
                "Records a session from its beginning, running or ended; shows the name of the file.",
                Keeping, (404, 409), status=202,
            ),
        ]  # fmt: skip

    async def _replay(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = await read_json_body(request, ReplayBody)
        order = body.order()
        await require_process(self._pipe, "replay")
        session = new_session_id()
        path = await self._library.path(name)
        try:
            opened, opening = await self._library.read_whole(
                lambda: replay_opening(path, session, name, frames=body.frames)
            )
        except (Malformed, Refused) as error:
            raise for_clients(error, str(path), name) from None
        assert opening.replay is not None, "a replay is marked as one"
        await self._opener.open(opening, opened)
        if order != Play(rate=1.0, paused=False):
            await order_playback(self._pipe, session, order)
        return model_response(OpenedReplay(session=session, replay_of=opening.replay.of, recording=name), status=201)

    async def _show_playback(self, request: web.Request) -> web.Response:
        return await self._playback(request.match_info["session"], 200)

    async def _order_playback(self, request: web.Request) -> web.Response:
        session = request.match_info["session"]
        body = await read_json_body(request, PlaybackBody)
        if (order := body.order()) != Play():
            await order_playback(self._pipe, session, order)
        return await self._playback(session, 202)

    async def _playback(self, session: str, status: int) -> web.Response:
        found = await find_playback(self._pipe, session) or _NOT_BEGUN
        clock, time = await self._pipe.run([read_clock(session), KeyedCommand(keys.state(session), ("TIME",))])
        _, played_ms = clock_read(accepted(clock))
        has_player = redis_ns(accepted(time)) // NS_PER_MS - played_ms < _SILENT_MS
        shown = ShownPlayback(session=session, has_player=has_player, **msgspec.structs.asdict(found))
        return model_response(shown, status=status)

    async def _keep(self, request: web.Request) -> web.Response:
        session = request.match_info["session"]
        state = await find_session(self._pipe, session)
        opening = await read_opening(self._pipe, state)
        if opening.replay is not None:
            raise Refused("is_replay", "This session is a replay: its recording is already in the library.", status=409)
        found = await self._library.run(lambda library: library.of_session(session))
        if found is None:
            await require_process(self._pipe, "recorder")
            await ask_to_keep(self._pipe, session)
        name = found or recording_name(session, opening.prompt, entry_ms(state.opened))
        return model_response(Keeping(session=session, recording=name, recorded=found is not None), status=202)


def for_clients(error: Malformed | Refused, path: str, name: str) -> Refused:
    """An error about a recording with its name in the place of its path, for clients on other machines."""
    message = str(error).replace(path, name)
    if isinstance(error, Malformed):
        return Refused("damaged_recording", message, status=422)
    return Refused(error.code, message.replace("with --frames", 'with "frames": true'), status=error.status)
