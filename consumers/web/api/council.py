"""The council itself over HTTP: its processes and their losses, its health, its versions, and the API's description."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from consumers.web.api.openapi import document
from consumers.web.api.operations import Operation
from consumers.web.api.replies import CouncilStatus, Healthy, Readiness, Versions
from consumers.web.door.errors import error_response, json_response, model_response
from runtime.presence import RedisPresence
from schemas.frames import FRAME_VERSION
from schemas.sessions import ENTRY_VERSION
from transport.redis.connection import AsyncPipe
from transport.sessions import new_session_id, refused, require_room
from transport.status import read_status, what_is_missing

# Made by docs/asyncapi.py.
_ASYNCAPI = Path(__file__).with_name("asyncapi.json")


class CouncilApi:
    """The handlers. `others` are all other operations, for the OpenAPI document."""

    def __init__(self, pipe: AsyncPipe, presence: RedisPresence, version: str, others: Sequence[Operation]) -> None:
        self._pipe, self._presence, self._version = pipe, presence, version
        self._document = document([*others, *self.operations()], version)

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET", "/api/status", self._status, "show_status", "Council", "Show the council's state",
                "The processes with their losses, the open sessions with their lag, and Redis's memory.", CouncilStatus,
            ),
            Operation(
                "GET", "/api/asyncapi.json", self._describe_streams, "describe_streams", "Council",
                "Show the description of the streams",
                "The description of the streams in Redis and of the sockets, as AsyncAPI 3.0.", dict,
            ),
            Operation(
                "GET", "/api/version", self._show_version, "show_version", "Council", "Show the versions",
                "The versions of this council, of its frames and entries, and of Python.", Versions,
            ),
            Operation(
                "GET", "/api/openapi.json", self._describe, "describe_api", "Council", "Show this description",
                "The description of the HTTP API, as OpenAPI 3.1.", dict,
            ),
            Operation(
                "GET", "/healthz", self._health, "check_health", "Council", "Check that this process answers",
                "For supervisors and load balancers. It requires no token.", Healthy,
            ),
            Operation(
                "GET", "/readyz", self._readiness, "check_readiness", "Council",
                "Check that a new session would be answered",
                "200 if Redis, a model, an aggregator and DECIPHER run; else 503, with the reason for clients with the "
                "token. It requires no token.", Readiness,
            ),
        ]  # fmt: skip

    async def _status(self, request: web.Request) -> web.Response:
        return model_response(CouncilStatus.model_validate(await read_status(self._pipe)))

    async def _show_version(self, request: web.Request) -> web.Response:
        return model_response(
            Versions(
                version=self._version,
                frame_version=FRAME_VERSION,
                entry_version=ENTRY_VERSION,
                python=platform.python_version(),
            )
        )

    async def _describe(self, request: web.Request) -> web.Response:
        return json_response(self._document)

    async def _describe_streams(self, request: web.Request) -> web.Response:
        return web.Response(body=_ASYNCAPI.read_bytes(), content_type="application/json")

    async def _health(self, _request: web.Request) -> web.Response:
        return model_response(Healthy(ok=True))

    async def _readiness(self, _request: web.Request) -> web.Response:
        """Raises RedisAway, RedisRefuses, Refused where Redis is full: 503."""
        if (refusal := self._presence.refusal) is not None:
            raise refused(refusal)
        await require_room(self._pipe, new_session_id())
        if missing := await what_is_missing(self._pipe):
            return error_response(503, "not_ready", f"The council is not ready: {', '.join(missing)}.")
        return model_response(Readiness(ready=True))
