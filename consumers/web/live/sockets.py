"""What every WebSocket here has in common: the upgrade, an ear for a client that has nothing to say, and a goodbye.

What a client says is read, so that its pings and its goodbye are heard, and ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aiohttp import web

from consumers.web.live.packets import websocket_close
from consumers.web.live.viewers import Goodbye
from schemas.errors import Refused

# Each may hold 0.2 MB of buffers in the kernel and here: 200 MB.
MOST_CLIENTS = 1_000
# Clients have nothing to say here: more than this closes the socket (1009).
_MOST_FROM_CLIENT_BYTES = 1_024
# A client that answers no ping within half of this again is gone.
_PING_S = 20.0
# What a client has to take its last frames and the goodbye, before the connection is torn down.
_GOODBYE_S = 5.0
# A close frame holds 125 bytes, two of them the code.
_MOST_REASON_BYTES = 123


class Clients:
    """How many watch, whatever they watch."""

    def __init__(self) -> None:
        self.count = 0
        self.refused = 0

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place for one more. Raises Refused where there is none."""
        if self.count >= MOST_CLIENTS:
            self.refused += 1
            raise Refused("too_many_clients", f"{MOST_CLIENTS} clients watch already: close one of them.", status=503)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


def new_socket(request: web.Request) -> web.WebSocketResponse:
    """Not yet upgraded. Raises Refused for a request that is none for a WebSocket."""
    socket = web.WebSocketResponse(
        timeout=_GOODBYE_S,
        autoclose=False,
        heartbeat=_PING_S,
        compress=False,
        max_msg_size=_MOST_FROM_CLIENT_BYTES,
    )
    if not socket.can_prepare(request):
        raise Refused("no_websocket", "This address speaks WebSocket only.", status=426)
    return socket


class Upgraded:
    """A socket that is open: the transport to write whole messages to, and a task that ends when the client goes.

    aiohttp's own close() ends the connection without waiting for the client's close frame while another task reads. A
    client that finds both at once cannot answer, and takes the end for a break (1006).
    """

    def __init__(self, transport: asyncio.WriteTransport, socket: web.WebSocketResponse) -> None:
        self.transport, self._socket = transport, socket
        self._has_closed = False
        self.hearing = asyncio.create_task(self._hear())

    async def say_goodbye(self, goodbye: Goodbye) -> None:
        """Closes the socket with the reason, and waits for the client's answer for a while."""
        reason = goodbye.reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()
        self._close(goodbye.code, reason)
        await asyncio.wait({self.hearing}, timeout=_GOODBYE_S)

    async def _hear(self) -> None:
        """Ignores what the client says, and answers its close frame."""
        async for _ in self._socket:
            pass
        if not self._socket.closed:  # else aiohttp has closed it: the client sent too much, or answers no ping
            self._close(self._socket.close_code or 1000, b"")

    def _close(self, code: int, reason: bytes) -> None:
        if not (self._has_closed or self.transport.is_closing()):
            self._has_closed = True
            self.transport.write(websocket_close(code, reason))


@contextlib.asynccontextmanager
async def upgraded(request: web.Request, socket: web.WebSocketResponse) -> AsyncIterator[Upgraded]:
    """The socket, once it is open. The connection is gone when this is left."""
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client went during the upgrade")
    client = Upgraded(transport, socket)
    try:
        yield client
    finally:
        # Never cancel what may wait for the socket: aiohttp then fails every later write to it. The end of the
        # connection ends the task; a mere close() would wait for a peer that reads nothing.
        transport.abort()
        await asyncio.gather(client.hearing, return_exceptions=True)


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Waits until one of them is done; ends none of the others."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
