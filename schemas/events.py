"""The real-time protocol: the messages of DECIPHER and the web process to frontends, one JSON object each.

    {"type": …, "channel": …, "timestamp": Unix ms, "frameNumber": window on the global 60 Hz grid, "payload": {…}}

Every object has exactly the keys and ranges that are defined here. Messages about one window have a `frameNumber`,
which rises across sessions. A key that is not measured is left out (UNSET), and never filled with a guess. The JSON
Schemas in docs/protocol/ are made from these structs, whose docstrings describe each key of a payload in a line.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.errors import Malformed

# The model id for all members together.
ENSEMBLE = "ensemble"
# The time for composing one frame; a longer one causes an error_event FRAME_OVERRUN.
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
    """An object without other keys."""


class StartupPayload(_Strict, frozen=True):
    """The sender.

    model: the model that messages which name no model are about: `ensemble`, all members together.
    tier: the council's tier.
    version: the version of the council.
    frameRate: windows in a second.
    capabilities: what it sends.
    """

    model: ModelId
    tier: ProtocolTier
    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]
    frameRate: FrameRate
    capabilities: tuple[Capability, ...]


class EnergyDistribution(_Strict, frozen=True):
    """The purposes of the energy. The council does not measure them.

    generation: the part for generation.
    attention: the part for attention.
    reasoning: the part for reasoning.
    """

    generation: Amount
    attention: Amount
    reasoning: Amount


class EnergyPayload(_Strict, frozen=True):
    """The ensemble's energy.

    totalEnergy: the energy, from 0 to 1.
    deltaEnergy: its change since the last energy_update.
    tokensGenerated: how many tokens this frame released.
    processingTime: the time for composing it, in ms.
    modelId: `ensemble`.
    energyDistribution: never sent.
    """

    totalEnergy: Amount
    deltaEnergy: float
    tokensGenerated: Count
    processingTime: Annotated[float, Meta(ge=0.0, le=FRAME_BUDGET_MS)]
    modelId: ModelId
    energyDistribution: EnergyDistribution | UnsetType = UNSET


class Coordinate(_Strict, frozen=True):
    """One member in the field.

    x: its position among the members, from 0 to 1.
    y: its energy, from 0 to 1.
    energy: the same.
    """

    x: float
    y: float
    energy: float


class FieldPayload(_Strict, frozen=True):
    """The members' energies as a field, and the kind of field.

    fieldType: lightning, one member runs, or none; stream, several run; interference or resonance, what holds now.
    intensity: how strong it is.
    coordinates: one for each member, in the members' order.
    modelId: `ensemble`.
    """

    fieldType: FieldType
    intensity: Share
    coordinates: tuple[Coordinate, ...]
    modelId: ModelId


class TokenStreamPayload(_Strict, frozen=True):
    """The text of one member's answer that one frame released.

    A council that writes one answer has it under the modelId `ensemble`, and its members have no text of their own.

    tokens: the texts of its tokens, whose concatenation was released.
    isComplete: no further text of this member follows.
    sessionId: the session's id.
    modelId: the member's id.
    energyCost: never sent.
    """

    tokens: tuple[str, ...]
    isComplete: bool
    sessionId: str
    modelId: ModelId
    energyCost: Amount | UnsetType = UNSET


class InterferencePayload(_Strict, frozen=True):
    """How the members interfere.

    patternType: constructive where they agree, destructive where they disagree.
    models: the ids of the members that are compared.
    intensity: |2a - 1|, where a is the agreement.
    coherenceScore: the agreement a.
    """

    patternType: Literal["constructive", "destructive", "neutral"]
    models: Members
    intensity: Share
    coherenceScore: Share


class ResonancePayload(_Strict, frozen=True):
    """A resonance.

    resonanceType: always fundamental.
    frequency: how often the frontier advances per second during the resonance, in Hz.
    amplitude: the wave.
    participants: the ids of the members that resonate.
    phase: never sent.
    """

    resonanceType: Literal["harmonic", "fundamental", "overtone"]
    frequency: Amount
    amplitude: Share
    participants: Members
    phase: Annotated[float, Meta(ge=0.0, le=360.0)] | UnsetType = UNSET


class HeartbeatPayload(_Strict, frozen=True):
    """The connection works.

    sequence: counts the heartbeats of the connection, from 0.
    serverTime: the server's time, in ms of Unix time.
    frameRate: how many frames were sent in a second since the heartbeat before, as measured.
    connectionId: the connection's id.
    """

    sequence: Count
    serverTime: UnixMs
    frameRate: Annotated[float, Meta(ge=0.0, le=10_000.0)] | UnsetType = UNSET
    connectionId: str | UnsetType = UNSET


class ErrorPayload(_Strict, frozen=True):
    """An error.

    severity: how serious it is.
    code: a stable name for programs.
    message: one sentence for the user.
    component: the part of the council that reports it.
    details: the facts, by names that depend on the code.
    recoverable: whether events with text of the session may still follow.
    """

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
    """The ensemble's energy, for each frame. The other messages of the frame follow it."""

    timestamp: UnixMs
    frameNumber: Count
    payload: EnergyPayload
    channel: Literal["energy"] = "energy"


class EnergyField(_Strict, frozen=True, tag_field="type", tag="energy_field"):
    """The members' energies, after a change."""

    timestamp: UnixMs
    frameNumber: Count
    payload: FieldPayload
    channel: Literal["energy"] = "energy"


class TokenStream(_Strict, frozen=True, tag_field="type", tag="token_stream"):
    """Text of one member, or of the council."""

    timestamp: UnixMs
    payload: TokenStreamPayload
    channel: Literal["experience"] = "experience"


class InterferenceEvent(_Strict, frozen=True, tag_field="type", tag="interference_event"):
    """How the members interfere, after a change."""

    timestamp: UnixMs
    frameNumber: Count
    payload: InterferencePayload
    channel: Literal["council"] = "council"


class ResonanceEvent(_Strict, frozen=True, tag_field="type", tag="resonance_event"):
    """A resonance has begun, or its participants have changed."""

    timestamp: UnixMs
    frameNumber: Count
    payload: ResonancePayload
    channel: Literal["council"] = "council"


class Heartbeat(_Strict, frozen=True, tag_field="type", tag="heartbeat"):
    """The connection works."""

    timestamp: UnixMs
    payload: HeartbeatPayload
    channel: Literal["system"] = "system"


class ErrorEvent(_Strict, frozen=True, tag_field="type", tag="error_event"):
    """An error."""

    timestamp: UnixMs
    payload: ErrorPayload
    channel: Literal["system"] = "system"


# DECIPHER composes events; each connection adds its own startup_complete and heartbeats.
Event = EnergyUpdate | EnergyField | TokenStream | InterferenceEvent | ResonanceEvent | ErrorEvent
ProtocolMessage = Event | StartupComplete | Heartbeat
MESSAGES: tuple[type[msgspec.Struct], ...] = get_args(ProtocolMessage)


class SentError(msgspec.Struct, array_like=True, frozen=True):
    """An error_event that was sent, kept for clients that connect later: the window with whose events it was sent, its
    code, and the event as JSON."""

    window: int
    code: str
    raw: bytes


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[ProtocolMessage] = msgspec.json.Decoder(ProtocolMessage)


def encode_event(event: ProtocolMessage) -> bytes:
    """The event as one JSON object on one line."""
    return _encoder.encode(event)


def decode_event(raw: bytes | str) -> ProtocolMessage:
    """Raises Malformed for bytes that are not exactly one of the protocol's objects."""
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"a protocol event does not decode: {error}") from error


def protocol_tier(tier: str) -> ProtocolTier:
    """The protocol's name of a tier. It has none for hybrid, which runs as many models as high."""
    tiers: dict[str, ProtocolTier] = {"low": "Low-Tier", "mid": "Mid-Tier"}
    return tiers.get(tier, "High-Tier")


def protocol_model_ids(models: tuple[str, ...]) -> tuple[str, ...]:
    """An id for each model in the protocol's alphabet, `^[a-zA-Z0-9_-]+$`. The ids differ from each other and from
    ENSEMBLE."""
    ids: list[str] = []
    for model in models:
        plain = _NOT_IN_MODEL_ID.sub("-", model)
        candidate, copy = plain, 2
        while candidate in ids or candidate == ENSEMBLE:
            candidate, copy = f"{plain}_{copy}", copy + 1
        ids.append(candidate)
    return tuple(ids)


def frame_number_of(event: ProtocolMessage) -> int | None:
    """The frame number of a message about one window; None for other messages."""
    return getattr(event, "frameNumber", None)
