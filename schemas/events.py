"""The real-time protocol's events that DECIPHER composes so far: strict objects, one a message, no keys but these."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

_NOT_IN_MODEL_ID = re.compile(r"[^a-zA-Z0-9_-]")


class EnergyPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """totalEnergy is the ensemble's; processingTime is milliseconds in 0..16.67."""

    totalEnergy: float
    deltaEnergy: float
    tokensGenerated: int
    processingTime: float
    modelId: str


class EnergyUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`timestamp` is Unix ms; `frameNumber` the window's index on the global 60 Hz grid."""

    timestamp: int
    frameNumber: int
    payload: EnergyPayload
    type: Literal["energy_update"] = "energy_update"
    channel: Literal["energy"] = "energy"


class TokenStreamPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts that one frame released of one member's answer."""

    tokens: tuple[str, ...]
    isComplete: bool
    sessionId: str
    modelId: str


class TokenStream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`timestamp` is Unix ms."""

    timestamp: int
    payload: TokenStreamPayload
    type: Literal["token_stream"] = "token_stream"
    channel: Literal["experience"] = "experience"


Event = EnergyUpdate | TokenStream


def protocol_model_ids(models: tuple[str, ...]) -> tuple[str, ...]:
    """Each model's name in the alphabet of the protocol, `^[a-zA-Z0-9_-]+$`, all of them different."""
    ids: list[str] = []
    for model in models:
        plain = _NOT_IN_MODEL_ID.sub("-", model)
        candidate, copy = plain, 2
        while candidate in ids:
            candidate, copy = f"{plain}_{copy}", copy + 1
        ids.append(candidate)
    return tuple(ids)
