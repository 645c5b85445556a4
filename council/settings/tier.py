"""The tiers as settings: `[tiers.NAME]` over schemas.rules.tiers, and the specification's own short form.

    tier_limits: {low: 2}   -->  tiers: {low: {max_parallel_models: 2}}     (with_tier_limits)
    tiers: {low: {...}}     -->  {"low": TierPolicy(...), "mid": ..., ...}  (tiers_with)

Pure: what is wrong is raised as WrongSetting with the keys that lead to it, so that whoever read the settings can name
the file and the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from schemas.rules.tiers import PROFILES, TIERS, TierPolicy
from schemas.sessions import EnergyProfile

# As much of a wrong value as fits a sentence.
_SHOWN_CHARS = 40


class WrongSetting(Exception):
    """`keys` lead to the value that is wrong; the message says what is wrong with it and what to write."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


class Bound(NamedTuple):
    """The numbers that a setting may be, and why no others."""

    least: float
    most: float
    why: str
    whole: bool = False


TIER_BOUNDS: Mapping[str, Bound] = {
    "max_parallel_models": Bound(1, 6, "a session has one to six members", whole=True),
    # Eight is the largest tier's; past 64 processes on one machine the number is a slip.
    "max_loaded_models": Bound(1, 64, "each is a process of its own", whole=True),
    # 0 GB of graphics memory is a machine without any; 100 TB is more than any machine has.
    "max_model_size_gb": Bound(0.001, 100_000, "in units of 10^9 bytes"),
    "vram_budget_gb": Bound(0, 100_000, "in units of 10^9 bytes"),
    "ram_budget_gb": Bound(0, 100_000, "in units of 10^9 bytes"),
    # Below 1 a page would stand still; the fastest screens draw 240 times a second.
    "target_fps": Bound(1, 240, "a screen draws no faster, and a page that draws less stands still", whole=True),
}

PROFILE_BOUNDS: Mapping[str, Bound] = {
    # No model on one machine comes near ten thousand tokens a second; 0 would divide by zero.
    "tps_max": Bound(0.001, 10_000, "tokens a second"),
    "tps_min": Bound(0, 10_000, "tokens a second"),
    # A silence longer than ten minutes has long ended the member.
    "stall_ms": Bound(0, 600_000, "milliseconds"),
    "ceil_ms": Bound(0, 600_000, "milliseconds"),
    "half_life_ms": Bound(1, 600_000, "milliseconds"),
    # It is the weight of the newest value: 0 would never move, above 1 it would overshoot.
    "smoothing": Bound(0.001, 1, "the weight of the newest value"),
}


def with_tier_limits(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with `tier_limits` written into `tiers` as well. Raises WrongSetting where both say something else.

    What is no table at all is left for those who check it.
    """
    limits, tables = values.get("tier_limits"), values.get("tiers", {})
    if not isinstance(limits, Mapping) or not isinstance(tables, Mapping):
        return dict(values)
    merged = dict(tables)
    for tier, most in limits.items():
        table = merged.get(tier, {})
        if not isinstance(table, Mapping):
            continue
        if table.get("max_parallel_models", most) != most:
            raise WrongSetting(
                ("tier_limits", str(tier)),
                f"{_shown(most)} contradicts tiers.{tier}.max_parallel_models, which is "
                f"{_shown(table['max_parallel_models'])}: keep one of the two",
            )
        merged[tier] = {**table, "max_parallel_models": most}
    return {**values, "tiers": merged}


def checked_tier_limits(limits: object) -> dict[str, int]:
    """The specification's short form: the most models that answer at once, by tier. Raises WrongSetting."""
    table = _table((), limits)
    for tier, most in table.items():
        _known_tier(tier)
        _number((tier,), most, TIER_BOUNDS["max_parallel_models"])
    return table


def tiers_with(tables: object) -> Mapping[str, TierPolicy]:
    """The default tiers with what the tables set. Raises WrongSetting, with keys below `tiers`."""
    changed = dict(TIERS)
    for tier, table in _table((), tables).items():
        _known_tier(tier)
        changed[tier] = _policy_with(TIERS[tier], _table((tier,), table))
    return changed


def _policy_with(policy: TierPolicy, table: dict[str, Any]) -> TierPolicy:
    numbers: dict[str, float] = {}
    profile = policy.profile
    for name, value in table.items():
        keys = (policy.name, name)
        if name == "profile":
            profile = _profile(keys, value, policy.profile)
        elif name in TIER_BOUNDS:
            numbers[name] = _number(keys, value, TIER_BOUNDS[name])
        else:
            raise WrongSetting(keys, f"there is no such setting: a tier has {', '.join(TIER_BOUNDS)}, profile")
    changed: TierPolicy = msgspec.structs.replace(policy, profile=profile, **numbers)
    if changed.max_parallel_models > changed.max_loaded_models:
        spelt = next(name for name in ("max_parallel_models", "max_loaded_models") if name in table)
        raise WrongSetting(
            (policy.name, spelt),
            f"{changed.max_parallel_models} models would answer at once (max_parallel_models), but only "
            f"{changed.max_loaded_models} may be loaded (max_loaded_models): lower the one or raise the other",
        )
    return changed


def _profile(keys: tuple[str, ...], value: object, default: EnergyProfile) -> EnergyProfile:
    """A profile by name, or the tier's own with what the table sets."""
    if isinstance(value, str):
        if value in PROFILES:
            return PROFILES[value]
        raise WrongSetting(keys, f"there is no profile {_shown(value)}: choose one of {', '.join(PROFILES)}")
    if not isinstance(value, Mapping):
        raise WrongSetting(keys, f"choose one of {', '.join(PROFILES)}, or write a table of {', '.join(_FIELDS)}")
    numbers: dict[str, float] = {}
    for name, number in value.items():
        if name not in PROFILE_BOUNDS:
            raise WrongSetting((*keys, str(name)), f"there is no such setting: a profile has {', '.join(_FIELDS)}")
        numbers[name] = float(_number((*keys, name), number, PROFILE_BOUNDS[name]))
    profile: EnergyProfile = msgspec.structs.replace(default, **numbers)
    # Energy divides by these two differences.
    for low, high in (("tps_min", "tps_max"), ("stall_ms", "ceil_ms")):
        least, most = getattr(profile, low), getattr(profile, high)
        if least >= most:
            spelt = next(name for name in (high, low) if name in value)
            raise WrongSetting((*keys, spelt), f"{high} is {most:g} and must lie above {low}, which is {least:g}")
    return profile


_FIELDS = EnergyProfile.__struct_fields__


def _known_tier(tier: str) -> None:
    if tier not in TIERS:
        raise WrongSetting((tier,), f"there is no such tier: choose one of {', '.join(TIERS)}")


def _table(keys: tuple[str, ...], value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    raise WrongSetting(keys, f"is {_shown(value)}: write a table")


def _number(keys: tuple[str, ...], value: object, bound: Bound) -> float:
    """The number, within its bound; a whole one comes back as an int."""
    kinds = int if bound.whole else (int, float)
    # Python counts True as 1; and nobody means that.
    if isinstance(value, bool) or not isinstance(value, kinds) or not _lies_in(value, bound):
        kind = "a whole number" if bound.whole else "a number"
        raise WrongSetting(
            keys, f"is {_shown(value)}: give {kind} from {bound.least:g} to {bound.most:g} ({bound.why})"
        )
    return value if bound.whole else float(value)


def _lies_in(value: float, bound: Bound) -> bool:
    # An integer can be too large to be compared as a float is; NaN compares as false.
    return bound.least <= value <= bound.most and math.isfinite(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python writes no integer of more than 4,300 digits; TOML's 0x form can hold one.
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
