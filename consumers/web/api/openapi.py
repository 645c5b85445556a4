"""The OpenAPI 3.1 description of the HTTP API, from the table of operations and the models of bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from consumers.web.api.operations import Operation, Shape
from consumers.web.api.replies import ErrorReply

_REF = "#/components/schemas/"
_STRING = {"type": "string"}
_IN_PATH = {
    "session": "The session's id.",
    "member": "The member's index, name or id, percent-encoded.",
    "model": "The model's name, percent-encoded, or its id.",
    "name": "The recording's file name, percent-encoded.",
}
# The errors that every operation may return.
_EVERYWHERE = (400, 401, 403, 429, 500, 503)
_INTRODUCTION = """The Local Council: several language models on this machine answer one prompt at the same time. A \
token is required only if the council was started with one. Live data: the WebSockets /frames?session=ID (frames, see \
docs/frames.md) and /ws (the real-time protocol, see docs/protocol.md)."""


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.shown_path, {})[one.method.lower()] = _described(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Turbo Ensemble: the Local Council", "version": version, "description": _INTRODUCTION},
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
        "security": [{}, {"bearer": []}, {"query": []}],
    }


def _described(one: Operation) -> dict[str, Any]:
    statuses = sorted({*_EVERYWHERE, *one.refusals})
    described: dict[str, Any] = {
        "operationId": _name_of(one),
        "summary": one.summary,
        "parameters": _parameters(one),
        "responses": {str(one.status): _answer(one)} | {str(status): _error(status) for status in statuses},
    }
    if one.body is not None:
        described["requestBody"] = {"required": True, "content": _sent(one.body)}
    return described


def _name_of(one: Operation) -> str:
    """The operationId, for generated clients: the handler's name."""
    return one.handler.__name__.strip("_") + "_" + type(getattr(one.handler, "__self__", one)).__name__.lower()


def _parameters(one: Operation) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "description": description, "schema": _STRING}
        for name, description in _IN_PATH.items()
        if f"{{{name}}}" in one.shown_path
    ]
    return found + [
        {
            "name": parameter.name,
            "in": parameter.place,
            "description": parameter.description,
            "schema": parameter.schema,
        }
        for parameter in one.parameters
    ]


def _answer(one: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(one.status).phrase}
    match one.answer:
        case None:
            pass
        case str() as content_type:
            described["content"] = {content_type: {"schema": _STRING}}
        case shape:
            described["content"] = _json(shape)
    return described


def _error(status: int) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": _json(ErrorReply)}


def _sent(body: type[BaseModel] | str) -> dict[str, Any]:
    if isinstance(body, str):
        return {body: {"schema": {"type": "string", "format": "binary"}}}
    return _json(body)


def _json(shape: type) -> dict[str, Any]:
    schema: Mapping[str, Any] = {"type": "object"} if shape is dict else {"$ref": _REF + shape.__name__}
    return {"application/json": {"schema": schema}}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The schemas of all models, and of the models inside them."""
    sent: list[Shape] = [ErrorReply, *(one.answer for one in operations if isinstance(one.answer, type))]
    received = [one.body for one in operations if isinstance(one.body, type)]
    models = dict.fromkeys(shape for shape in sent if isinstance(shape, type) and issubclass(shape, BaseModel))
    _, found = models_json_schema(
        [*((model, "serialization") for model in models), *((model, "validation") for model in received)],
        ref_template=_REF + "{model}",
    )
    structs = [shape for shape in sent if isinstance(shape, type) and issubclass(shape, msgspec.Struct)]
    _, parts = msgspec.json.schema_components(structs, ref_template=_REF + "{name}")
    return {**found["$defs"], **parts}
