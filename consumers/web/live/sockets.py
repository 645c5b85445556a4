"""What all WebSockets here share: the upgrade, reading what the client sends, and the close.

Messages of a client are ignored; they are read so that its pings and its close frame are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiohttp import web

from consumers.web.live.packets import websocket_close
from consumers.web.live.viewers import CloseReason
from schemas.errors import Refused

# Each may use 0.2 MB of buffers in the kernel and in this process: 200 MB.
MOST_CLIENTS = 1_000
# Clients have no reason to send anything: a longer message closes the socket (1009).
_MOST_FROM_CLIENT_BYTES = 1_024
# A client that does not answer a ping within half of this is disconnected.
_PING_S = 20.0
# How long a client has to receive its last frames and the close frame, before the connection is aborted.
_CLOSE_S = 5.0
# A close frame has at most 125 bytes, two of them the code.
_MOST_REASON_BYTES = 123


class Clients:
    """Counts the clients of all sessions and kinds."""

    def __init__(self) -> None:
        self.count = 0
        self.refused = 0

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts one more client inside the `with`. Raises Refused when there are too many."""
        if self.count >= MOST_CLIENTS:
            self.refused += 1
            raise Refused("too_many_clients", f"{MOST_CLIENTS} clients watch already: close one of them.", status=503)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


def new_socket(request: web.Request) -> web.WebSocketResponse:
    """A socket that is not upgraded yet. Raises Refused for a request that is not a WebSocket handshake."""
    socket = web.WebSocketResponse(
        timeout=_CLOSE_S,
        autoclose=False,
        heartbeat=_PING_S,
        compress=False,
        max_msg_size=_MOST_FROM_CLIENT_BYTES,
    )
    if not socket.can_prepare(request):
        raise Refused("no_websocket", "This address speaks WebSocket only.", status=426)
    return socket


class OpenSocket:
    """An open WebSocket: `transport` takes whole messages, and the task `receiving` ends when the client disconnects.

    aiohttp's own close() ends the connection without waiting for the client's close frame while another task reads. A
    client that receives both at once cannot answer, and reports a broken connection (1006).
    """

    def __init__(self, transport: asyncio.WriteTransport, socket: web.WebSocketResponse) -> None:
        self.transport, self._socket = transport, socket
        self._has_closed = False
        self.receiving = asyncio.create_task(self._receive())

    async def close(self, close_reason: CloseReason) -> None:
        """Sends a close frame with the reason, and waits up to _CLOSE_S for the client's."""
        reason = close_reason.reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()
        self._send_close(close_reason.code, reason)
        await asyncio.wait({self.receiving}, timeout=_CLOSE_S)

    async def _receive(self) -> None:
        """Ignores the client's messages, and answers its close frame."""
        async for _ in self._socket:
            pass
        if not self._socket.closed:  # else aiohttp has closed it: a message was too long, or a ping was not answered
            self._send_close(self._socket.close_code or 1000, b"")

    def _send_close(self, code: int, reason: bytes) -> None:
        if not (self._has_closed or self.transport.is_closing()):
            self._has_closed = True
            self.transport.write(websocket_close(code, reason))


@contextlib.asynccontextmanager
async def upgraded(request: web.Request, socket: web.WebSocketResponse) -> AsyncIterator[OpenSocket]:
    """Upgrades the socket and returns it open. On leaving the `with` the connection is aborted."""
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client disconnected during the upgrade")
    client = OpenSocket(transport, socket)
    try:
        yield client
    finally:
        # A task that may wait for the socket must not be cancelled: aiohttp then fails every later write to it. The
        # end of the connection ends the task; close() alone would wait for a client that reads nothing.
        transport.abort()
        await asyncio.gather(client.receiving, return_exceptions=True)


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Waits until one of them is done; the others go on."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
