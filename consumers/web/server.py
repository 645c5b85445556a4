"""The web process: one aiohttp application on one listening socket, from its first request to its last goodbye."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from aiohttp import web
from structlog.stdlib import BoundLogger

from consumers.web.api import Api
from consumers.web.errors import errors_as_json
from consumers.web.feeds import Feeds
from consumers.web.guard import add_security_headers, guard
from consumers.web.models_api import ModelsApi
from consumers.web.page import page_routes
from consumers.web.sockets import show_frames
from consumers.web.tokens_api import TokensApi
from schemas.sessions import Limits
from schemas.tiers import TierPolicy
from transport.connection import AsyncPipe
from transport.presence import RedisPresence
from transport.process import Standing, keep_record

# A prompt of 32 KiB, a system text and JSON's escapes.
_MOST_BODY_BYTES = 64 * 1024
# SIGTERM to exit: this for the record, twice this for requests and sockets, under two seconds in all.
_GOODBYE_S = 0.5
# What the kernel holds for a client that does not read: left to itself it holds megabytes and hides who is behind.
_SEND_BUFFER_BYTES = 128 * 1024


class WebServer:
    """Serves until `stopping` is set."""

    def __init__(
        self,
        url: str,
        standing: Standing,
        log: BoundLogger,
        tier: TierPolicy,
        tiers: Mapping[str, TierPolicy],
        limits: Limits,
        bound_host: str,
    ) -> None:
        self._url, self._pipe, self._standing, self._log = url, AsyncPipe(url), standing, log
        self._presence = RedisPresence(log)
        self._feeds = Feeds(url, self._pipe, self._presence, log)
        self._api = Api(self._pipe, tier, tiers, limits)
        self._models = ModelsApi(self._pipe, tier)
        self._tokens = TokensApi(self._pipe)
        self._bound_host = bound_host

    async def run(self, listening: socket.socket, stopping: asyncio.Event) -> None:
        """Takes `listening` over; a copy of it that another process holds goes on listening."""
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_GOODBYE_S)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        self._standing.ready = True
        record = asyncio.create_task(keep_record(self._url, self._standing, self._presence, self._facts))
        try:
            await stopping.wait()
        finally:
            record.cancel()
            await asyncio.wait([record], timeout=_GOODBYE_S)
            await runner.cleanup()
            await self._pipe.close()

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[errors_as_json(self._log), guard(self._bound_host)], client_max_size=_MOST_BODY_BYTES
        )
        application.add_routes(
            [
                *self._api.routes(),
                *self._models.routes(),
                *self._tokens.routes(),
                web.get("/frames", self._show_frames),
                *page_routes(),
            ]
        )
        application.on_response_prepare.append(add_security_headers)
        application.on_shutdown.append(self._dismiss_all)
        return application

    async def _show_frames(self, request: web.Request) -> web.StreamResponse:
        return await show_frames(request, self._feeds)

    async def _dismiss_all(self, _application: web.Application) -> None:
        self._feeds.stop()

    def _facts(self) -> dict[str, int]:
        return {"clients": self._feeds.viewer_count, "too_slow": self._feeds.too_slow}
