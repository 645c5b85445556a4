"""The real-time protocol: what DECIPHER and the web say to other people's frontends, one JSON object a message.

    {"type": …, "channel": …, "timestamp": Unix ms, "frameNumber": window on the global 60 Hz grid, "payload": {…}}

Every object is strict: these keys, these ranges, no others. `frameNumber` is on what belongs to one window, and rises
across sessions. A key that nothing measures is left out (UNSET); none is ever filled with a guess. The JSON Schemas in
docs/protocol/ are made from these structs.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.errors import Malformed

# The model id that stands for all members together.
ENSEMBLE = "ensemble"
# What a frame may take to compose: more is said with an error_event FRAME_OVERRUN.
FRAME_BUDGET_MS = 16.67
MOST_MESSAGE_CHARS = 1_000

_NOT_IN_MODEL_ID = re.compile(r"[^a-zA-Z0-9_-]")

ModelId = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]+$")]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Amount = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=0)]
UnixMs = Annotated[int, Meta(ge=0)]
Members = Annotated[tuple[ModelId, ...], Meta(min_length=2)]
FrameRate = Literal[60]
PROTOCOL_FRAME_RATE: FrameRate = 60
Capability = Literal["council", "turbo", "visualization", "plugins"]
ProtocolTier = Literal["Low-Tier", "Mid-Tier", "High-Tier"]
FieldType = Literal["lightning", "stream", "interference", "resonance"]
Severity = Literal["info", "warning", "error", "critical"]
Component = Literal["orchestrator", "decipher", "websocket", "model", "ui"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object with no keys but these."""


class StartupPayload(_Strict, frozen=True):
    """Who speaks: `model` is what all messages without a model of their own are about."""

    model: ModelId
    tier: ProtocolTier
    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]
    frameRate: FrameRate
    capabilities: tuple[Capability, ...]


class EnergyDistribution(_Strict, frozen=True):
    """What energy is spent on; nothing here measures it."""

    generation: Amount
    attention: Amount
    reasoning: Amount


class EnergyPayload(_Strict, frozen=True):
    """totalEnergy is the ensemble's, deltaEnergy what it changed by since the last energy_update; tokensGenerated are
    the tokens that this frame released; processingTime is what it took to compose, in ms."""

    totalEnergy: Amount
    deltaEnergy: float
    tokensGenerated: Count
    processingTime: Annotated[float, Meta(ge=0.0, le=FRAME_BUDGET_MS)]
    modelId: ModelId
    energyDistribution: EnergyDistribution | UnsetType = UNSET


class Coordinate(_Strict, frozen=True):
    """One member in the field: x its place among the members in [0, 1], y and energy its energy."""

    x: float
    y: float
    energy: float


class FieldPayload(_Strict, frozen=True):
    """The members' energies as a field, and what kind of field it is."""

    fieldType: FieldType
    intensity: Share
    coordinates: tuple[Coordinate, ...]
    modelId: ModelId


class TokenStreamPayload(_Strict, frozen=True):
    """What one frame released of one member's answer: its tokens' texts, which concatenate to it. `isComplete`: no more
    will come of this member."""

    tokens: tuple[str, ...]
    isComplete: bool
    sessionId: str
    modelId: ModelId
    energyCost: Amount | UnsetType = UNSET


class InterferencePayload(_Strict, frozen=True):
    """coherenceScore is the agreement a, intensity |2a - 1|."""

    patternType: Literal["constructive", "destructive", "neutral"]
    models: Members
    intensity: Share
    coherenceScore: Share


class ResonancePayload(_Strict, frozen=True):
    """frequency: advances of the frontier in a second while it lasts, in Hz; amplitude: the wave."""

    resonanceType: Literal["harmonic", "fundamental", "overtone"]
    frequency: Amount
    amplitude: Share
    participants: Members
    phase: Annotated[float, Meta(ge=0.0, le=360.0)] | UnsetType = UNSET


class HeartbeatPayload(_Strict, frozen=True):
    """`sequence` counts the heartbeats of one connection, which `connectionId` names."""

    sequence: Count
    serverTime: UnixMs
    frameRate: FrameRate | UnsetType = UNSET
    connectionId: str | UnsetType = UNSET


class ErrorPayload(_Strict, frozen=True):
    """What went wrong, in one sentence for a person and a stable `code` for a program."""

    severity: Severity
    code: Annotated[str, Meta(pattern=r"^[A-Z0-9_]+$")]
    message: Annotated[str, Meta(max_length=MOST_MESSAGE_CHARS)]
    component: Component
    details: dict[str, Any] | UnsetType = UNSET
    recoverable: bool | UnsetType = UNSET


class StartupComplete(_Strict, frozen=True, tag_field="type", tag="startup_complete"):
    """The first message on a connection."""

    timestamp: UnixMs
    payload: StartupPayload
    channel: Literal["system"] = "system"


class EnergyUpdate(_Strict, frozen=True, tag_field="type", tag="energy_update"):
    """The ensemble's energy, each frame. What a frame says else follows it."""

    timestamp: UnixMs
    frameNumber: Count
    payload: EnergyPayload
    channel: Literal["energy"] = "energy"


class EnergyField(_Strict, frozen=True, tag_field="type", tag="energy_field"):
    """The members' energies, when they have changed."""

    timestamp: UnixMs
    frameNumber: Count
    payload: FieldPayload
    channel: Literal["energy"] = "energy"


class TokenStream(_Strict, frozen=True, tag_field="type", tag="token_stream"):
    """Text of one member."""

    timestamp: UnixMs
    payload: TokenStreamPayload
    channel: Literal["experience"] = "experience"


class InterferenceEvent(_Strict, frozen=True, tag_field="type", tag="interference_event"):
    """How the members interfere, when that has changed."""

    timestamp: UnixMs
    frameNumber: Count
    payload: InterferencePayload
    channel: Literal["council"] = "council"


class ResonanceEvent(_Strict, frozen=True, tag_field="type", tag="resonance_event"):
    """Resonance has begun, or others take part in it."""

    timestamp: UnixMs
    frameNumber: Count
    payload: ResonancePayload
    channel: Literal["council"] = "council"


class Heartbeat(_Strict, frozen=True, tag_field="type", tag="heartbeat"):
    """The connection lives."""

    timestamp: UnixMs
    payload: HeartbeatPayload
    channel: Literal["system"] = "system"


class ErrorEvent(_Strict, frozen=True, tag_field="type", tag="error_event"):
    """Something went wrong."""

    timestamp: UnixMs
    payload: ErrorPayload
    channel: Literal["system"] = "system"


# What DECIPHER composes; a connection adds its own startup_complete and heartbeats.
Event = EnergyUpdate | EnergyField | TokenStream | InterferenceEvent | ResonanceEvent | ErrorEvent
ProtocolMessage = Event | StartupComplete | Heartbeat
MESSAGES: tuple[type[msgspec.Struct], ...] = get_args(ProtocolMessage)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[ProtocolMessage] = msgspec.json.Decoder(ProtocolMessage)


def encode_event(event: ProtocolMessage) -> bytes:
    """The event as one JSON object on one line."""
    return _encoder.encode(event)


def decode_event(raw: bytes | str) -> ProtocolMessage:
    """Raises Malformed for whatever is not exactly one of the protocol's objects."""
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"a protocol event does not decode: {error}") from error


def protocol_tier(tier: str) -> ProtocolTier:
    """The protocol's name of a tier; hybrid runs as many models as high does."""
    tiers: dict[str, ProtocolTier] = {"low": "Low-Tier", "mid": "Mid-Tier"}
    return tiers.get(tier, "High-Tier")


def protocol_model_ids(models: tuple[str, ...]) -> tuple[str, ...]:
    """Each model's name in the alphabet of the protocol, `^[a-zA-Z0-9_-]+$`, all of them different, and none that of
    the ensemble."""
    ids: list[str] = []
    for model in models:
        plain = _NOT_IN_MODEL_ID.sub("-", model)
        candidate, copy = plain, 2
        while candidate in ids or candidate == ENSEMBLE:
            candidate, copy = f"{plain}_{copy}", copy + 1
        ids.append(candidate)
    return tuple(ids)


def frame_number_of(event: ProtocolMessage) -> int | None:
    """The frame number of what belongs to one window; None for all else."""
    return getattr(event, "frameNumber", None)
