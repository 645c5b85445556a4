"""Sessions over HTTP: opening, listing, showing, cancelling, deleting them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from aiohttp import web

from consumers.web.answer_cache import AnswerCache, Released
from consumers.web.api.bodies import SessionBody, read_json_body
from consumers.web.api.library import AsyncLibrary
from consumers.web.api.members import member_index
from consumers.web.api.opening import Opener
from consumers.web.api.operations import Operation, Parameter
from consumers.web.api.replies import (
    PROMPT_START_LETTERS,
    Cancelled,
    ListedSession,
    Opened,
    SessionList,
    ShownMember,
    ShownParent,
    ShownSampling,
    ShownSession,
    Status,
    Turn,
)
from consumers.web.door.errors import model_response
from consumers.web.door.request import MOST_NUMBER, whole_number
from recordings.contents import SUFFIX
from recordings.folder import Library
from schemas.errors import Refused
from schemas.events import protocol_model_ids
from schemas.frames import Frame
from schemas.keys import entry_ms
from schemas.sessions import Opening, Phase, Sampling
from transport.branches import find_branches
from transport.redis.connection import AsyncPipe
from transport.sessions import (
    SessionState,
    cancel_session,
    delete_session,
    find_session,
    list_sessions,
    read_opening,
    read_openings,
)

_WINDOW_INDEX = Parameter(
    "window_index",
    "The session at the end of this window; by default the newest. The last ten minutes of windows are kept.",
    {"type": "integer", "minimum": 0, "maximum": MOST_NUMBER},
)


class SessionsApi:
    """The handlers."""

    def __init__(self, pipe: AsyncPipe, answers: AnswerCache, library: AsyncLibrary, opener: Opener) -> None:
        self._pipe, self._answers, self._library, self._opener = pipe, answers, library, opener

    def operations(self) -> list[Operation]:
        path = "/api/sessions/{session}"
        return [
            Operation(
                "POST", "/api/sessions", self._open, "open_session", "Sessions", "Ask the council",
                "Opens a session: all members answer the prompt, or the last message of a chat, at the same time. The "
                "response comes at once; the answers follow in the session, its events and its frames.",
                Opened, (404, 408, 409, 413, 415), status=201, body=SessionBody,
            ),
            Operation(
                "GET", "/api/sessions", self._list, "list_sessions", "Sessions", "List the sessions",
                "The sessions that Redis still has, open and ended, newest first, at most 200.", SessionList,
            ),
            Operation(
                "GET", path, self._show, "show_session", "Sessions", "Show a session",
                "Its request, and each member's state and whole text at the newest window or at an earlier one.",
                ShownSession, (404,), parameters=(_WINDOW_INDEX,),
            ),
            Operation(
                "POST", f"{path}/cancel", self._cancel, "cancel_session", "Sessions", "Stop all members",
                "Their texts stay, and the session ends. A session that has ended stays as it is.",
                Cancelled, (404,), status=202,
            ),
            Operation(
                "POST", f"{path}/members/{{member:.+}}/cancel", self._cancel_member, "cancel_member", "Sessions",
                "Stop one member", "Its text stays, and the other members continue.", Cancelled, (404, 409),
                status=202,
            ),
            Operation(
                "DELETE", path, self._delete, "delete_session", "Sessions", "Delete a session",
                "Deletes a session that has ended; an open one is refused. Its recording stays.", None, (404, 409),
                status=204,
            ),
        ]  # fmt: skip

    async def _open(self, request: web.Request) -> web.Response:
        body = await read_json_body(request, SessionBody)
        opened = await self._opener.ask(body.request(), body.tier, record=body.record, given=body.model_fields_set)
        return model_response(opened, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        states = await list_sessions(self._pipe)
        openings = await read_openings(self._pipe, states)
        recordings = await self._recordings([state.session for state in states])
        shown = [
            _listed(state, openings[state.session], recordings.get(state.session))
            for state in states if state.session in openings
        ]  # fmt: skip
        return model_response(SessionList(sessions=shown))

    async def _show(self, request: web.Request) -> web.Response:
        window = whole_number(request.query, _WINDOW_INDEX.name, "a window's index")
        session = request.match_info["session"]
        released = await self._answers.released(session, window)
        recordings = await self._recordings([session])
        branches = await find_branches(self._pipe, session)
        return model_response(_shown_session(released, recordings.get(session), branches))

    async def _recordings(self, sessions: Sequence[str]) -> dict[str, str]:
        """The names of the recordings that this council made, by session."""
        try:
            return await self._library.run(lambda library: _names_by_session(library, sessions))
        except Refused:
            # The library cannot be used: sessions are shown without their recordings.
            return {}

    async def _cancel(self, request: web.Request) -> web.Response:
        return await self._cancel_members(request, None)

    async def _cancel_member(self, request: web.Request) -> web.Response:
        return await self._cancel_members(request, request.match_info["member"])

    async def _cancel_members(self, request: web.Request, name: str | None) -> web.Response:
        session = request.match_info["session"]
        opening = await read_opening(self._pipe, await find_session(self._pipe, session))
        if name is not None and opening.replay is not None:
            raise Refused("is_replay", "A member of a replay cannot be stopped: stop the whole replay.", status=409)
        members = tuple(range(len(opening.members))) if name is None else (member_index(name, opening),)
        is_open = await cancel_session(self._pipe, session, members=() if name is None else members)
        cancelled = Cancelled(session=session, status="open" if is_open else "ended", members=list(members))
        return model_response(cancelled, status=202)

    async def _delete(self, request: web.Request) -> web.Response:
        session = request.match_info["session"]
        await delete_session(self._pipe, session)
        self._answers.forget(session)
        return web.Response(status=204)


def _names_by_session(library: Library, sessions: Sequence[str]) -> dict[str, str]:
    found = dict[str, str]()
    for name in library.names():
        session = name.removesuffix(SUFFIX).rpartition("_")[2]
        if session in sessions and name.isprintable():
            found.setdefault(session, name)
    return found


def _listed(state: SessionState, opening: Opening, recording: str | None) -> ListedSession:
    return ListedSession(
        session=state.session,
        prompt_start=opening.prompt[:PROMPT_START_LETTERS],
        status=_status(state),
        phase=_phase(state),
        window_index=state.window,
        models=[member.model for member in opening.members],
        names=list(opening.names),
        reason=state.reason or None,
        opened_ms=_opened_ms(state),
        **_replay(state, opening, recording),
    )


def _shown_session(released: Released, recording: str | None, branches: list[str]) -> ShownSession:
    """The session for the response, at the window of `released`; `recording` is the name of its recording."""
    state, opening, frame = released.state, released.opening, released.frame
    return ShownSession(
        session=state.session,
        status=_status(state),
        phase=_phase(state),
        reason=state.reason or None,
        opened_ms=_opened_ms(state),
        **_replay(state, opening, recording),
        origin_ns=str(state.origin_ns),
        window_index=-1 if frame is None else frame.window_index,
        final=frame is not None and frame.final,
        tier=opening.tier if frame is None else frame.tier,
        sync=opening.sync,
        weighting=opening.weighting,
        prompt=opening.prompt,
        system=opening.system,
        history=[Turn(role=turn.role, content=turn.content) for turn in opening.history],
        prefix=opening.prefix,
        parent=None if opening.parent is None else ShownParent(**msgspec.structs.asdict(opening.parent)),
        branches=branches,
        agreed=released.agreed,
        members=_members(released, opening, frame),
    )


def _opened_ms(state: SessionState) -> int:
    return entry_ms(state.opened) if state.began_ms is None else state.began_ms


def _replay(state: SessionState, opening: Opening, recording: str | None) -> dict[str, Any]:
    """The fields about the recording, and about the recorded session if it is a replay."""
    if opening.replay is None:
        return {"replay_of": None, "recording": recording, "recorded_ms": None}
    of, name = opening.replay.of, opening.replay.recording
    return {"replay_of": of, "recording": name or None, "recorded_ms": entry_ms(state.opened)}


def _members(released: Released, opening: Opening, frame: Frame | None) -> list[ShownMember]:
    ids = protocol_model_ids(opening.names)
    shown = []
    for index, member in enumerate(opening.members):
        now = None if frame is None else frame.members[index]
        shown.append(
            ShownMember(
                model=member.model,
                name=member.display_name,
                id=ids[index],
                sampling=_shown_sampling(opening.sampling_of(index)),
                system=member.system,
                weight=member.weight,
                remote=member.remote,
                state=now.state if now else None,
                reason=now.reason if now else None,
                position_bytes=now.position_bytes if now else 0,
                text=released.texts[index],
                thinking=released.thinking[index],
            )
        )
    return shown


def _shown_sampling(sampling: Sampling) -> ShownSampling:
    return ShownSampling(temperature=sampling.temperature, seed=sampling.seed, max_tokens=sampling.max_tokens)


def _status(state: SessionState) -> Status:
    return "open" if state.status == "open" else "ended"


def _phase(state: SessionState) -> Phase | None:
    return cast(Phase, state.phase) if state.phase else None
