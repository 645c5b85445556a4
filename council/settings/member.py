"""A member in the settings: `[members.NAME]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from council.settings.server import ModelName
from schemas.errors import Refused
from schemas.rules.members import check_member_name
from schemas.rules.texts import check_size_of
from schemas.sessions import MAX_TOKENS_LIMIT, MemberSpec


def _member_name(name: str) -> str:
    try:
        check_member_name(name)
    except Refused as error:
        raise ValueError(str(error).rstrip(".")) from None
    return name


def _system_text(text: str) -> str:
    try:
        check_size_of("system text", text)
    except Refused as error:
        raise ValueError(str(error).rstrip(".")) from None
    return text


MemberName = Annotated[str, AfterValidator(_member_name)]
SystemText = Annotated[str, AfterValidator(_system_text)]

Temperature = Annotated[float, Field(ge=0, le=2)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MaxTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS_LIMIT)]


class MemberOptions(BaseModel):
    """The options of one member of a council. One that is left out is the session's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    temperature: Temperature | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None


class MemberSetting(BaseModel):
    """One member of the council: its model, and its own options."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName
    temperature: Temperature | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None
    system: SystemText | None = None

    def spec(self, name: str) -> MemberSpec:
        """The member under this name."""
        return MemberSpec(self.model, name, self.temperature, self.seed, self.max_tokens, self.system)
