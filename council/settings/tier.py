"""The tiers as settings: `[tiers.NAME]` over schemas.rules.tiers, and the specification's own short form.

    tier_limits: {low: 2}   -->  tiers: {low: {max_parallel_models: 2}}     (with_tier_limits)
    tiers: {low: {...}}     -->  {"low": TierPolicy(...), "mid": ..., ...}  (tiers_with)

Pure. WrongSetting contains the keys that lead to the wrong value, so that the caller can name the file and the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.rules.tiers import PROFILES, TIERS, TierPolicy
from schemas.sessions import EnergyProfile

TierName = Literal["low", "mid", "high", "hybrid"]
# The most members of a session, in any tier.
MOST_AT_ONCE = 6
MembersAtOnce = Annotated[int, Field(strict=True, ge=1, le=MOST_AT_ONCE)]
Gigabytes = Annotated[float, Field(ge=0, le=100_000)]
Milliseconds = Annotated[float, Field(ge=0, le=600_000)]


class WrongSetting(Exception):
    """`keys` lead to the value that is wrong; the message contains what is wrong with it and what to write."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


class ProfileSetting(BaseModel):
    """What differs from the tier's own energy profile."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # No model on one machine comes near ten thousand tokens a second.
    tps_max: float | None = Field(None, ge=0.001, le=10_000)
    tps_min: float | None = Field(None, ge=0, le=10_000)
    # A member that is silent for ten minutes has been dropped long before.
    stall_ms: Milliseconds | None = None
    ceil_ms: Milliseconds | None = None
    half_life_ms: float | None = Field(None, ge=1, le=600_000)
    # The weight of the newest value.
    smoothing: float | None = Field(None, ge=0.001, le=1)

    def profile(self, usual: EnergyProfile, keys: tuple[str, ...]) -> EnergyProfile:
        """`usual` with what is set here. `keys` lead here. Raises WrongSetting where two numbers contradict."""
        profile: EnergyProfile = msgspec.structs.replace(usual, **self.model_dump(exclude_none=True))
        # The energy is divided by these two differences.
        for low, high in (("tps_min", "tps_max"), ("stall_ms", "ceil_ms")):
            least, most = getattr(profile, low), getattr(profile, high)
            if least >= most:
                name = high if high in self.model_fields_set else low
                raise WrongSetting((*keys, name), f"{high} is {most:g} and must be above {low}, which is {least:g}")
        return profile


class TierSetting(BaseModel):
    """What differs from the tier's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    max_parallel_models: MembersAtOnce | None = None
    # Each is a process. The largest tier's number is 8; a number above 64 is an error in writing.
    max_loaded_models: int | None = Field(None, ge=1, le=64)
    max_model_size_gb: float | None = Field(None, ge=0.001, le=100_000)
    # A machine without graphics memory has 0 GB of it.
    vram_budget_gb: Gigabytes | None = None
    ram_budget_gb: Gigabytes | None = None
    # A page below 1 would not move; the fastest screens draw 240 times a second.
    target_fps: int | None = Field(None, ge=1, le=240)
    profile: ProfileSetting | None = None

    @field_validator("profile", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value not in PROFILES:
            raise ValueError(f"choose one of {', '.join(PROFILES)}, or write a table")
        return msgspec.structs.asdict(PROFILES[value])

    def policy(self, usual: TierPolicy) -> TierPolicy:
        """`usual` with what is set here. Raises WrongSetting where two numbers contradict each other."""
        numbers = self.model_dump(exclude_none=True, exclude={"profile"})
        policy: TierPolicy = msgspec.structs.replace(usual, **numbers)
        if policy.max_parallel_models > policy.max_loaded_models:
            raise WrongSetting(
                (usual.name, next(name for name in ("max_parallel_models", "max_loaded_models") if name in numbers)),
                f"{policy.max_parallel_models} models answer at once (max_parallel_models), but only "
                f"{policy.max_loaded_models} may be loaded (max_loaded_models): lower the first or raise the second",
            )
        if self.profile is None:
            return policy
        return msgspec.structs.replace(policy, profile=self.profile.profile(usual.profile, (usual.name, "profile")))


def tiers_with(tables: Mapping[TierName, TierSetting]) -> dict[str, TierPolicy]:
    """All tiers, with what the tables set. Raises WrongSetting, with keys below `tiers`."""
    return {name: tables[name].policy(usual) if name in tables else usual for name, usual in TIERS.items()}  # type: ignore[index]


def with_tier_limits(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with `tier_limits` written into `tiers` as well. Raises WrongSetting where the two contradict.

    A value that is not a table stays as it is: it is refused later.
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
                ("tier_limits", str(tier)), f"it contradicts tiers.{tier}.max_parallel_models: keep one of the two"
            )
        merged[tier] = {**table, "max_parallel_models": most}
    return {**values, "tiers": merged}
