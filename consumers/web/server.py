"""The web process: one aiohttp application on one listening socket, from its first request to its last goodbye."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from consumers.web.answering import Answering
from consumers.web.api.council import CouncilApi
from consumers.web.api.importing import ImportApi
from consumers.web.api.library import AsyncLibrary
from consumers.web.api.models import ModelsApi
from consumers.web.api.opening import Opener
from consumers.web.api.operations import routes_of
from consumers.web.api.recordings import RecordingsApi
from consumers.web.api.replays import ReplaysApi
from consumers.web.api.sessions import SessionsApi
from consumers.web.api.tokens import TokensApi
from consumers.web.door.access import Access
from consumers.web.door.connections import Connections
from consumers.web.door.errors import errors_as_json
from consumers.web.door.guard import Guard
from consumers.web.door.limits import limit_requests
from consumers.web.live.event_stream import EventStream
from consumers.web.live.frames_socket import FramesSocket
from consumers.web.live.newest import Newest
from consumers.web.live.protocol_client import VERSION
from consumers.web.live.protocol_socket import ProtocolSocket
from consumers.web.live.sockets import Clients
from consumers.web.live.sources import Events, Frames
from consumers.web.live.watching import Watched
from consumers.web.page import page_routes
from recordings.folder import Library
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.registration import keep_record
from schemas.events import protocol_tier
from schemas.rules.tiers import TierPolicy
from schemas.sessions import Limits
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration

# A prompt of 32 KiB, a system text and JSON's escapes.
_MOST_BODY_BYTES = 64 * 1024
# SIGTERM to exit: this for the record, twice this for requests and sockets, under two seconds in all.
_GOODBYE_S = 0.5


class WebSettings(msgspec.Struct, frozen=True):
    """What a person decides. `tier`, one of `tiers`, and `limits` are for sessions that do not say otherwise;
    `bound_host` is the address as it was given, `library` the recordings; pages of `origins` may do what our own may;
    without `token` everybody may who reaches the server."""

    tier: TierPolicy
    tiers: Mapping[str, TierPolicy]
    limits: Limits
    bound_host: str
    library: Library
    origins: Sequence[str] = ()
    token: str | None = None


class WebServer:
    """Serves until `stopping` is set."""

    def __init__(self, url: str, registration: ProcessRegistration, log: Log, settings: WebSettings) -> None:
        self._url, self._pipe, self._registration, self._log = url, AsyncPipe(url), registration, log
        self._presence = RedisPresence(log)
        self._clients = Clients()
        self._frames = Watched(url, Frames(), self._presence, log)
        self._event_source = Events()
        self._events = Watched(url, self._event_source, self._presence, log)
        self._newest = Newest(url, self._pipe, self._presence)
        answering, opener = Answering(self._pipe), Opener(self._pipe)
        library = AsyncLibrary(settings.library)
        self._protocol = ProtocolSocket(
            self._pipe,
            self._events,
            answering,
            self._newest,
            self._clients,
            self._presence,
            protocol_tier(settings.tier.name),
        )
        operations = [
            *SessionsApi(
                self._pipe, answering, library, opener, settings.tier, settings.tiers, settings.limits
            ).operations(),
            *RecordingsApi(library).operations(),
            *ImportApi(library).operations(),
            *ReplaysApi(self._pipe, library, opener).operations(),
            *TokensApi(self._pipe, answering).operations(),
            *EventStream(self._pipe, self._events, self._clients).operations(),
            *ModelsApi(self._pipe, settings.tier).operations(),
        ]
        operations += CouncilApi(self._pipe, VERSION, operations).operations()
        self._routes = [
            *routes_of(operations),
            web.get("/frames", FramesSocket(self._pipe, self._frames, self._clients).show, allow_head=False),
            web.get("/ws", self._protocol.show, allow_head=False),
            *page_routes(),
        ]
        self._connections = Connections()
        self._guard = Guard(settings.bound_host, settings.origins)
        self._token = settings.token

    async def run(self, listening: socket.socket, stopping: asyncio.Event) -> None:
        """Takes `listening` over; a copy of it that another process holds goes on listening."""
        port = int(listening.getsockname()[1])
        runner = web.AppRunner(self._application(port), access_log=None, shutdown_timeout=_GOODBYE_S)
        await runner.setup()
        assert runner.server is not None
        accepting = await self._connections.listen(runner.server, listening)
        self._registration.ready = True
        background = [
            asyncio.create_task(keep_record(self._url, self._registration, self._presence, self._facts)),
            asyncio.create_task(self._newest.run()),
        ]
        # What has been made until now stays; looking at it again and again would stop everything for 20 ms.
        gc.freeze()
        try:
            await stopping.wait()
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background, timeout=_GOODBYE_S)
            accepting.close()
            await runner.cleanup()
            await self._pipe.close()

    def _application(self, port: int) -> web.Application:
        """From the outside in: errors become answers; from where; how often; who."""
        middlewares = [
            errors_as_json(self._log),
            self._connections.middleware,
            self._guard.middleware,
            limit_requests(),
        ]
        routes = [*self._routes]
        if self._token is not None:
            access = Access(self._token, port)
            middlewares.append(access.middleware)
            routes += access.routes()
        application = web.Application(middlewares=middlewares, client_max_size=_MOST_BODY_BYTES)
        application.add_routes(routes)
        application.on_response_prepare.append(self._guard.add_headers)
        application.on_shutdown.append(self._dismiss_all)
        return application

    async def _dismiss_all(self, _application: web.Application) -> None:
        self._protocol.stop()
        self._frames.stop()
        self._events.stop()

    def _facts(self) -> dict[str, int]:
        """How many watch, and every kind of loss: frames that slow clients got merged into newer ones, clients sent
        away because they took nothing, clients refused because there were too many, entries that were no events."""
        return {
            "clients": self._clients.count,
            "clients_refused": self._clients.refused,
            "connections": self._connections.count,
            "connections_refused": self._connections.refused,
            "clients_too_slow": self._frames.too_slow + self._events.too_slow,
            "frames_merged": self._frames.skipped + self._events.skipped,
            "events_left_out": self._event_source.strange,
        }
