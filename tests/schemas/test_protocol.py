"""The protocol's messages: strict objects, and JSON Schemas that accept exactly these."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from schemas.errors import Malformed
from schemas.events import (
    MESSAGES,
    EnergyPayload,
    EnergyUpdate,
    ErrorEvent,
    ErrorPayload,
    Heartbeat,
    HeartbeatPayload,
    InterferenceEvent,
    InterferencePayload,
    ProtocolMessage,
    ResonanceEvent,
    ResonancePayload,
    StartupComplete,
    StartupPayload,
    TokenStream,
    TokenStreamPayload,
    decode_event,
    encode_event,
    protocol_tier,
)
from tests.support.project import ROOT
from tests.support.protocol import SCHEMAS, checked

# The card's table: each type's channel, whether it has a frame number, and the keys of its payload.
CARD = {
    "startup_complete": ("system", False, "model! tier! version! frameRate! capabilities!"),
    "energy_update": (
        "energy", True, "totalEnergy! deltaEnergy! tokensGenerated! processingTime! modelId! energyDistribution",
    ),
    "energy_field": ("energy", True, "fieldType! intensity! coordinates! modelId!"),
    "token_stream": ("experience", False, "tokens! isComplete! sessionId! modelId! energyCost"),
    "interference_event": ("council", True, "patternType! models! intensity! coherenceScore!"),
    "resonance_event": ("council", True, "resonanceType! frequency! amplitude! participants! phase"),
    "heartbeat": ("system", False, "sequence! serverTime! frameRate connectionId"),
    "error_event": ("system", False, "severity! code! message! component! details recoverable"),
}  # fmt: skip
EXAMPLES: list[ProtocolMessage] = [
    StartupComplete(1, StartupPayload("ensemble", "Mid-Tier", "0.1.0", 60, ("council", "turbo"))),
    EnergyUpdate(1, 2, EnergyPayload(0.5, -0.1, 3, 16.67, "ensemble")),
    TokenStream(1, TokenStreamPayload(("a", "b"), False, "s", "m")),
    InterferenceEvent(1, 2, InterferencePayload("neutral", ("a", "b"), 0.0, 0.5)),
    ResonanceEvent(1, 2, ResonancePayload("fundamental", 3.5, 0.9, ("a", "b"))),
    Heartbeat(1, HeartbeatPayload(0, 1, 60, "c")),
    ErrorEvent(1, ErrorPayload("info", "A_1", "m" * 1_000, "ui", {"any": ["thing"]}, True)),
]


def test_the_messages_are_those_of_the_design_card() -> None:
    assert {message.__struct_config__.tag for message in MESSAGES} == set(CARD)
    for name, (channel, is_numbered, keys) in CARD.items():
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        assert schema["properties"]["channel"]["enum"] == [channel]
        numbered = {"frameNumber"} if is_numbered else set()
        assert set(schema["properties"]) == {"type", "channel", "timestamp", "payload"} | numbered
        assert set(schema["required"]) == set(schema["properties"])
        payload = schema["$defs"][schema["properties"]["payload"]["$ref"].rsplit("/", 1)[1]]
        assert set(payload["properties"]) == set(keys.replace("!", "").split())
        assert set(payload["required"]) == set(re.findall(r"(\w+)!", keys))


def test_every_object_in_a_schema_forbids_unknown_keys() -> None:
    """Except in the details of an error, which may have any keys."""
    for path in SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text())
        for part in [schema, *schema.get("$defs", {}).values()]:
            assert part["type"] != "object" or part["additionalProperties"] is False


def test_every_key_in_a_schema_is_described() -> None:
    for path in SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text())
        for part in [schema, *schema.get("$defs", {}).values()]:
            assert [
                key for key, value in part["properties"].items() if not {"description", "$ref"} & value.keys()
            ] == []


def test_the_schemas_in_the_repository_are_made_from_the_structs(tmp_path: Path) -> None:
    script = "import sys; sys.path.insert(0, 'docs'); import event_schemas as e, json; print(json.dumps(e.texts()))"
    made = json.loads(subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True).stdout)
    assert made == {path.name: path.read_text() for path in SCHEMAS.glob("*.json")}, "run `make schemas`"


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.__struct_config__.tag)
def test_a_message_is_read_as_it_was_written_and_an_extra_key_is_refused(message: ProtocolMessage) -> None:
    raw = encode_event(message)
    assert checked(raw) == message
    for broken in (raw[:-1] + b',"extra":1}', raw.replace(b'"payload":{', b'"payload":{"extra":1,')):
        with pytest.raises(Malformed):
            decode_event(broken)
        with pytest.raises(jsonschema_rs.ValidationError):
            checked(broken)


@pytest.mark.parametrize(
    ("number", "right", "wrong"),
    [
        (0, '"0.1.0"', '"0.1"'),
        (0, '"Mid-Tier"', '"mid"'),
        (1, "16.67", "16.68"),
        (1, '"frameNumber":2', '"frameNumber":-1'),
        (1, '"ensemble"', '"llama3:8b"'),
        (2, '"timestamp":1', '"timestamp":1.5'),
        (3, '["a","b"]', '["a"]'),
        (3, "0.5", "1.5"),
        (4, "3.5", "-1.0"),
        (6, '"A_1"', '"a-1"'),
        (6, "m" * 1_000, "m" * 1_001),
        (6, '"ui"', '"page"'),
    ],
)
def test_a_value_out_of_range_is_refused(number: int, right: str, wrong: str) -> None:
    raw = encode_event(EXAMPLES[number]).decode()
    assert right in raw
    with pytest.raises(Malformed):
        decode_event(raw.replace(right, wrong, 1))
    with pytest.raises(jsonschema_rs.ValidationError):
        checked(raw.replace(right, wrong, 1))


def test_the_protocols_tier_of_hybrid_is_that_of_high() -> None:
    assert [protocol_tier(tier) for tier in ("low", "mid", "high", "hybrid")] == [
        "Low-Tier", "Mid-Tier", "High-Tier", "High-Tier",
    ]  # fmt: skip
