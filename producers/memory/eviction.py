"""Which models are evicted so that another one fits. Pure: no clock, no I/O.

    residents   A 2 GB, used 9 s ago   B 4 GB, in use   C 3 GB, used 2 min ago   D 1 GB, used 5 min ago
    wanted      E 4 GB, budget 10 GB          -->  evict D, then C, the least recently used first; never B;
                                                   A was used only just now, and stays for a while

No model is evicted in vain: where all that may be evicted are not enough, the answer is to wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.models import IN_PROCESS, ModelFacts
from schemas.rules.tiers import GB, TierPolicy

# A model that was loaded or used within this stays: otherwise two models in turn would mostly be loaded.
COOL_DOWN_MS = 10_000


class Loaded(msgspec.Struct, frozen=True):
    """A model in memory. `model` is the council's name of it, `used_ms` when it was loaded or last used, `most_there`
    how many models its server keeps at once, 0 for no limit."""

    model: str
    memory_key: tuple[str, str]
    server: str
    ram_bytes: int
    vram_bytes: int
    used_ms: int
    in_use: bool = False
    most_there: int = 0


class Wanted(msgspec.Struct, frozen=True):
    """The model to load. `size_bytes` is 0 where unknown, until it is loaded."""

    server: str
    size_bytes: int
    most_there: int = 0


def wanted_model(facts: ModelFacts) -> Wanted:
    return Wanted(facts.server, facts.size_bytes, facts.max_loaded)


def models_to_evict(
    loaded: Sequence[Loaded], wanted: Wanted | None, tier: TierPolicy, now_ms: int
) -> tuple[Loaded, ...] | None:
    """The models to evict for `wanted`, the least recently used first; empty where it fits. None: wait.

    Without a wanted model: the models to evict because the loaded ones exceed the budget.
    """
    staying = list(loaded)
    leaving: list[Loaded] = []
    idle = sorted((one for one in loaded if _may_leave(one, now_ms)), key=lambda one: one.used_ms)
    for one in [*idle, None]:
        if _fits(staying, wanted, tier):
            return _needed(leaving, staying, wanted, tier)
        if one is not None:
            staying.remove(one)
            leaving.append(one)
    return None


def least_recently_used(loaded: Sequence[Loaded]) -> Loaded | None:
    """The model to evict when a server itself reports that its memory is full: then even one used just now."""
    return min((one for one in loaded if not one.in_use), key=lambda one: one.used_ms, default=None)


def _may_leave(one: Loaded, now_ms: int) -> bool:
    return not one.in_use and now_ms - one.used_ms >= COOL_DOWN_MS


def _needed(
    leaving: Sequence[Loaded], staying: list[Loaded], wanted: Wanted | None, tier: TierPolicy
) -> tuple[Loaded, ...]:
    """Without those that can stay after all, because a later one made room where it was needed."""
    needed = []
    for one in leaving:
        if _fits([*staying, one], wanted, tier):
            staying.append(one)
        else:
            needed.append(one)
    return tuple(needed)


def _fits(loaded: Sequence[Loaded], wanted: Wanted | None, tier: TierPolicy) -> bool:
    """True where these and the wanted one are within the limits of the tier and of the servers.

    Where a model will be loaded is an assumption: a process loads into RAM, a server into the kind of memory of its
    other models, and a server without models into VRAM first and then into RAM.
    """
    ram, vram = sum(one.ram_bytes for one in loaded), sum(one.vram_bytes for one in loaded)
    most_ram, most_vram = tier.ram_budget_gb * GB, tier.vram_budget_gb * GB
    if wanted is None:
        return len(loaded) <= tier.max_loaded_models and ram <= most_ram and vram <= most_vram
    there = [one for one in loaded if one.server == wanted.server]
    most_there = min((most for most in (wanted.most_there, *(o.most_there for o in there)) if most), default=0)
    if len(loaded) >= tier.max_loaded_models or (most_there and len(there) >= most_there):
        return False
    size = wanted.size_bytes
    if wanted.server == IN_PROCESS or (there and not any(one.vram_bytes for one in there)):
        return ram + size <= most_ram and vram <= most_vram
    return max(0, size - max(0, int(most_vram - vram))) + ram <= most_ram
