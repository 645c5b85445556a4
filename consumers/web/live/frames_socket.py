"""`/frames?session=ID`: frames as JSON text messages, those of the last ten seconds and then each new one, to the end.
With `from=WINDOW` all frames that Redis still has from that window on; with `cut` only if that is the cut of the frame
before it, which the client received last.

    from           five seconds ago        now
     |---- replay ---------|---- feed -------->    read from Redis for this client, at its speed; then the shared feed
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from consumers.web.door.request import known_parameters, whole_number
from consumers.web.live.continuing import can_continue_frames
from consumers.web.live.feeds import RECENT_WINDOWS, SET_BACK
from consumers.web.live.packets import FramePacket
from consumers.web.live.shared_feeds import SharedFeeds
from consumers.web.live.sockets import Clients, first_of, new_socket, upgraded
from consumers.web.live.viewers import CLIENT_STALLED, STALL_S, Viewer
from schemas.errors import Malformed, RedisAway, RedisRefuses, Refused, SessionGone, SetBack
from schemas.frame_json import frame_json
from schemas.frames import decode_frame
from schemas.keys import entry_order, frame_id, is_entry_id
from transport.frames import frames_after
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

# Half of what a feed keeps: the other half may leave the feed while the past is replayed.
_FEED_WINDOWS = RECENT_WINDOWS // 2
# Between slices of the past the event loop serves other clients.
_SLICE = 32
# Two numbers of 64 bits.
_MOST_ID_CHARS = 41


class FramesSocket:
    """The handler of /frames."""

    def __init__(self, pipe: AsyncPipe, frames: SharedFeeds[FramePacket], clients: Clients) -> None:
        self._pipe, self._frames, self._clients = pipe, frames, clients

    async def show(self, request: web.Request) -> web.WebSocketResponse:
        """Raises Refused, SessionGone and RedisAway before the upgrade."""
        known_parameters(request.query, ("session", "from", "cut"))
        session = request.query.get("session", "")
        if not session:
            raise Refused("no_session", "The parameter session is missing: connect to /frames?session=ID.")
        first = whole_number(request.query, "from", "a window's index")
        cut = known_cut(request.query.get("cut"), first)
        socket = new_socket(request)
        with self._clients.admitted():
            state = await find_session(self._pipe, session)
            newest = state.window
            is_proven = not first or await can_continue_frames(self._pipe, state, first - 1, cut)
            past = RECENT_WINDOWS if first is None else _FEED_WINDOWS
            after = max((first or 0) - 1, newest - past)
            begin = max(-1, newest - RECENT_WINDOWS)
            viewer = self._frames.join(session, after, replays_to=newest, begin=begin)
            assert viewer is not None, "with replays_to a viewer always begins with what the feed has"
            try:
                async with upgraded(request, socket) as peer:
                    if not is_proven:
                        viewer.close(SET_BACK)
                    elif first is not None and first <= after:
                        await self._replay(socket, session, first, after, viewer)
                    if not viewer.done.done():
                        viewer.start(peer.transport, FramePacket.websocket)
                    await first_of(viewer.done, peer.receiving)
                    if viewer.done.done():
                        await peer.close(viewer.done.result())
            finally:
                self._frames.leave(session, viewer)
        return socket

    async def _replay(
        self, socket: web.WebSocketResponse, session: str, first: int, last: int, viewer: Viewer[FramePacket]
    ) -> None:
        """Sends the frames of [first, last] that Redis still has. On an error it returns: the feed meets the same error
        and closes the socket with it."""
        reader = frames_after(self._pipe, session, frame_id(first - 1))
        try:
            while found := await reader.read():
                for sent, entry in enumerate(found):
                    if entry_order(entry.entry_id)[0] - 1 > last or viewer.done.done():
                        return
                    async with asyncio.timeout(STALL_S):
                        await socket.send_str(frame_json(decode_frame(entry.raw)).decode())
                    if sent % _SLICE == 0:
                        await asyncio.sleep(0)
        except SetBack:
            viewer.close(SET_BACK)
        except TimeoutError:
            viewer.close(CLIENT_STALLED)
        except (RedisAway, RedisRefuses, SessionGone, Malformed, ConnectionError):
            return


def known_cut(text: str | None, first: int | None) -> str | None:
    """The parameter `cut`. Raises Refused where it is not an entry id, or where there is no `from`."""
    if text is not None and (first is None or len(text) > _MOST_ID_CHARS or not is_entry_id(text)):
        raise Refused(
            "bad_cut", "cut must be that of the frame before from: send both as they were received, or neither."
        )
    return text
