"""The table of operations: what the HTTP API does is served and described from the same lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

# What an answer's body is: a pydantic model or a wire struct, or a content type that is not JSON.
Shape = type[BaseModel] | type[msgspec.Struct] | type[dict[str, Any]] | str
# `name:pattern` in a path: the pattern is aiohttp's business alone.
_PATTERN = re.compile(r":[^}]+")


class Parameter(msgspec.Struct, frozen=True):
    """One parameter, in the query unless `place` says header. `schema` is its JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any]
    place: str = "query"


class Operation(msgspec.Struct, frozen=True):
    """One thing that a client may ask for. `answer` is what comes with the status `status` when all is well, None for
    no body; `refusals` are the statuses of errors that are its own; `body` is what is sent: a model in
    JSON, or a content type."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Shape | None
    refusals: Sequence[int] = ()
    status: int = 200
    body: type[BaseModel] | str | None = None
    parameters: Sequence[Parameter] = ()

    @property
    def shown_path(self) -> str:
        """The path as a person reads it."""
        return _PATTERN.sub("", self.path)


def routes_of(operations: Sequence[Operation]) -> list[web.RouteDef]:
    """The same as aiohttp serves them; where a GET answers as a whole, HEAD is answered too."""
    return [
        web.get(one.path, one.handler, allow_head=not isinstance(one.answer, str))
        if one.method == "GET"
        else web.route(one.method, one.path, one.handler)
        for one in operations
    ]
