"""The web process: one aiohttp application on one listening socket."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from consumers.web.answer_cache import AnswerCache
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
from consumers.web.api.what_if import WhatIfApi
from consumers.web.door.access import Access
from consumers.web.door.connections import Connections
from consumers.web.door.errors import errors_as_json
from consumers.web.door.guard import Guard
from consumers.web.door.limits import limit_requests
from consumers.web.door.origins import Origins, RefusedOrigins
from consumers.web.live.event_stream import EventStream
from consumers.web.live.frames_socket import FramesSocket
from consumers.web.live.newest_session import NewestSession
from consumers.web.live.protocol_client import VERSION
from consumers.web.live.protocol_socket import ProtocolSocket
from consumers.web.live.shared_feeds import SharedFeeds
from consumers.web.live.sockets import Clients
from consumers.web.live.sources import EventSource, FrameSource
from consumers.web.openai.api import OpenAIApi
from consumers.web.page import page_routes
from recordings.folder import Library
from runtime.lifeline import is_supervised
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.registration import keep_record
from schemas.events import protocol_tier
from schemas.rules.tiers import TierPolicy
from schemas.sessions import Limits
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration

# A prompt of 32 KiB, a system text, and the escapes of JSON.
_MOST_BODY_BYTES = 64 * 1024
# From SIGTERM to exit: once for the process record, twice for requests and sockets, under two seconds in all.
_SHUTDOWN_S = 0.5


class WebSettings(msgspec.Struct, frozen=True):
    """The web process's settings. `tier`, one of `tiers`, and `limits` are the defaults of new sessions; `bound_host`
    is the setting host, `library` the recordings; pages of `origins` may do what this server's own page may; without
    `token` every client that reaches the server may use it."""

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
        self._frames = SharedFeeds(url, FrameSource(), self._presence, log)
        self._event_source = EventSource()
        self._events = SharedFeeds(url, self._event_source, self._presence, log)
        self._newest = NewestSession(url, self._pipe, self._presence)
        answers = AnswerCache(self._pipe)
        opener = Opener(self._pipe, settings.tier, settings.tiers, settings.limits)
        library = AsyncLibrary(settings.library)
        self._protocol = ProtocolSocket(
            self._pipe,
            self._events,
            answers,
            self._newest,
            self._clients,
            self._presence,
            protocol_tier(settings.tier.name),
        )
        self._openai = OpenAIApi(self._pipe, opener, self._clients)
        operations = [
            *SessionsApi(self._pipe, answers, library, opener).operations(),
            *WhatIfApi(self._pipe, answers, library, opener).operations(),
            *RecordingsApi(library).operations(),
            *ImportApi(library).operations(),
            *ReplaysApi(self._pipe, library, opener).operations(),
            *TokensApi(self._pipe, answers).operations(),
            *EventStream(self._pipe, self._events, self._clients).operations(),
            *ModelsApi(self._pipe, settings.tier).operations(),
            *self._openai.operations(),
        ]
        operations += CouncilApi(self._pipe, self._presence, VERSION, operations).operations()
        self._routes = [
            *routes_of(operations),
            web.get("/frames", FramesSocket(self._pipe, self._frames, self._clients).show, allow_head=False),
            web.get("/ws", self._protocol.show, allow_head=False),
            *page_routes(),
        ]
        self._connections = Connections()
        # Of a supervised process, the supervisor prints what its record contains.
        self._refused_origins = RefusedOrigins(None if is_supervised() else log)
        self._guard = Guard(settings.bound_host, Origins(settings.origins), self._refused_origins)
        self._token = settings.token

    async def run(self, listening: socket.socket, stopping: asyncio.Event) -> None:
        """Serves on `listening`, and closes it at the end; another process's copy of the socket goes on listening."""
        port = int(listening.getsockname()[1])
        runner = web.AppRunner(self._application(port), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        assert runner.server is not None
        accepting = await self._connections.listen(runner.server, listening)
        self._registration.ready = True
        background = [
            asyncio.create_task(keep_record(self._url, self._registration, self._presence, self._facts)),
            asyncio.create_task(self._newest.run()),
        ]
        # The objects of the start live on; without this each full garbage collection would take 20 ms.
        gc.freeze()
        try:
            await stopping.wait()
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background, timeout=_SHUTDOWN_S)
            accepting.close()
            await runner.cleanup()
            await self._pipe.close()

    def _application(self, port: int) -> web.Application:
        """The middlewares from the outside in: errors, connections, host and origin, rate, token."""
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
        application.on_shutdown.append(self._close_clients)
        return application

    async def _close_clients(self, _application: web.Application) -> None:
        self._protocol.stop()
        self._openai.stop()
        self._frames.stop()
        self._events.stop()

    def _facts(self) -> dict[str, int | str]:
        """The numbers of clients and of losses: frames that slow clients received merged into newer ones, clients that
        were disconnected because they received nothing, clients that were refused because there were too many, entries
        that were not events. The origins whose pages were refused, and the hosts whose requests were."""
        return {
            "clients": self._clients.count,
            "clients_refused": self._clients.refused,
            "connections": self._connections.count,
            "connections_refused": self._connections.refused,
            "clients_too_slow": self._frames.clients_too_slow + self._events.clients_too_slow,
            "frames_merged": self._frames.frames_merged + self._events.frames_merged,
            "events_left_out": self._event_source.invalid,
            **self._refused_origins.facts(),
        }
