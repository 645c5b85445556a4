"""The OpenAPI 3.1 description of the HTTP API, from the table of operations and the models of bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_args

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from consumers.web.api.operations import Operation, Shape, Tag

_REF = "#/components/schemas/"
_STRING = {"type": "string"}
_IN_PATH = {
    "session": "The session's id.",
    "member": "The member's index, name or id, percent-encoded.",
    "model": "The model's name, percent-encoded, or its id.",
    "name": "The recording's file name, percent-encoded.",
}
_TAGS: Mapping[Tag, str] = {
    "Sessions": "Ask the council; list, show, cancel and delete its sessions; read their tokens and events.",
    "What-if": "Put another text into an answer, and let all members continue from there.",
    "Recordings": "The library of recorded sessions.",
    "Replays": "Play a recording as a session.",
    "Models": "The models that the council serves, and which of them are in memory.",
    "Council": "The council's processes, health and versions.",
    "OpenAI-compatible": "The operations of OpenAI's API that a council has.",
}
# The errors that every operation may return.
_EVERYWHERE = (400, 401, 403, 429, 500, 503)
_INTRODUCTION = """The Local Council: several language models on this machine answer one prompt at the same time. A \
token is required only if the council was started with one. Live data: the WebSockets /frames?session=ID (frames, see \
docs/frames.md) and /ws (the real-time protocol, see docs/protocol.md)."""


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    used = {one.tag for one in operations}
    for one in operations:
        paths.setdefault(one.shown_path, {})[one.method.lower()] = _described(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Turbo Ensemble: the Local Council", "version": version, "description": _INTRODUCTION},
        "tags": [{"name": tag, "description": _TAGS[tag]} for tag in get_args(Tag) if tag in used],
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
    refusals = sorted({*_EVERYWHERE, *one.refusals})
    bodies: dict[int, dict[str, Any]] = {one.status: _answer(one)}
    bodies |= {status: _content(shape) for status, shape in one.also.items()}
    bodies |= {status: _json(one.error) for status in refusals}
    described: dict[str, Any] = {
        "operationId": one.name,
        "tags": [one.tag],
        "summary": one.summary,
        "description": one.description,
        "parameters": _parameters(one),
        "responses": {str(status): _response(status, content) for status, content in bodies.items()},
    }
    if one.body is not None:
        described["requestBody"] = {"required": True, "content": _content(one.body)}
    return described


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
            "required": parameter.required,
            "description": parameter.description,
            "schema": parameter.schema,
        }
        for parameter in one.parameters
    ]


def _answer(one: Operation) -> dict[str, Any]:
    """The content of a response."""
    return _content(one.answer) | ({} if one.stream is None else _content(one.stream))


def _response(status: int, content: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    return described | ({"content": content} if content else {})


def _content(body: Shape | None) -> dict[str, Any]:
    """The schema of a body, by its content type."""
    match body:
        case None:
            return {}
        case str() as content_type:
            is_text = content_type.startswith("text/")
            return {content_type: {"schema": _STRING if is_text else _STRING | {"format": "binary"}}}
        case shape:
            return _json(shape)


def _json(shape: type) -> dict[str, Any]:
    """The schema of a body in JSON."""
    schema: Mapping[str, Any] = {"type": "object"} if shape is dict else {"$ref": _REF + shape.__name__}
    return {"application/json": {"schema": schema}}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The schemas of all models, and of the models inside them."""
    sent = [shape for one in operations for shape in (one.answer, one.error) if isinstance(shape, type)]
    received = [one.body for one in operations if isinstance(one.body, type)]
    _, found = models_json_schema(
        [
            *((model, "serialization") for model in _models_in(sent)),
            *((model, "validation") for model in _models_in(received)),
        ],
        ref_template=_REF + "{model}",
    )
    structs = [shape for shape in dict.fromkeys([*sent, *received]) if issubclass(shape, msgspec.Struct)]
    _, parts = msgspec.json.schema_components(structs, ref_template=_REF + "{name}")
    return {name: _optional(schema) for name, schema in found["$defs"].items()} | {
        name: _complete(schema) for name, schema in parts.items()
    }


def _complete(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a struct, which is sent with all its fields."""
    properties = schema.get("properties", {})
    shown = {name: {key: value for key, value in one.items() if key != "default"} for name, one in properties.items()}
    return dict(schema) | ({"properties": shown, "required": list(shown)} if shown else {})


def _optional(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its defaults as sentences: generators of TypeScript require a property that has a default."""
    properties = {name: dict(shown) for name, shown in schema.get("properties", {}).items()}
    for name, shown in properties.items():
        default = shown.pop("default", None)
        # Other defaults, such as null and empty lists, are those of their type.
        if default and name not in schema.get("required", ()):
            shown["description"] = f"{shown.get('description', '')} Default: {default}.".strip()
    return dict(schema) | ({"properties": properties} if properties else {})


def _models_in(shapes: Sequence[type]) -> list[type[BaseModel]]:
    return [shape for shape in dict.fromkeys(shapes) if issubclass(shape, BaseModel)]
