"""`/ws?session=ID&after=N`: the real-time protocol, as DECIPHER composes it, for frontends of other projects.

    startup_complete | the current state: energy, field, …, each member's text so far | new events …
                     | a heartbeat a second, to the end of the connection

Without `session` the client watches the newest live session, and the next one when that is opened or this one ends.
`after` is the last frame number that a client received before it lost its connection: it receives what was released
since. Without `session` that is first the rest of the session that it watched then, up to that session's end. Frame
numbers only rise, also from one session to the next. On this time line a replay begins when it was opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from consumers.web.answer_cache import AnswerCache, Released
from consumers.web.door.request import known_parameters, whole_number
from consumers.web.live.feeds import SERVER_STOPPING, SET_BACK
from consumers.web.live.newest_session import NewestSession
from consumers.web.live.packets import EventPacket, window_of_event
from consumers.web.live.protocol_client import ROUND, ProtocolClient
from consumers.web.live.shared_feeds import SharedFeeds
from consumers.web.live.snapshot import current_events, error_events, text_events
from consumers.web.live.sockets import Clients, first_of, new_socket, upgraded
from consumers.web.live.sources import SESSION_ENDED
from consumers.web.live.viewers import CloseReason, Viewer
from runtime.presence import RedisPresence
from schemas.errors import CouncilError, RedisAway, RedisRefuses, Refused, SetBack
from schemas.events import ProtocolTier
from schemas.grid import FRAME_RATE_HZ, window_index_at
from transport.events import Composed, find_composed
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, find_session

_RETRY_S = 0.25
# A session that runs needs less to reach the numbers of another one; a paused replay does not reach them.
_MOST_WAIT_S = 1.0
# The statuses of refusals after which a client connects again without `after`.
_STARTS_AGAIN = (404, 410)


class ProtocolSocket:
    """The handler of /ws. `stop` closes all connections."""

    def __init__(
        self,
        pipe: AsyncPipe,
        events: SharedFeeds[EventPacket],
        answers: AnswerCache,
        newest: NewestSession,
        clients: Clients,
        presence: RedisPresence,
        tier: ProtocolTier,
    ) -> None:
        self._pipe, self._events, self._answers, self._newest = pipe, events, answers, newest
        self._clients, self._presence, self._tier = clients, presence, tier
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def show(self, request: web.Request) -> web.WebSocketResponse:
        """Raises Refused, SessionGone and RedisAway before the upgrade."""
        known_parameters(request.query, ("session", "after"))
        session = request.query.get("session")
        after = whole_number(request.query, "after", "a frame number")
        socket = new_socket(request)
        with self._clients.admitted():
            if session is not None:
                # A refusal is an HTTP response, which a client can read more easily than a close code.
                with contextlib.suppress(SetBack):
                    await self._known_frame(await find_session(self._pipe, session), after)
            async with upgraded(request, socket) as peer:
                client = ProtocolClient(peer.transport, -1 if after is None else after)
                client.start(self._tier)
                following = asyncio.create_task(self._follow(client, peer.transport, session, after))
                stopping = asyncio.create_task(self._stopping.wait())
                try:
                    await first_of(following, peer.receiving, stopping)
                    if stopping.done() or following.done():
                        await peer.close(SERVER_STOPPING if stopping.done() else following.result())
                finally:
                    client.stop()
                    for task in (following, stopping):
                        task.cancel()
                    await asyncio.gather(following, stopping, return_exceptions=True)
        return socket

    async def _follow(
        self, client: ProtocolClient, transport: asyncio.WriteTransport, session: str | None, after: int | None
    ) -> CloseReason:
        """Sends the client the events of its session, or of the newest ones, until there is a reason to close."""
        if session is not None:
            close_reason = await self._watch(client, transport, session, after, None)
            if close_reason is SESSION_ENDED:
                # The client has received that all members are complete; it closes the connection itself.
                await asyncio.Event().wait()
            return close_reason or SERVER_STOPPING
        if after is not None:
            number = after % ROUND
            unfinished = await self._found(lambda: self._newest.find_unfinished(number))
            if unfinished is not None:
                close_reason = await self._watch(client, transport, unfinished, after, None)
                if close_reason is not SESSION_ENDED:
                    return close_reason or SERVER_STOPPING
        while True:
            opened = self._newest.opened
            newest = await self._found(self._newest.find)
            if newest is None:
                await opened.wait()
                continue
            close_reason = await self._watch(client, transport, newest, None, opened)
            if close_reason is not None and close_reason is not SESSION_ENDED:
                return close_reason

    async def _found(self, find: Callable[[], Awaitable[str | None]]) -> str | None:
        """What `find` returns as soon as Redis replies."""
        while True:
            try:
                return await find()
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)

    async def _watch(
        self,
        client: ProtocolClient,
        transport: asyncio.WriteTransport,
        session: str,
        after: int | None,
        opened: asyncio.Event | None,
    ) -> CloseReason | None:
        """Sends the client the session's events. Returns how the session ended, or None if a newer one was opened.

        `opened` is set when a newer session is opened; it is None for a session that the client watches to its end:
        it named that session, or received the frame `after` of it."""
        try:
            async with self._joined(client, session, after, is_known=opened is None) as viewer:
                if viewer is None:
                    return SET_BACK
                viewer.start(transport, client.encode)
                await self._wait_for_end(viewer, session, opened)
                return viewer.done.result() if viewer.done.done() else None
        except SetBack:
            return SET_BACK
        except Refused as error:
            return CloseReason(SET_BACK.code if error.status in _STARTS_AGAIN else 1011, str(error))
        except CouncilError as error:
            return CloseReason(1011, str(error))

    async def _wait_for_end(self, viewer: Viewer[EventPacket], session: str, opened: asyncio.Event | None) -> None:
        """Returns when the viewer is done, or when another session is the newest live one."""
        if opened is None:
            await viewer.done
            return
        while not viewer.done.done():
            opening = asyncio.create_task(opened.wait())
            await first_of(viewer.done, opening)
            opening.cancel()
            # Taken before the search, which may miss a session that is opened at this moment.
            opened = self._newest.opened
            if not viewer.done.done() and await self._found(self._newest.find) not in (None, session):
                return

    @contextlib.asynccontextmanager
    async def _joined(
        self, client: ProtocolClient, session: str, after: int | None, *, is_known: bool
    ) -> AsyncIterator[Viewer[EventPacket] | None]:
        """Sends the client the current state; the viewer, not started, then receives what follows. None if Redis lost
        data that other clients have received. `is_known`: the numbers that the client has received are of this
        session."""
        state = await find_session(self._pipe, session)
        first_number = window_index_at(state.shown_origin_ns)
        composed = await self._composed(client, session, first_number, is_known=is_known)
        composed_to, window = window_of_event(composed.cursor), _newest_window(composed)
        # Behind the last frame come the last events, which are in the current state. A feed may begin after them.
        viewer = self._events.join(session, composed_to + composed.is_over)
        if viewer is None:
            yield None
            return
        try:
            current, known = current_events(composed.standing), None
            if window >= 0:
                released = await self._answers.released(session, window)
                known = await self._known_frame(state, after, window)
                assert released.frame is not None, "the window was asked for"
                known_frame, known_texts = (known.frame, known.texts) if known else (None, [])
                current += text_events(released.frame, state.shown_origin_ns, released.texts, known_frame, known_texts)
            current += error_events(composed.errors, -1 if after is None else after % ROUND - first_number)
            client.start_session(first_number, window, current, is_known=is_known)
            yield viewer
        finally:
            self._events.leave(session, viewer)

    async def _composed(self, client: ProtocolClient, session: str, first_number: int, *, is_known: bool) -> Composed:
        """What is composed of the session. A client that has received larger numbers of another session (`is_known` is
        False) could not receive the current state: where the session is just behind, it is waited for."""
        until_s = time.monotonic() + _MOST_WAIT_S
        while True:
            composed = await find_composed(self._pipe, session)
            behind = client.frames_behind(first_number + max(_newest_window(composed), 0))
            if is_known or not behind or composed.status != "open" or time.monotonic() >= until_s:
                return composed
            await asyncio.sleep(behind / FRAME_RATE_HZ)

    async def _known_frame(self, state: SessionState, after: int | None, window: int | None = None) -> Released | None:
        """The session at the frame number `after`, which a client received last; None if it received nothing of this
        session. Raises Refused for a frame that is no longer kept, and SetBack for one that Redis lost, or may have
        lost: the text that the client has may be another one."""
        if after is None:
            return None
        known = after % ROUND - window_index_at(state.shown_origin_ns)
        if known < 0:
            return None
        if known == state.window + 1 and state.status != "open":
            # The number of the session's last events, which follow its last frame.
            known = state.window
        if known > state.window:
            raise SetBack(state.session)
        try:
            released = await self._answers.released(state.session, known if window is None else min(known, window))
            if released.may_be_written_again:
                raise SetBack(state.session)
            return released
        except Refused as error:
            raise Refused(
                "after_too_old", "The frame 'after' is no longer kept: connect without it.", status=410
            ) from error


def _newest_window(composed: Composed) -> int:
    """The newest window that is committed and composed; -1 before the first one."""
    return min(window_of_event(composed.cursor), composed.window)
