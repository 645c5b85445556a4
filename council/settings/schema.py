"""Settings: `council.toml` or `council.yaml` in the working directory or at --config, COUNCIL_* variables, flags; in
rising order.

    file ──with_tier_limits──┐
    COUNCIL_* ───────────────┼──▶ Settings ◀── flags         a wrong value is refused where it was written
    REDIS_URL ───────────────┘
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from consumers.web.door.access import checked_token
from consumers.web.door.guard import checked_origins
from council.settings.file import SettingsFile, read_settings_file
from council.settings.member import MemberName, MemberSetting
from council.settings.server import Server, ServerName
from council.settings.tier import WrongSetting, checked_tier_limits, tiers_with, with_tier_limits
from recordings.folder import DEFAULT_GB, Library, default_folder
from runtime.memory import read_memory
from schemas.errors import Refused
from schemas.rules.tiers import TIERS, TierPolicy, tier_for_memory, tier_named
from schemas.sessions import MemberSpec, limits_with

__all__ = ["Server", "Settings", "load_settings"]

T = TypeVar("T")


class Settings(BaseSettings):
    """All that a person may set; unknown keys are refused. `tiers` holds every tier, changed or not."""

    model_config = SettingsConfigDict(
        env_prefix="COUNCIL_", extra="forbid", validate_assignment=True, arbitrary_types_allowed=True
    )

    tier: Literal["low", "mid", "high", "hybrid"] | None = None
    models: list[str] | None = None
    host: str = "127.0.0.1"
    port: int = Field(8145, ge=0, le=65_535)
    # A secret: it is in no repr.
    token: str | None = Field(None, repr=False)
    origins: list[str] = []
    # It may hold a password: it is in no repr.
    redis_url: str | None = Field(None, repr=False)
    ollama: bool = True
    allow_remote: bool = False
    servers: dict[ServerName, Server] = Field({}, max_length=64)
    # In order: the first of them answer where a request names no member.
    members: dict[MemberName, MemberSetting] = Field({}, max_length=64)
    # The specification's short form; what it says is in `tiers` as well.
    tier_limits: dict[str, int] = {}
    tiers: Mapping[str, TierPolicy] = Field(TIERS, validate_default=False)
    limits: dict[str, int] = {}
    ngram_tokens_per_s: float | None = Field(None, gt=0, le=1_000)
    record: Literal["off", "asked", "all"] = "asked"
    # The folder; without one, the user's data folder.
    recordings: str | None = Field(None, min_length=1)
    recordings_gb: float = Field(DEFAULT_GB, gt=0, le=1_000_000)
    record_text: bool = True

    @field_validator("tier_limits", mode="plain")
    @classmethod
    def _known_tier_limits(cls, value: object) -> dict[str, int]:
        return _placed(checked_tier_limits, value)

    @field_validator("tiers", mode="plain")
    @classmethod
    def _known_tiers(cls, value: object) -> Mapping[str, TierPolicy]:
        return _placed(tiers_with, value)

    @field_validator("token")
    @classmethod
    def _long_token(cls, value: str | None) -> str | None:
        return None if value is None else _placed(_allowed(checked_token), value)

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
        """The environment outweighs the file, whose values come as arguments; flags are laid over both afterwards."""
        return _Environment(settings_cls), init_settings

    @property
    def member_specs(self) -> tuple[MemberSpec, ...]:
        """The members that have a name of their own, in order."""
        return tuple(member.spec(name) for name, member in self.members.items())

    @property
    def library(self) -> Library | None:
        """The recordings' folder: the one that is set, else the user's; None where there is neither."""
        folder = Path(self.recordings).expanduser() if self.recordings else default_folder()
        return Library(folder.absolute()) if folder else None

    @property
    def is_port_chosen(self) -> bool:
        """True where a flag, a variable or a file contains the port; the default may move to a free one."""
        return "port" in self.model_fields_set

    @property
    def tier_policy(self) -> TierPolicy:
        """The tier that is set, or the one that this machine's memory calls for."""
        if self.tier is not None:
            return tier_named(self.tier, self.tiers)
        return tier_for_memory(read_memory().usable_bytes, self.tiers)


class _Environment(EnvSettingsSource):
    """The COUNCIL_ variables; the short form of a tier's limit is written out, so that it outweighs the file's long
    one."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if values.get("token") == "":
            # As the council's own processes have it that are not to know it.
            del values["token"]
        try:
            return with_tier_limits(values)
        except WrongSetting as error:
            raise Refused("bad_settings", f"The variable COUNCIL_TIER_LIMITS: {_at(error.keys, error)}.") from None


def _placed(parse: Callable[[Any], T], value: object) -> T:
    """What `parse` makes of the value; where that is wrong, pydantic is told the keys that lead there."""
    try:
        return parse(value)
    except WrongSetting as error:
        # Pydantic replaces {names} in a template by the context; the message comes as one, and is left alone so.
        raise PydanticCustomError("wrong_setting", "{message}", {"message": str(error), "keys": error.keys}) from None


def _allowed(check: Callable[[Any], T]) -> Callable[[Any], T]:
    """The check, whose refusals are said of the setting."""

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
    """The settings with the flags that are not None on top. Raises Refused with the key, and the line where it stands
    in a file."""
    file = read_settings_file(config)
    _require_known(file)
    try:
        values = with_tier_limits(file.values)
    except WrongSetting as error:
        raise Refused("bad_settings", f"{_place(file, error.keys)}: {_at(error.keys, error)}.") from None
    if os.environ.get("REDIS_URL"):
        # The name that every role knows ranks as a variable of ours, below our own one.
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
    return settings


def _require_known(file: SettingsFile) -> None:
    """Raises Refused for a name that is no setting. Before all else: some names steer the library that reads them."""
    known = list(Settings.model_fields)
    for name in file.values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else f": the settings are {', '.join(known)}."
            raise Refused("bad_settings", f"{_place(file, [name])}: {name}: there is no such setting{meant}")


def _sentence(error: pydantic.ValidationError, file: SettingsFile) -> str:
    """The first thing that is wrong, where it stands, and what it should be."""
    keys = _keys(error)
    environment = EnvSettingsSource(Settings)()
    for values in (environment, file.values):
        # The short form was written out; it is the one that the person wrote.
        short = ["tier_limits", *keys[1:2]]
        if keys[0] == "tiers" and _depth(values, keys) < len(keys) and _depth(values, short) == len(short) == 2:
            keys = short
    if _depth(environment, keys) >= max(1, _depth(file.values, keys)):
        place = f"The variable COUNCIL_{keys[0].upper()}"
        return f"{place}: {_at(keys[1:], _problem(error))}."
    return f"{_place(file, keys)}: {_at(keys, _problem(error))}."


def _keys(error: pydantic.ValidationError) -> list[str]:
    """The keys that lead to the first thing that is wrong."""
    first = error.errors(include_input=False)[0]
    keys = [str(part) for part in first["loc"] if part != "[key]"]
    return [*keys, *first.get("ctx", {}).get("keys", ())]


def _problem(error: pydantic.ValidationError) -> str:
    first = error.errors(include_input=False)[0]
    if first["type"] == "extra_forbidden":
        is_secret = any(word in str(first["loc"][-1]).lower() for word in ("key", "token", "secret", "password"))
        return "there is no such setting" + (
            ": put a server's key into an environment variable and name that variable with key_env" if is_secret else ""
        )
    if first["type"] in ("dict_type", "model_type"):
        return "write a table of names and values"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return message[0].lower() + message[1:]


def _depth(values: Mapping[str, Any], keys: Sequence[str]) -> int:
    """How many of the keys, one below the other, `values` has."""
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
