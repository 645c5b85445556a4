"""The table of operations: the HTTP API is served and described from the same rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from consumers.web.api.replies import ErrorReply
from consumers.web.door.request import known_parameters

# A body in JSON: a pydantic model or a wire struct.
Model = type[BaseModel] | type[msgspec.Struct]
# A response's body: in JSON, or a content type that is not JSON.
Shape = Model | type[dict[str, Any]] | str
# The groups of operations: documents show them together, and generated clients have a module for each.
Tag = Literal["Sessions", "What-if", "Recordings", "Replays", "Models", "Council", "OpenAI-compatible"]
# In `name:pattern` of a path, only aiohttp uses the pattern.
_PATTERN = re.compile(r":[^}]+")


class Parameter(msgspec.Struct, frozen=True):
    """One parameter, in the query unless `place` is "header". `schema` is its JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any]
    place: str = "query"
    required: bool = False


class Operation(msgspec.Struct, frozen=True):
    """One operation of the API.

    `name` is its operationId, by which generated clients call it: a verb and its object. `answer` is the body of a
    response with the status `status`, None for no body; `stream` is the content type in which the same response is
    sent to a client that asks for it piece by piece; `also` are the bodies of other statuses. `refusals` are the
    statuses of this operation's own errors, `error` is the body of all errors. `body` is the request's body: a model in
    JSON, or a content type.
    """

    method: str
    path: str
    handler: Handler
    name: str
    tag: Tag
    summary: str
    description: str
    answer: Shape | None
    refusals: Sequence[int] = ()
    status: int = 200
    body: Model | str | None = None
    parameters: Sequence[Parameter] = ()
    stream: str | None = None
    also: Mapping[int, Shape | None] = {}
    error: Model = ErrorReply

    @property
    def shown_path(self) -> str:
        """The path without patterns."""
        return _PATTERN.sub("", self.path)


def routes_of(operations: Sequence[Operation]) -> list[web.RouteDef]:
    """The routes of the operations; HEAD is supported for every GET that does not answer with a stream."""
    return [
        web.get(one.path, _checked(one), allow_head=not isinstance(one.answer, str))
        if one.method == "GET"
        else web.route(one.method, one.path, _checked(one))
        for one in operations
    ]


def _checked(one: Operation) -> Handler:
    """The operation's handler, which refuses unknown query parameters below /api/. Probes such as /healthz may have
    any, and clients of other APIs send their own."""
    if not one.path.startswith("/api/"):
        return one.handler
    names = [parameter.name for parameter in one.parameters if parameter.place == "query"]

    async def handle(request: web.Request) -> web.StreamResponse:
        known_parameters(request.query, names)
        return await one.handler(request)

    return handle
