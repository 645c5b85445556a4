"""A council in the settings: `[councils.NAME]`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from council.settings.member import MaxTokens, MemberName, MemberOptions, MemberSetting, Seed, SystemText, Temperature
from council.settings.tier import MOST_AT_ONCE, WrongSetting
from schemas.errors import Refused
from schemas.rules.members import member_spec
from schemas.sessions import NamedCouncil, Sync, Weighting

# Ids of the OpenAI-compatible API that are not names of councils or members.
RESERVED = ("council", "consensus")

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CouncilSetting(BaseModel):
    """Members under a name: each the name of a member, a model or a description. The keys of `weights` and `options`
    are their names. A value that is left out is the request's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    members: list[str] = Field(min_length=1, max_length=MOST_AT_ONCE)
    weights: dict[str, Weight] = {}
    options: dict[str, MemberOptions] = {}
    sync: Sync | None = None
    weighting: Weighting | None = None
    system: SystemText | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    seed: Seed | None = None

    def council(self, name: str) -> NamedCouncil:
        """The council under this name, with its members as they are written."""
        options = {member: own.model_dump(exclude_none=True) for member, own in self.options.items()}
        plain = self.model_dump(exclude={"members", "options"})
        return NamedCouncil(name, tuple(self.members), options=options, **plain)


def check_councils(councils: Mapping[MemberName, CouncilSetting], members: Mapping[MemberName, MemberSetting]) -> None:
    """Raises WrongSetting, with keys below `councils`, for the first council that is not valid beside the others and
    these members."""
    for name, council in councils.items():
        if name in RESERVED or name in members:
            holder = "a member has this name" if name in members else "this name is reserved"
            raise WrongSetting((name,), f"{holder}: give the council another one")
        names = _names_of(name, council, councils, members)
        for table, keys in (("weights", council.weights), ("options", council.options)):
            for key in keys:
                if key not in names:
                    raise WrongSetting((name, table, key), f"{key!r} is not a member of this council: {_joined(names)}")
        weights = [council.weights.get(member, 1.0) for member in names]
        if not any(weights):
            raise WrongSetting((name, "weights"), "all weights are 0: give at least one member a weight above 0")
        if not math.isfinite(sum(weights)):
            raise WrongSetting((name, "weights"), "their sum is too large for a number: give smaller weights")


def _names_of(
    name: str,
    council: CouncilSetting,
    councils: Mapping[MemberName, CouncilSetting],
    members: Mapping[MemberName, MemberSetting],
) -> list[str]:
    """The names of the council's members. Raises WrongSetting for a member that is not valid."""
    names: list[str] = []
    for index, written in enumerate(council.members):
        place = (name, "members", str(index))
        try:
            spec = None if written in members else member_spec(written)
        except Refused as refusal:
            raise WrongSetting(place, str(refusal).rstrip(".")) from None
        for model in (written, spec.model if spec else ""):
            if model in councils:
                raise WrongSetting(place, f"{model!r} is a council, which cannot be a member: write its members here")
        if spec and spec.model != written and spec.model in members:
            raise WrongSetting(
                place, f"{written!r} has no model, because {spec.model!r} is a member: give that member's model"
            )
        display_name = spec.display_name if spec else written
        if display_name in names:
            raise WrongSetting(place, f"{display_name!r} is named twice: give each member a name of its own")
        names.append(display_name)
    return names


def _joined(names: Iterable[str]) -> str:
    return f"its members are {', '.join(names)}"
