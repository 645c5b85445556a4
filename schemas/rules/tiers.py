"""Tiers: how many models a machine can run at once, in how much memory, and with which energy profile."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.errors import Refused
from schemas.sessions import EnergyProfile, Rung

GB = 10**9

PROFILES = {
    "lite": EnergyProfile(tps_max=10.0, stall_ms=500.0, smoothing=0.30),
    "dual": EnergyProfile(tps_max=14.0, stall_ms=400.0, smoothing=0.35),
    "studio": EnergyProfile(tps_max=20.0, stall_ms=350.0, smoothing=0.40),
}


class TierPolicy(msgspec.Struct, frozen=True):
    """`max_parallel_models` answer one session at once. `max_loaded_models` may be in memory at the same time, each of
    at most `max_model_size_gb`, all of them within `vram_budget_gb` and `ram_budget_gb` (10^9 bytes). `target_fps` is
    how often a page draws; windows do not depend on it."""

    name: str
    max_parallel_models: int
    max_loaded_models: int
    profile: EnergyProfile
    max_model_size_gb: float = 8.0
    vram_budget_gb: float = 12.0
    ram_budget_gb: float = 16.0
    target_fps: int = 60

    @property
    def largest_model_gb(self) -> float:
        """The size of the largest model that the tier allows."""
        return min(self.max_model_size_gb, self.vram_budget_gb + self.ram_budget_gb)


TIERS: dict[str, TierPolicy] = {
    "low": TierPolicy("low", 2, 4, PROFILES["lite"], 4.0, 6.0, 8.0, 55),
    "mid": TierPolicy("mid", 4, 6, PROFILES["dual"], 8.0, 12.0, 16.0, 60),
    "high": TierPolicy("high", 6, 8, PROFILES["studio"], 16.0, 24.0, 32.0, 60),
    "hybrid": TierPolicy("hybrid", 6, 8, PROFILES["studio"], 16.0, 24.0, 32.0, 60),
}


def tier_named(name: str, tiers: Mapping[str, TierPolicy] = TIERS) -> TierPolicy:
    """The tier with this name. Raises Refused for an unknown name."""
    try:
        return tiers[name]
    except KeyError:
        raise Refused("unknown_tier", f"Unknown tier {name!r}; known tiers: {', '.join(tiers)}.") from None


def tier_for_memory(total_bytes: int, tiers: Mapping[str, TierPolicy] = TIERS) -> TierPolicy:
    """The tier of a machine with this much memory: low under 16 GiB, mid under 32 GiB, else high."""
    gib = total_bytes / 2**30
    return tiers["low" if gib < 16 else "mid" if gib < 32 else "high"]


def ladder_below(tier: TierPolicy, tiers: Mapping[str, TierPolicy] = TIERS) -> tuple[Rung, ...]:
    """The tiers that run fewer models at once than this one, the next lower first."""
    lower = [other for other in tiers.values() if other.max_parallel_models < tier.max_parallel_models]
    lower.sort(key=lambda other: -other.max_parallel_models)
    return tuple(Rung(other.name, other.max_parallel_models) for other in lower)
