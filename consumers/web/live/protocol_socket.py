"""`/ws?session=ID&after=N`: the real-time protocol, as DECIPHER composes it, for other people's frontends.

    startup_complete | what is true now: energy, field, …, each member's text so far | events as they come …
                     | a heartbeat a second, to the end of the connection

Without a session it is the newest live one, and the next one when that is opened or this one ends. `after` is a frame
number that the client saw before it lost its connection: it is told what was released since. Frame numbers only rise,
also from one session to the next. A replay begins on this time line when it was opened.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from consumers.web.answering import Answering, Released
from consumers.web.door.query import known_parameters, whole_number
from consumers.web.live.feeds import STOPPING
from consumers.web.live.newest import Newest
from consumers.web.live.packets import EventPacket, window_of_event
from consumers.web.live.protocol_client import ROUND, ProtocolClient
from consumers.web.live.snapshot import standing_events, text_events
from consumers.web.live.sockets import Clients, first_of, new_socket, upgraded
from consumers.web.live.sources import ENDED
from consumers.web.live.viewers import Goodbye, Viewer
from consumers.web.live.watching import Watched
from runtime.presence import RedisPresence
from schemas.errors import CouncilError, RedisAway, RedisRefuses, Refused
from schemas.events import ProtocolTier
from schemas.grid import window_index_at
from transport.events import find_composed
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, find_session

_RETRY_S = 0.25
_SET_BACK = Goodbye(1013, "The session was set back: connect again.")


class ProtocolSocket:
    """The handler. `stop` sends everybody away."""

    def __init__(
        self,
        pipe: AsyncPipe,
        events: Watched[EventPacket],
        answering: Answering,
        newest: Newest,
        clients: Clients,
        presence: RedisPresence,
        tier: ProtocolTier,
    ) -> None:
        self._pipe, self._events, self._answering, self._newest = pipe, events, answering, newest
        self._clients, self._presence, self._tier = clients, presence, tier
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def show(self, request: web.Request) -> web.WebSocketResponse:
        """Raises Refused, SessionGone and RedisAway before the upgrade."""
        known_parameters(request.query, ("session", "after"))
        session = request.query.get("session")
        after = whole_number("after", request.query["after"], "a frame number") if "after" in request.query else None
        socket = new_socket(request)
        with self._clients.admitted():
            if session is not None:
                # What is wrong with it is better said in an answer than by closing the socket.
                await self._known_frame(await find_session(self._pipe, session), after, is_named=True)
            async with upgraded(request, socket) as peer:
                client = ProtocolClient(peer.transport, -1 if after is None else after)
                client.begin(self._tier)
                following = asyncio.create_task(self._follow(client, peer.transport, session, after))
                stopping = asyncio.create_task(self._stopping.wait())
                try:
                    await first_of(following, peer.hearing, stopping)
                    if stopping.done() or following.done():
                        await peer.say_goodbye(STOPPING if stopping.done() else following.result())
                finally:
                    client.end()
                    for task in (following, stopping):
                        task.cancel()
                    await asyncio.gather(following, stopping, return_exceptions=True)
        return socket

    async def _follow(
        self, client: ProtocolClient, transport: asyncio.WriteTransport, session: str | None, after: int | None
    ) -> Goodbye:
        """Tells the client what happens, until there is a reason to send it away."""
        if session is not None:
            goodbye = await self._watch(client, transport, session, after, None)
            if goodbye is ENDED:
                # Who is told that all members are complete knows; the connection is theirs to close.
                await asyncio.Event().wait()
            return goodbye or STOPPING
        while True:
            opened = self._newest.opened
            newest = await self._find_newest()
            if newest is None:
                await opened.wait()
                continue
            goodbye = await self._watch(client, transport, newest, after, opened)
            after = None
            if goodbye is not None and goodbye is not ENDED:
                return goodbye

    async def _find_newest(self) -> str | None:
        while True:
            try:
                return await self._newest.find()
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
    ) -> Goodbye | None:
        """Tells the client of the session: how that ended, or None where a newer one was opened, which `opened` told
        of; without that the session is the one that it wants."""
        try:
            async with self._joined(client, session, after, is_named=opened is None) as viewer:
                if viewer is None:
                    return _SET_BACK
                viewer.start(transport, client.wire)
                await self._wait_for_end(viewer, session, opened)
                return viewer.done.result() if viewer.done.done() else None
        except CouncilError as error:
            return Goodbye(1011, str(error))

    async def _wait_for_end(self, viewer: Viewer[EventPacket], session: str, opened: asyncio.Event | None) -> None:
        """Returns when the viewer is done, or when another session is the newest live one."""
        if opened is None:
            await viewer.done
            return
        while not viewer.done.done():
            opening = asyncio.create_task(opened.wait())
            await first_of(viewer.done, opening)
            opening.cancel()
            # Before the look, which may come too early for one that is opened just then.
            opened = self._newest.opened
            if not viewer.done.done() and await self._find_newest() not in (None, session):
                return

    @contextlib.asynccontextmanager
    async def _joined(
        self, client: ProtocolClient, session: str, after: int | None, *, is_named: bool
    ) -> AsyncIterator[Viewer[EventPacket] | None]:
        """The client has been told what is true now; the viewer is about to tell what comes after that. None where
        Redis was set back behind what others have seen."""
        state = await find_session(self._pipe, session)
        composed = await find_composed(self._pipe, session)
        window = min(window_of_event(composed.cursor), composed.window)
        viewer = self._events.join(session, window)
        if viewer is None:
            yield None
            return
        try:
            now, known = standing_events(composed.standing), None
            if window >= 0:
                released = await self._answering.released(session, window)
                known = await self._known_frame(state, after, window, is_named=is_named)
                assert released.frame is not None, "the window was asked for"
                known_frame, known_texts = (known.frame, known.texts) if known else (None, [])
                now += text_events(released.frame, state.shown_origin_ns, released.texts, known_frame, known_texts)
            first_number = window_index_at(state.shown_origin_ns)
            client.enter(first_number, window, now, is_known=is_named or known is not None)
            yield viewer
        finally:
            self._events.leave(session, viewer)

    async def _known_frame(
        self, state: SessionState, after: int | None, window: int | None = None, *, is_named: bool
    ) -> Released | None:
        """The session as a client knows it that has seen the frame number `after`; None where it knows nothing of it.
        Raises Refused for a frame that is no longer kept."""
        if after is None:
            return None
        known = after % ROUND - window_index_at(state.shown_origin_ns)
        newest = state.window if window is None else window
        # Of a session that the client did not name, a number that has not come yet was another's: a replay runs ahead.
        if known < 0 or (known > newest and not is_named):
            return None
        try:
            return await self._answering.released(state.session, min(known, newest))
        except Refused as error:
            raise Refused(
                "after_too_old", "The frame 'after' is no longer kept: connect without it.", status=410
            ) from error
