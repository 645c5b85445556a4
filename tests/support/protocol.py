"""Messages of the real-time protocol, each checked against the published JSON Schemas."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema_rs

from schemas.events import (
    ENSEMBLE,
    Coordinate,
    EnergyField,
    EnergyPayload,
    EnergyUpdate,
    ErrorEvent,
    Event,
    FieldPayload,
    ProtocolMessage,
    TokenStream,
    decode_event,
    encode_event,
    frame_number_of,
)
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from transport.events import event_id, events_after
from transport.following import StreamEntry
from transport.redis.connection import AsyncPipe

SCHEMAS = ROOT / "docs" / "protocol"


@functools.cache
def _validators() -> dict[str, Any]:
    found = {}
    for path in SCHEMAS.glob("*.schema.json"):
        schema = json.loads(path.read_text())
        jsonschema_rs.meta.validate(schema)
        found[path.name.removesuffix(".schema.json")] = jsonschema_rs.validator_for(schema)
    return found


def checked(raw: bytes | str) -> ProtocolMessage:
    """The message. Fails unless its published schema allows it and it is encoded as the council encodes it."""
    value = json.loads(raw)
    _validators()[value["type"]].validate(value)
    message = decode_event(raw)
    assert json.loads(encode_event(message)) == value
    return message


def check_all_events(redis: RedisServer) -> int:
    """Checks every event in this Redis; returns how many there are."""
    count = 0
    for key in redis.run("KEYS", "council:*:events"):  # type: ignore[attr-defined]
        for _, fields in redis.run("XRANGE", key, "-", "+"):  # type: ignore[attr-defined]
            checked(fields[1])
            count += 1
    return count


async def events_of(pipe: AsyncPipe, session: str) -> list[tuple[str, Event]]:
    """All events of a session that Redis has, with the ids of their entries."""
    return [(entry.entry_id, checked(entry.raw)) for entry in await _entries(pipe, session)]  # type: ignore[misc]


async def client_events_of(pipe: AsyncPipe, session: str) -> list[tuple[str, Event]]:
    """As events_of, with their ids for clients."""
    return [(event_id(entry), checked(entry.raw)) for entry in await _entries(pipe, session)]  # type: ignore[misc]


async def _entries(pipe: AsyncPipe, session: str) -> list[StreamEntry]:
    found, reader = list[StreamEntry](), events_after(pipe, session)
    while page := await reader.read():
        found += page
    return found


def without_end(events: list[Event]) -> list[Event]:
    """The events without the session's last two, which are checked: energies of 0, as those of the next window, in a
    field in which nothing resonates or interferes. An error may follow them."""
    errors = events[-1:] if isinstance(events[-1], ErrorEvent) else []
    *before, energy, field = events[: len(events) - len(errors)]
    assert isinstance(energy, EnergyUpdate)
    assert isinstance(field, EnergyField)
    updates = [event for event in before if isinstance(event, EnergyUpdate)]
    assert energy.frameNumber == field.frameNumber == updates[-1].frameNumber + 1
    assert energy.payload == EnergyPayload(0.0, -updates[-1].payload.totalEnergy, 0, 0.0, ENSEMBLE)
    members = len(field.payload.coordinates)
    coordinates = tuple(Coordinate(round(index / max(1, members - 1), 9), 0.0, 0.0) for index in range(members))
    assert field.payload == FieldPayload("lightning", 0.0, coordinates, ENSEMBLE)
    return [*before, *errors]


def texts_by_model(messages: list[Any]) -> dict[str, str]:
    """The text of each model in the token streams of these messages."""
    texts: dict[str, str] = {}
    for message in messages:
        if isinstance(message, TokenStream):
            texts.setdefault(message.payload.modelId, "")
            texts[message.payload.modelId] += "".join(message.payload.tokens)
    return texts


def numbers_of(messages: list[Any]) -> list[int]:
    """Their frame numbers, in order."""
    return [number for message in messages if (number := frame_number_of(message)) is not None]
