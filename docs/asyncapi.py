"""`python docs/asyncapi.py`: writes consumers/web/api/asyncapi.json, which the web process serves.

It is AsyncAPI 3.0 of all streams in Redis and of the sockets and event streams of the web process, made from the list
of keys and from the structs. Payloads in MessagePack are described as a library decodes them: bytes are strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from event_schemas import complete
from stream_list import KEYS, Key
from wire_structs import DOCS, fields_of, packed_name, packed_schema, summary_of, tag_of, with_inner

from council import __version__
from schemas.events import MESSAGES, Event
from schemas.frame_json import NamedFrame
from schemas.frames import Decision, Frame, MemberFrame, MixtureSpan, MixtureText, TokenFrame

FILE = DOCS.parent / "consumers/web/api/asyncapi.json"
_SCHEMAS, _MESSAGES = "#/components/schemas/", "#/components/messages/"
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_WHOLE = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_SESSION = {"session": {"description": "The session's id."}}
# An address cannot have braces beside those of a parameter, so these are part of the value.
_SESSION_IN_KEY = {
    "session": {"description": "The session's id in braces, which are part of the key.", "examples": ["{3f2a9c01b7de}"]}
}
_EVENTS = {event.__struct_config__.tag for event in Event.__args__}
_INTRODUCTION = """The Local Council: several language models on this machine answer one prompt at the same time. Its \
processes exchange data through Redis Streams, which other programs may read; its web process sends the same frames \
and events to clients. Only read: the HTTP API opens and cancels sessions (/api/openapi.json). A channel whose \
description begins with "Internal" may change with any release. docs/streams.md explains versions, which a reader \
compares first, and how it notices that Redis lost what it had read."""


def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    streams = {_name_of(key): key for key in KEYS if key.kind == "stream"}
    channels = {name: _stream(key) for name, key in streams.items()} | _sockets()
    packed = with_inner(*(struct for key in KEYS for struct in key.structs))
    messages = {packed_name(struct): _packed_message(struct) for key in KEYS for struct in key.structs}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Turbo Ensemble: the Local Council",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0"},
        },
        "servers": {
            "redis": {
                "host": "127.0.0.1:6379",
                "protocol": "redis",
                "description": "The council's Redis, 6.2 or later.",
            },
            "web": {"host": "127.0.0.1:8145", "protocol": "ws", **_ACCESS},
            "http": {"host": "127.0.0.1:8145", "protocol": "http", **_ACCESS},
        },
        "channels": channels,
        "operations": {name: _operation(name, channel) for name, channel in channels.items()},
        "components": {
            "schemas": {packed_name(struct): packed_schema(struct) for struct in packed} | _json_schemas(),
            "messages": messages | _json_messages(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "httpApiKey", "in": "query", "name": "token"},
            },
        },
    }


_ACCESS = {
    "description": "The web process. The token is required only if the council was started with one.",
    "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("bearer", "query")],
}


def _name_of(key: Key) -> str:
    return key.name.rpartition(":")[2]


def _stream(key: Key) -> dict[str, Any]:
    access = "" if key.is_public else "Internal: "
    kept = f" Ids: {key.ids}. Kept: {key.kept}."
    names = [packed_name(struct) for struct in key.structs] or {
        "events": sorted(_EVENTS), "dead": ["dead_letter"],
    }.get(_name_of(key), ["session_id"])  # fmt: skip
    return {
        "address": key.name.replace("{ID}", "{session}"),
        "title": _name_of(key),
        "description": access + _LINK.sub(r"\1", key.content) + "." + _LINK.sub(r"\1", kept).replace("`", ""),
        "servers": [{"$ref": "#/servers/redis"}],
        "messages": _messages(names),
    } | ({"parameters": _SESSION_IN_KEY} if "{ID}" in key.name else {})


def _sockets() -> dict[str, Any]:
    """The channels of the web process."""
    return {
        "frames_socket": {
            "address": "/frames",
            "description": "A WebSocket with each frame of a session as a JSON text message, those of the last ten "
            "seconds first. A client that reads too slowly receives merged frames. Close code 1000 is the end, 1013 "
            "means that the client must forget the session's text and connect again without cut.",
            "servers": [{"$ref": "#/servers/web"}],
            "messages": _messages(["frame"]),
            "bindings": _query(
                ["session"],
                session={**_TEXT, "description": "The session's id."},
                cut={**_TEXT, "description": "The cut of the last frame that the client received."},
                **{"from": {**_WHOLE, "description": "The window from which on frames are sent."}},
            ),
        },
        "protocol_socket": {
            "address": "/ws",
            "description": "A WebSocket with the messages of the real-time protocol: startup_complete, the current "
            "state, each new event, and a heartbeat every 0.9 s. Messages of a client are ignored.",
            "servers": [{"$ref": "#/servers/web"}],
            "messages": _messages(str(message.__struct_config__.tag) for message in MESSAGES),
            "bindings": _query(
                [],
                session={
                    **_TEXT,
                    "description": "The session's id; without it the newest live one, then the next.",
                },
                after={**_WHOLE, "description": "The last frameNumber that the client received."},
            ),
        },
        "event_stream": {
            "address": "/api/sessions/{session}/events",
            "parameters": _SESSION,
            "description": "The session's protocol events as Server-Sent Events (GET), from the first one that is "
            "kept, or the one after the header Last-Event-ID, to the end of the response. data is the message.",
            "servers": [{"$ref": "#/servers/http"}],
            "messages": _messages(sorted(_EVENTS)),
        },
    }


def _query(required: list[str], **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters} | ({"required": required} if required else {})
    return {"ws": {"method": "GET", "query": schema, "bindingVersion": "0.1.0"}}


def _messages(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": _MESSAGES + name} for name in names}


def _operation(name: str, channel: dict[str, Any]) -> dict[str, Any]:
    """The council sends what is in a channel."""
    operation = {"action": "send", "channel": {"$ref": f"#/channels/{name}"}}
    is_http = {"$ref": "#/servers/http"} in channel["servers"]
    return operation | ({"bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}}} if is_http else {})


def _packed_message(struct: type[msgspec.Struct]) -> dict[str, Any]:
    message = {
        "name": tag_of(struct) or struct.__name__,
        "summary": summary_of(struct),
        "contentType": "application/msgpack",
        "payload": {"$ref": _SCHEMAS + packed_name(struct)},
    }
    if struct is not Frame:
        return message
    nonce = {**_TEXT, "description": "The field n of the entry: the nonce of the process that wrote it."}
    return {**message, "headers": {"type": "object", "properties": {"n": nonce}}}


def _json_messages() -> dict[str, Any]:
    """The messages in JSON and in plain text."""
    events = {
        str(message.__struct_config__.tag): {
            "name": str(message.__struct_config__.tag),
            "summary": summary_of(message),
            "contentType": "application/json",
            "payload": {"$ref": _SCHEMAS + message.__name__},
        }
        for message in MESSAGES
    }
    return events | {
        "frame": {
            "name": "frame", "summary": "A frame; docs/frames.md explains its fields.",
            "contentType": "application/json", "payload": {"$ref": f"{_SCHEMAS}Frame"},
        },
        "session_id": {
            "name": "session_id", "summary": "The id of a session, in the field s of the entry.",
            "contentType": "text/plain", "payload": _TEXT,
        },
        "dead_letter": {
            "name": "dead_letter", "summary": "Bytes that are not an entry, in the field e; their id in the field id.",
            "contentType": "application/octet-stream", "payload": {"type": "string", "format": "binary"},
        },
    }  # fmt: skip


def _json_schemas() -> dict[str, Any]:
    """The schemas of events, and of frames in JSON."""
    _, events = msgspec.json.schema_components(MESSAGES, ref_template=_SCHEMAS + "{name}")
    for part in events.values():
        complete(part)
    _, frames = msgspec.json.schema_components([NamedFrame], ref_template=_SCHEMAS + "{name}")
    for struct in (Frame, MemberFrame, TokenFrame, Decision, MixtureSpan, MixtureText):
        part = frames[struct.__name__]
        part["description"] = summary_of(struct)
        for field in [field for inner in with_inner(struct) for field in fields_of(inner)]:
            if field.name in part["properties"]:
                _describe(part["properties"], field.name, field.meaning, field.unit)
    return events | frames


def _describe(properties: dict[str, Any], name: str, meaning: str, unit: str) -> None:
    schema = {"allOf": [properties[name]]} if "$ref" in properties[name] else properties[name]
    schema.setdefault("description", f"{meaning} ({unit})" if unit else meaning)
    properties[name] = schema


def text() -> str:
    return msgspec.json.format(msgspec.json.encode(document()), indent=1).decode() + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
