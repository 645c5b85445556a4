"""`/frames?session=ID`: our own frames as JSON text messages: those of the last ten seconds, then each as it comes, to
the final one."""

from __future__ import annotations

from aiohttp import web

from consumers.web.door.query import known_parameters
from consumers.web.live.feeds import RECENT_WINDOWS
from consumers.web.live.packets import FramePacket
from consumers.web.live.sockets import Clients, first_of, new_socket, say_goodbye, upgraded
from consumers.web.live.watching import Watched
from schemas.errors import Refused
from transport.connection import AsyncPipe
from transport.sessions import find_session


class FramesSocket:
    """The handler."""

    def __init__(self, pipe: AsyncPipe, frames: Watched[FramePacket], clients: Clients) -> None:
        self._pipe, self._frames, self._clients = pipe, frames, clients

    async def show(self, request: web.Request) -> web.WebSocketResponse:
        """Raises Refused, SessionGone and RedisAway before the upgrade."""
        known_parameters(request.query, ("session",))
        session = request.query.get("session", "")
        if not session:
            raise Refused("no_session", "The session is missing: ask for /frames?session=ID.")
        socket = new_socket(request)
        with self._clients.place():
            newest = (await find_session(self._pipe, session)).window
            viewer = self._frames.join(session, max(-1, newest - RECENT_WINDOWS), replays_to=newest)
            assert viewer is not None, "whoever replays begins with what is there"
            try:
                async with upgraded(request, socket) as (transport, hearing):
                    viewer.start(transport, FramePacket.websocket)
                    await first_of(viewer.done, hearing)
                    if viewer.done.done():
                        await say_goodbye(socket, viewer.done.result())
            finally:
                self._frames.leave(session, viewer)
        return socket
