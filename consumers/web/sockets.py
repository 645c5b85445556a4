"""`/frames?session=ID`: a session's frames as JSON text messages, oldest first, until the final one.

What a client says is read, so that its pings and its goodbye are heard, and ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiohttp import WSMsgType, web

from consumers.web.feeds import TOO_SLOW, Feeds, Goodbye, Viewer
from schemas.errors import Refused

# Clients have nothing to say here: more than this closes the socket (1009).
_MOST_FROM_CLIENT_BYTES = 1_024
# A client that answers no ping within half of this again is gone.
_HEARTBEAT_S = 20.0
# What a client has to take its last frames and the goodbye, before the connection is torn down.
_GOODBYE_S = 5.0
# A close frame holds 125 bytes, two of them the code.
_MOST_REASON_BYTES = 123


async def show_frames(request: web.Request, feeds: Feeds) -> web.WebSocketResponse:
    """Sends the frames of the session in the query. Raises Refused, SessionGone and RedisAway before the upgrade."""
    session = request.query.get("session", "")
    if not session:
        raise Refused("no_session", "The session is missing: ask for /frames?session=ID.")
    socket = web.WebSocketResponse(
        timeout=_GOODBYE_S, heartbeat=_HEARTBEAT_S, compress=False, max_msg_size=_MOST_FROM_CLIENT_BYTES
    )
    if not socket.can_prepare(request):
        raise Refused("no_websocket", "This address speaks WebSocket only.", status=426)
    viewer = await feeds.join(session)
    tasks: list[asyncio.Task[Any]] = []
    try:
        await socket.prepare(request)
        sending = asyncio.create_task(viewer.send_all(lambda line: socket.send_frame(line, WSMsgType.TEXT)))
        hearing = asyncio.create_task(_ignore_messages(socket))
        tasks = [sending, hearing]
        if goodbye := await _first_reason(sending, hearing, viewer):
            feeds.too_slow += goodbye is TOO_SLOW
            await _say(goodbye, socket)
    finally:
        feeds.leave(session, viewer)
        # Never cancel what may wait for the socket: aiohttp then fails every later write to it, the goodbye too. The
        # end of the connection ends both tasks; a mere close() would wait for a peer that reads nothing.
        if request.transport is not None:
            request.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
    return socket


async def _first_reason(sending: asyncio.Task[Goodbye], hearing: asyncio.Task[None], viewer: Viewer) -> Goodbye | None:
    """Waits until there is a reason to stop; None where the client went by itself."""
    reasons: set[asyncio.Future[Any]] = {sending, hearing, viewer.cut_off}
    await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
    if viewer.cut_off.done():
        return viewer.cut_off.result()
    if hearing.done() or sending.exception() is not None:
        return None
    return sending.result()


async def _ignore_messages(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


async def _say(goodbye: Goodbye, socket: web.WebSocketResponse) -> None:
    reason = goodbye.reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_GOODBYE_S):
            await socket.close(code=goodbye.code, message=reason)
