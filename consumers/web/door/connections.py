"""The connections: as many as there are descriptors for, the idle ones short-lived, and no way to hang on to one.

    accept --> idle, from the oldest on --request--> busy --all of the answer is sent--> idle …
                 | a request's head has not come after IDLE_S: closed
                 | there are too many: the one that has been idle for the longest is closed for the new one

What comes over them that is no HTTP is answered as every error is, in JSON.
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

# Also for a head that dribbles in.
IDLE_S = 10.0
# A thousand watch, and as many ask.
_MOST_CONNECTIONS = 4_096
# For Redis, the log, the page's files, and what Python opens meanwhile.
_OTHER_DESCRIPTORS = 128
# What the kernel holds for a client that does not read: left to itself it holds megabytes and hides who is behind.
_SEND_BUFFER_BYTES = 128 * 1024
# After this a client that takes nothing of an answer loses its connection.
_TAKES_NOTHING_MS = 30_000

# Whatever aiohttp would log of a request holds what a stranger sent, and may hold a token.
_SILENCE = logging.getLogger("council.web.silence")
_SILENCE.disabled = True


class Connections:
    """All that are open. `refused` counts those that were closed because there were too many."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most or _as_many_as_may_be()
        self.refused = 0
        self._idle: dict[web.RequestHandler, asyncio.Transport] = {}
        self._busy: dict[web.RequestHandler, asyncio.Transport] = {}

    @property
    def count(self) -> int:
        return len(self._idle) + len(self._busy)

    def admit(self, connection: web.RequestHandler, transport: asyncio.Transport) -> bool:
        """Whether there is room, or somebody idle who makes room."""
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
        """The whole of an answer is on its way."""
        if (transport := self._busy.pop(connection, None)) is not None:
            self._idle[connection] = transport

    @property
    def middleware(self) -> Middleware:
        """Knows whose request is being answered."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (transport := self._idle.pop(request.protocol, None)) is not None:
                self._busy[request.protocol] = transport
            return await handler(request)

        return note

    async def listen(self, server: web.Server, listening: socket.socket) -> asyncio.Server:
        """Accepts from now on."""
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING_MS)
        loop, handle = asyncio.get_running_loop(), server.request_handler

        async def handle_unexpectant(request: web.BaseRequest) -> web.StreamResponse:
            # aiohttp answers `Expect` before anybody has looked at who asks.
            if hdrs.EXPECT in request.headers:
                return _plain_error(417, "no_expectations", "Send the request without 'Expect'.")
            return await handle(request)

        server.request_handler = handle_unexpectant
        return await loop.create_server(lambda: _Connection(self, server, loop), sock=listening)


class _Connection(web.RequestHandler):
    """One connection."""

    def __init__(self, connections: Connections, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server, loop=loop, keepalive_timeout=IDLE_S, logger=_SILENCE, access_log=_SILENCE, auto_decompress=False
        )
        self._all = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own is one without saying so.
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
        """Sends it; until its last byte is the transport's, the connection is busy."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._all.rest(self)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """For what no handler ever sees: bytes that are no HTTP, and a request's end in between."""
        if status == 400:
            return _plain_error(400, "bad_http", "This is no HTTP request that this server understands.")
        return _plain_error(status, "internal", "The web server could not answer this request.")


def _plain_error(status: int, code: str, message: str) -> web.Response:
    """What no middleware has a hand in; the connection ends with it."""
    response = error_response(status, code, message)
    response.headers.update({**SECURITY_HEADERS, hdrs.SERVER: SERVER})
    response.force_close()
    return response


def _as_many_as_may_be() -> int:
    """As many connections as this process may have open; the limit is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_DESCRIPTORS
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < raised:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return min(_MOST_CONNECTIONS, max(64, (wanted if soft == resource.RLIM_INFINITY else soft) - _OTHER_DESCRIPTORS))
