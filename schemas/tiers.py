"""Tiers: how many models a machine carries at once, and how lively its energy is drawn."""

from __future__ import annotations

import msgspec

from schemas.errors import Refused
from schemas.sessions import EnergyProfile

PROFILES = {
    "lite": EnergyProfile(tps_max=10.0, stall_ms=500.0, smoothing=0.30),
    "dual": EnergyProfile(tps_max=14.0, stall_ms=400.0, smoothing=0.35),
    "studio": EnergyProfile(tps_max=20.0, stall_ms=350.0, smoothing=0.40),
}


class TierPolicy(msgspec.Struct, frozen=True):
    """`max_parallel_models` answer one session at once; `max_loaded_models` may be served at the same time."""

    name: str
    max_parallel_models: int
    max_loaded_models: int
    profile: EnergyProfile


TIERS = {
    "low": TierPolicy("low", 2, 4, PROFILES["lite"]),
    "mid": TierPolicy("mid", 4, 6, PROFILES["dual"]),
    "high": TierPolicy("high", 6, 8, PROFILES["studio"]),
    "hybrid": TierPolicy("hybrid", 6, 8, PROFILES["studio"]),
}


def tier_named(name: str) -> TierPolicy:
    """Raises Refused for a name that is no tier."""
    try:
        return TIERS[name]
    except KeyError:
        raise Refused("unknown_tier", f"There is no tier {name!r}: choose one of {', '.join(TIERS)}.") from None


def tier_for_memory(total_bytes: int) -> TierPolicy:
    """The tier of a machine with this much memory: low under 16 GiB, mid under 32 GiB, else high."""
    gib = total_bytes / 2**30
    return TIERS["low" if gib < 16 else "mid" if gib < 32 else "high"]
