"""The connections: at most as many as there are file descriptors, and idle ones are closed.

    accept --> idle, the oldest first --request--> busy --the whole response is sent--> idle …
                 | no complete request head after IDLE_S: closed
                 | too many connections: the one that has been idle for the longest is closed for the new one

Bytes that are not HTTP are answered as all errors are, in JSON.

This module uses parts of aiohttp that its documentation does not describe: RequestHandler.finish_response and
handle_error, and Server.request_handler. pyproject.toml bounds aiohttp to the versions with which
tests/consumers/web/door/test_aiohttp.py passes.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from typing import cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from consumers.web.door.errors import error_response
from consumers.web.door.guard import SECURITY_HEADERS, SERVER

# Also the limit for a request head that is sent slowly.
IDLE_S = 10.0
# A thousand clients that watch, and more that ask.
_MOST_CONNECTIONS = 4_096
# For Redis, the log, the page's files, and files that Python opens.
_OTHER_DESCRIPTORS = 128
# The kernel's buffer for a client that does not read. By default it grows to megabytes and hides that a client is slow.
_SEND_BUFFER_BYTES = 128 * 1024
# A client that acknowledges no byte of a response for so long is disconnected.
_USER_TIMEOUT_MS = 30_000

# aiohttp's own log lines contain text of the client's request, which may contain a token.
_NO_LOG = logging.getLogger("council.web.disabled")
_NO_LOG.disabled = True


class Connections:
    """All open connections. `refused` counts those that were closed because there were too many."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most or _connection_limit()
        self.refused = 0
        self._idle: dict[web.RequestHandler, asyncio.Transport] = {}
        self._busy: dict[web.RequestHandler, asyncio.Transport] = {}

    @property
    def count(self) -> int:
        return len(self._idle) + len(self._busy)

    def admit(self, connection: web.RequestHandler, transport: asyncio.Transport) -> bool:
        """Adds the connection; closes the oldest idle one if there are too many. False if none is idle."""
        if self.count >= self.most:
            self.refused += 1
            if not self._idle:
                return False
            oldest = next(iter(self._idle))
            self._idle.pop(oldest).abort()
        self._idle[connection] = transport
        return True

    def forget(self, connection: web.RequestHandler) -> None:
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)

    def rest(self, connection: web.RequestHandler) -> None:
        """The whole response was given to the transport: the connection is idle again."""
        if (transport := self._busy.pop(connection, None)) is not None:
            self._idle[connection] = transport

    @property
    def middleware(self) -> Middleware:
        """Marks the connection as busy while its request is answered."""

        @web.middleware
        async def mark_busy(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (transport := self._idle.pop(request.protocol, None)) is not None:
                self._busy[request.protocol] = transport
            return await handler(request)

        return mark_busy

    async def listen(self, server: web.Server, listening: socket.socket) -> asyncio.Server:
        """Accepts connections from now on."""
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        loop, handle = asyncio.get_running_loop(), server.request_handler

        async def handle_without_expect(request: web.BaseRequest) -> web.StreamResponse:
            # aiohttp answers `Expect` before any middleware has checked the request.
            if hdrs.EXPECT in request.headers:
                return _plain_error(417, "no_expectations", "Send the request without 'Expect'.", request.path)
            return await handle(request)

        server.request_handler = handle_without_expect
        return await loop.create_server(lambda: _Connection(self, server, loop), sock=listening)


class _Connection(web.RequestHandler):
    """One connection to a client."""

    def __init__(self, connections: Connections, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server, loop=loop, keepalive_timeout=IDLE_S, logger=_NO_LOG, access_log=_NO_LOG, auto_decompress=False
        )
        self._all = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has all methods of asyncio.Transport, but is not declared as one.
        two_way = cast(asyncio.Transport, transport)
        if self._all.admit(self, two_way):
            super().connection_made(transport)
        else:
            two_way.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.forget(self)
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the response; the connection is busy until the transport has its last byte."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._all.rest(self)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The response to bytes that are not HTTP, and to a request that ends too early: no handler receives these."""
        if status == 400:
            return _plain_error(400, "bad_http", "This is not a valid HTTP request.")
        return _plain_error(status, "internal", "The web server could not answer this request.")


def _plain_error(status: int, code: str, message: str, path: str = "") -> web.Response:
    """An error that passes no middleware; it ends the connection."""
    response = error_response(status, code, message, path)
    response.headers.update({**SECURITY_HEADERS, hdrs.SERVER: SERVER})
    response.force_close()
    return response


def _connection_limit() -> int:
    """How many connections this process can have open, after raising its limit of descriptors as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_DESCRIPTORS
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < raised:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return min(_MOST_CONNECTIONS, max(64, (wanted if soft == resource.RLIM_INFINITY else soft) - _OTHER_DESCRIPTORS))
