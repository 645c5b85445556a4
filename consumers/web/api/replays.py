"""Replays and recording over HTTP: a recording is played as a session, and a session is recorded."""

from __future__ import annotations

import msgspec
from aiohttp import web

from consumers.web.api.bodies import PlaybackBody, ReplayBody, read_json_body
from consumers.web.api.library import AsyncLibrary
from consumers.web.api.opening import Opener
from consumers.web.api.operations import Operation
from consumers.web.api.recording_replies import Keeping, OpenedReplay, ShownPlayback
from consumers.web.door.errors import model_response
from consumers.web.door.query import known_parameters
from recordings.folder import recording_name
from recordings.opening import replay_opening
from schemas import keys
from schemas.control import Play, Playback
from schemas.errors import Malformed, Refused
from schemas.grid import NS_PER_MS
from schemas.keys import entry_ms
from schemas.processes import Role
from transport.keeping import ask_to_keep
from transport.redis.cluster import KeyedCommand
from transport.redis.connection import AsyncPipe, accepted, redis_ns
from transport.register import list_processes
from transport.replays import SIGN_S, clock_read, find_playback, order_playback, read_clock
from transport.sessions import find_session, new_session_id, read_opening

_NOT_BEGUN = Playback(-1, -1, 1.0, paused=False)
# A player that has been silent for so long is gone, or gets to nothing.
_SILENT_MS = 3_000 * SIGN_S
_HOW = {
    "replay": "No replay process runs, so nothing is played: start one with python -m producers.replay.",
    "recorder": "No recorder runs, so nothing is recorded: start one with python -m consumers.recorder.",
}


class ReplaysApi:
    """The handlers."""

    def __init__(self, pipe: AsyncPipe, library: AsyncLibrary, opener: Opener) -> None:
        self._pipe, self._library, self._opener = pipe, library, opener

    def operations(self) -> list[Operation]:
        playback = "/api/sessions/{session}/playback"
        return [
            Operation(
                "POST", "/api/recordings/{name}/replay", self._replay, "Play a recording: opens a session.",
                OpenedReplay, (404, 408, 413, 415, 422), status=201, body=ReplayBody,
            ),
            Operation(
                "GET", playback, self._show_playback, "How far a replay is.", ShownPlayback, (404, 409),
            ),
            Operation(
                "POST", playback, self._order_playback, "Pause a replay, move in it, or change its pace.",
                ShownPlayback, (404, 408, 409, 413, 415), status=202, body=PlaybackBody,
            ),
            Operation(
                "POST", "/api/sessions/{session}/keep", self._keep,
                "Record a session, from its beginning, whether it runs or has ended.", Keeping, (404, 409), status=202,
            ),
        ]  # fmt: skip

    async def _replay(self, request: web.Request) -> web.Response:
        known_parameters(request.query, ())
        name = request.match_info["name"]
        body = await read_json_body(request, ReplayBody)
        word = body.word()
        await require_process(self._pipe, "replay")
        session = new_session_id()
        path = await self._library.path(name)
        try:
            opened, opening = await self._library.read_whole(
                lambda: replay_opening(path, session, name, frames=body.frames)
            )
        except (Malformed, Refused) as error:
            raise _unplayable(error, str(path), name) from None
        assert opening.replay is not None, "a replay is marked as one"
        await self._opener.open(opening, opened)
        if word != Play(rate=1.0, paused=False):
            await order_playback(self._pipe, session, word)
        return model_response(OpenedReplay(session=session, replay_of=opening.replay.of, recording=name), status=201)

    async def _show_playback(self, request: web.Request) -> web.Response:
        known_parameters(request.query, ())
        return await self._playback(request.match_info["session"], 200)

    async def _order_playback(self, request: web.Request) -> web.Response:
        known_parameters(request.query, ())
        session = request.match_info["session"]
        body = await read_json_body(request, PlaybackBody)
        await order_playback(self._pipe, session, body.word())
        return await self._playback(session, 202)

    async def _playback(self, session: str, status: int) -> web.Response:
        found = await find_playback(self._pipe, session) or _NOT_BEGUN
        clock, time = await self._pipe.run([read_clock(session), KeyedCommand(keys.state(session), ("TIME",))])
        _, played_ms = clock_read(accepted(clock))
        has_player = redis_ns(accepted(time)) // NS_PER_MS - played_ms < _SILENT_MS
        shown = ShownPlayback(session=session, has_player=has_player, **msgspec.structs.asdict(found))
        return model_response(shown, status=status)

    async def _keep(self, request: web.Request) -> web.Response:
        known_parameters(request.query, ())
        session = request.match_info["session"]
        state = await find_session(self._pipe, session)
        opening = await read_opening(self._pipe, state)
        if opening.replay is not None:
            raise Refused("is_replay", "This session is a replay: its recording is in the library already.", status=409)
        there = await self._library.run(lambda library: library.of_session(session))
        if there is None:
            await require_process(self._pipe, "recorder")
            await ask_to_keep(self._pipe, session)
        name = there or recording_name(session, opening.prompt, entry_ms(state.opened))
        return model_response(Keeping(session=session, recording=name, recorded=there is not None), status=202)


async def require_process(pipe: AsyncPipe, role: Role) -> None:
    """Raises Refused where no process of the role is ready; RedisAway."""
    if not any(record.role == role and record.ready for record in await list_processes(pipe)):
        raise Refused(f"no_{role}", _HOW[role], status=503)


def _unplayable(error: Malformed | Refused, path: str, name: str) -> Refused:
    """The same about a file of the library, for a client that knows no paths here."""
    message = str(error).replace(path, name)
    if isinstance(error, Malformed):
        return Refused("damaged_recording", message, status=422)
    return Refused(error.code, message.replace("with --frames", 'with "frames": true'), status=error.status)
