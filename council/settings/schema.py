"""Settings: from `council.toml` or `council.yaml` in the working directory or at --config, COUNCIL_* variables, and
flags. The later source outweighs the earlier one.

    file ──with_tier_limits──┐
    COUNCIL_* ───────────────┼──▶ Settings ◀── flags         a wrong value is refused with the place where it is written
    REDIS_URL ───────────────┘
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from consumers.web.door.access import checked_token, token_from_file
from consumers.web.door.origins import checked_origins
from council.settings.council import CouncilSetting, check_councils
from council.settings.file import SettingsFile, read_settings_file
from council.settings.member import MemberName, MemberOptions, MemberSetting
from council.settings.server import Server, ServerName
from council.settings.tier import (
    MembersAtOnce,
    ProfileSetting,
    TierName,
    TierSetting,
    WrongSetting,
    tiers_with,
    with_tier_limits,
)
from recordings.folder import DEFAULT_GB, Library, default_folder
from runtime.environment import DEFAULT_DRAIN_S, MOST_DRAIN_S
from runtime.memory import read_memory
from schemas.errors import Refused
from schemas.rules.limits import limits_with
from schemas.rules.tiers import TierPolicy, tier_for_memory, tier_named
from schemas.sessions import MemberSpec, NamedCouncil
from transport.redis.prefix import checked_prefix, with_prefix

__all__ = ["Server", "Settings", "load_settings"]

T = TypeVar("T")
# The tables with known keys: by the first key that leads to one, and by how many keys lead to a key in it.
_TABLES: Mapping[tuple[str, int], type[pydantic.BaseModel]] = {
    ("servers", 3): Server,
    ("members", 3): MemberSetting,
    ("councils", 3): CouncilSetting,
    ("councils", 5): MemberOptions,
    ("tiers", 3): TierSetting,
    ("tiers", 4): ProfileSetting,
}


class Settings(BaseSettings):
    """Everything that can be set; unknown keys are refused."""

    model_config = SettingsConfigDict(
        # An empty variable counts as not set: processes of the council that do not need the token have one.
        env_prefix="COUNCIL_",
        env_ignore_empty=True,
        extra="forbid",
        validate_assignment=True,
        arbitrary_types_allowed=True,
    )

    tier: TierName | None = None
    models: list[str] | None = None
    host: str = "127.0.0.1"
    port: int = Field(8145, ge=0, le=65_535)
    # A secret, left out of the repr.
    token: str | None = Field(None, repr=False)
    origins: list[str] = []
    # It may contain a password, and is left out of the repr.
    redis_url: str | None = Field(None, repr=False)
    prefix: str | None = None
    ollama: bool = True
    allow_remote: bool = False
    servers: dict[ServerName, Server] = Field({}, max_length=64)
    # In order: where a request names no member, the first of them answer.
    members: dict[MemberName, MemberSetting] = Field({}, max_length=64)
    # Behind the members, of whose names it is checked.
    councils: dict[MemberName, CouncilSetting] = Field({}, max_length=64)
    # The specification's short form; it is written into `tiers` as well.
    tier_limits: dict[TierName, MembersAtOnce] = {}
    tiers: dict[TierName, TierSetting] = {}
    limits: dict[str, int] = {}
    ngram_tokens_per_s: float | None = Field(None, gt=0, le=1_000)
    drain_s: float = Field(DEFAULT_DRAIN_S, ge=0, le=MOST_DRAIN_S)
    record: Literal["off", "asked", "all"] = "asked"
    # A folder; None for the user's data folder.
    recordings: str | None = Field(None, min_length=1)
    recordings_gb: float = Field(DEFAULT_GB, gt=0, le=1_000_000)
    record_text: bool = True

    @field_validator("tiers")
    @classmethod
    def _consistent_tiers(cls, value: dict[TierName, TierSetting]) -> dict[TierName, TierSetting]:
        _placed(tiers_with, value)
        return value

    @field_validator("councils")
    @classmethod
    def _consistent_councils(
        cls, value: dict[MemberName, CouncilSetting], info: ValidationInfo
    ) -> dict[MemberName, CouncilSetting]:
        _placed(lambda councils: check_councils(councils, info.data.get("members", {})), value)
        return value

    @field_validator("token")
    @classmethod
    def _long_token(cls, value: str | None) -> str | None:
        return None if value is None else _placed(_allowed(checked_token), value)

    @field_validator("prefix")
    @classmethod
    def _valid_prefix(cls, value: str | None) -> str | None:
        return None if value is None else _placed(_allowed(checked_prefix), value)

    @field_validator("origins")
    @classmethod
    def _known_origins(cls, value: list[str]) -> list[str]:
        return list(_placed(_allowed(checked_origins), value))

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, value: dict[str, int]) -> dict[str, int]:
        return _placed(_checked_limits, value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment outweighs the file, whose values come as arguments. Flags are set afterwards."""
        return _Environment(settings_cls), init_settings

    @property
    def member_specs(self) -> tuple[MemberSpec, ...]:
        """The members of the settings, in order."""
        return tuple(member.spec(name) for name, member in self.members.items())

    @property
    def named_councils(self) -> tuple[NamedCouncil, ...]:
        """The councils of the settings, with their members as they are written."""
        return tuple(council.council(name) for name, council in self.councils.items())

    @property
    def library(self) -> Library | None:
        """The recordings' folder: the one that is set, else the user's; None where there is neither."""
        folder = Path(self.recordings).expanduser() if self.recordings else default_folder()
        return Library(folder.absolute()) if folder else None

    @property
    def is_port_chosen(self) -> bool:
        """True where a flag, a variable or a file sets the port; else the default may move to a free one."""
        return "port" in self.model_fields_set

    @property
    def tier_policies(self) -> dict[str, TierPolicy]:
        """Every tier, with what is set of it."""
        return tiers_with(self.tiers)

    @property
    def tier_policy(self) -> TierPolicy:
        """The tier that is set, or the one for this machine's memory."""
        if self.tier is not None:
            return tier_named(self.tier, self.tier_policies)
        return tier_for_memory(read_memory().usable_bytes, self.tier_policies)


class _Environment(EnvSettingsSource):
    """The COUNCIL_ variables. The short form of a tier's limit is written out: it outweighs the file's long form."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if token := token_from_file():
            values["token"] = token
        try:
            return with_tier_limits(values)
        except WrongSetting as error:
            raise Refused("bad_settings", f"The variable COUNCIL_TIER_LIMITS: {_at(error.keys, error)}.") from None

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            form = 'a list, such as ["a", "b"]' if field_name in ("models", "origins") else 'a table, such as {"a": 1}'
            sentence = f"The variable COUNCIL_{field_name.upper()} is not valid JSON: write {form}."
            raise Refused("bad_settings", sentence) from None


def _placed(parse: Callable[[Any], T], value: object) -> T:
    """The parsed value. Raises pydantic's error, with the keys that lead to what is wrong."""
    try:
        return parse(value)
    except WrongSetting as error:
        # Pydantic replaces {names} in the template: a message as a template could contain some.
        raise PydanticCustomError("wrong_setting", "{message}", {"message": str(error), "keys": error.keys}) from None


def _allowed(check: Callable[[Any], T]) -> Callable[[Any], T]:
    """The check, with its refusals as WrongSetting."""

    def checked(value: Any) -> T:
        try:
            return check(value)
        except Refused as error:
            raise WrongSetting((), str(error).rstrip(".")) from None

    return checked


def _checked_limits(limits: dict[str, int]) -> dict[str, int]:
    for name, value in limits.items():
        try:
            limits_with({name: value})
        except Refused as error:
            raise WrongSetting((name,), str(error).rstrip(".")) from None
    return limits


def load_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings; flags that are not None outweigh all else. Raises Refused, with the key and its line."""
    file = read_settings_file(config)
    _require_known(file)
    try:
        values = with_tier_limits(file.values)
    except WrongSetting as error:
        raise Refused("bad_settings", f"{_place(file, error.keys)}: {_at(error.keys, error)}.") from None
    if os.environ.get("REDIS_URL"):
        # It counts as a COUNCIL_ variable, and COUNCIL_REDIS_URL outweighs it.
        values["redis_url"] = os.environ["REDIS_URL"]
    try:
        settings = Settings(**values)
    except pydantic.ValidationError as error:
        raise Refused("bad_settings", _sentence(error, file)) from None
    except (pydantic.PydanticUserError, ValueError) as error:
        raise Refused("bad_settings", f"A COUNCIL_ variable cannot be read: {error}.") from None
    for name, value in flags.items():
        try:
            if value is not None:
                setattr(settings, name, value)
        except pydantic.ValidationError as error:
            raise Refused("bad_flag", f"--{name.replace('_', '-')}: {_problem(error)}.") from None
    # A private Redis has one council, and needs no prefix.
    if settings.redis_url:
        settings.redis_url = with_prefix(settings.redis_url, settings.prefix)
    return settings


def _require_known(file: SettingsFile) -> None:
    """Raises Refused for an unknown setting. To be called first: some names are options of the settings library."""
    known = list(Settings.model_fields)
    for name in file.values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else f"; known settings: {', '.join(known)}."
            raise Refused("bad_settings", f"{_place(file, [name])}: {name}: there is no such setting{meant}")


def _sentence(error: pydantic.ValidationError, file: SettingsFile) -> str:
    """The first error: its place, and what the value must be."""
    keys = _keys(error)
    environment = EnvSettingsSource(Settings)()
    for values in (environment, file.values):
        # The person wrote the short form, which was written into `tiers`.
        short = ["tier_limits", *keys[1:2]]
        if keys[0] == "tiers" and _depth(values, keys) < len(keys) and _depth(values, short) == len(short) == 2:
            keys = short
    if _depth(environment, keys) >= max(1, _depth(file.values, keys)):
        place = f"The variable COUNCIL_{keys[0].upper()}"
        return f"{place}: {_at(keys[1:], _problem(error))}."
    return f"{_place(file, keys)}: {_at(keys, _problem(error))}."


def _keys(error: pydantic.ValidationError) -> list[str]:
    """The keys that lead to the first error."""
    first = error.errors(include_input=False)[0]
    keys = [str(part) for part in first["loc"] if part != "[key]"]
    return [*keys, *first.get("ctx", {}).get("keys", ())]


def _problem(error: pydantic.ValidationError) -> str:
    first = error.errors(include_input=False)[0]
    if first["type"] == "extra_forbidden":
        first_key, *_, name = map(str, first["loc"])
        if any(word in name.lower() for word in ("key", "token", "secret", "password")):
            return "there is no such setting: put a server's key into a variable and name that variable with key_env"
        table = _TABLES[first_key, len(first["loc"])]
        return f"there is no such setting; known settings: {', '.join(table.model_fields)}"
    if first["type"] in ("dict_type", "model_type"):
        return "write a table of names and values"
    if first["type"] == "list_type":
        return 'write a list, such as ["a", "b"]'
    message = first["msg"].removeprefix("Value error, ").partition(" after validation")[0].rstrip(".")
    return message[0].lower() + message[1:]


def _depth(values: Mapping[str, Any], keys: Sequence[str]) -> int:
    """How many of the nested keys are in `values`."""
    inner: Any = values
    for depth, key in enumerate(keys):
        if isinstance(inner, list) and key.isdigit() and int(key) < len(inner):
            inner = inner[int(key)]
        elif isinstance(inner, Mapping) and key in inner:
            inner = inner[key]
        else:
            return depth
    return len(keys)


def _place(file: SettingsFile, keys: Sequence[str]) -> str:
    return f"{file.path}, line {file.line_of(keys)}"


def _at(keys: Sequence[str], problem: object) -> str:
    return ": ".join(filter(None, (".".join(keys), str(problem))))
