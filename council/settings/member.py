"""A member in the settings: `[members.NAME]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from council.settings.server import ModelName
from schemas.errors import Refused
from schemas.rules.members import check_member_name
from schemas.sessions import MAX_TOKENS_LIMIT, MemberSpec


def _member_name(name: str) -> str:
    try:
        check_member_name(name)
    except Refused as error:
        raise ValueError(str(error).rstrip(".")) from None
    return name


MemberName = Annotated[str, AfterValidator(_member_name)]


class MemberSetting(BaseModel):
    """One member of the council: its model, and its own options."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**32)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS_LIMIT)
    system: str | None = None

    def spec(self, name: str) -> MemberSpec:
        """The member under this name."""
        return MemberSpec(self.model, name, self.temperature, self.seed, self.max_tokens, self.system)
