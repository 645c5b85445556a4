"""`/frames?session=ID`: our own frames as JSON text messages: those of the last ten seconds, then each as it comes, to
the final one. With `from=WINDOW` all that are kept from that window on.

    from           five seconds ago        now
     |---- replay ---------|---- feed -------->    straight from Redis, as fast as this client takes them; then with all
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from consumers.web.door.query import known_parameters, whole_number
from consumers.web.live.feeds import RECENT_WINDOWS
from consumers.web.live.packets import FramePacket
from consumers.web.live.sockets import Clients, first_of, new_socket, upgraded
from consumers.web.live.viewers import PATIENCE_S, TAKES_NOTHING, Viewer
from consumers.web.live.watching import Watched
from schemas.errors import Malformed, RedisAway, RedisRefuses, Refused, SessionGone
from schemas.frames import decode_frame, frame_json
from schemas.keys import entry_order, frame_id
from transport.frames import read_frames
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

# Half of what a feed keeps: the other half passes while the past is replayed.
_FEED_WINDOWS = RECENT_WINDOWS // 2
# Between slices of the past the other clients have their turn.
_SLICE = 32


class FramesSocket:
    """The handler."""

    def __init__(self, pipe: AsyncPipe, frames: Watched[FramePacket], clients: Clients) -> None:
        self._pipe, self._frames, self._clients = pipe, frames, clients

    async def show(self, request: web.Request) -> web.WebSocketResponse:
        """Raises Refused, SessionGone and RedisAway before the upgrade."""
        known_parameters(request.query, ("session", "from"))
        session = request.query.get("session", "")
        if not session:
            raise Refused("no_session", "The session is missing: ask for /frames?session=ID.")
        query = request.query
        first = whole_number("from", query["from"], "a window's index") if "from" in query else None
        socket = new_socket(request)
        with self._clients.admitted():
            newest = (await find_session(self._pipe, session)).window
            past = RECENT_WINDOWS if first is None else _FEED_WINDOWS
            after = max((first or 0) - 1, newest - past)
            begin = max(-1, newest - RECENT_WINDOWS)
            viewer = self._frames.join(session, after, replays_to=newest, begin=begin)
            assert viewer is not None, "whoever replays begins with what is there"
            try:
                async with upgraded(request, socket) as peer:
                    if first is not None and first <= after:
                        await self._replay(socket, session, first, after, viewer)
                    if not viewer.done.done():
                        viewer.start(peer.transport, FramePacket.websocket)
                    await first_of(viewer.done, peer.hearing)
                    if viewer.done.done():
                        await peer.say_goodbye(viewer.done.result())
            finally:
                self._frames.leave(session, viewer)
        return socket

    async def _replay(
        self, socket: web.WebSocketResponse, session: str, first: int, last: int, viewer: Viewer[FramePacket]
    ) -> None:
        """The frames of [first, last] that are kept. Where that fails, the feed says why: it reads the same."""
        after = frame_id(first - 1)
        try:
            while found := await read_frames(self._pipe, session, after):
                for admitted, (entry_id, raw) in enumerate(found):
                    if entry_order(entry_id)[0] - 1 > last or viewer.done.done():
                        return
                    async with asyncio.timeout(PATIENCE_S):
                        await socket.send_str(frame_json(decode_frame(raw)).decode())
                    if admitted % _SLICE == 0:
                        await asyncio.sleep(0)
                after = found[-1][0]
        except TimeoutError:
            viewer.dismiss(TAKES_NOTHING)
        except (RedisAway, RedisRefuses, SessionGone, Malformed, ConnectionError):
            return
