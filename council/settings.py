"""Settings: `council.toml` in the working directory or at --config, COUNCIL_* variables, flags; in rising order."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.errors import Refused
from schemas.sessions import limits_with
from schemas.tiers import TierPolicy, tier_for_memory, tier_named

DEFAULT_FILE = "council.toml"


class Server(BaseModel):
    """An OpenAI-compatible model server: where it is, and which of its models the council may use."""

    model_config = ConfigDict(extra="forbid")

    url: HttpUrl
    models: list[str] = Field(min_length=1)


class Settings(BaseSettings):
    """All that a person may set; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix="COUNCIL_", extra="forbid", validate_assignment=True)

    tier: Literal["low", "mid", "high", "hybrid"] | None = None
    models: list[str] | None = None
    host: str = "127.0.0.1"
    port: int = Field(8145, ge=0, le=65_535)
    redis_url: str | None = None
    servers: dict[str, Server] = {}
    limits: dict[str, int] = {}
    ngram_tokens_per_s: float | None = Field(None, gt=0, le=1_000)

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, value: dict[str, int]) -> dict[str, int]:
        try:
            limits_with(value)
        except Refused as error:
            raise ValueError(str(error)) from None
        return value

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
        return env_settings, init_settings

    @property
    def tier_policy(self) -> TierPolicy:
        """The tier that is set, or the one that this machine's memory calls for."""
        if self.tier is not None:
            return tier_named(self.tier)
        return tier_for_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def load_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings with the flags that are not None on top. Raises Refused with the key, and the line where it stands
    in a file."""
    path = config or Path(DEFAULT_FILE)
    text, values = _read(path, required=config is not None)
    if os.environ.get("REDIS_URL"):
        # The name that every role knows ranks as a variable of ours, below our own one.
        values["redis_url"] = os.environ["REDIS_URL"]
    try:
        settings = Settings(**values)
    except pydantic.ValidationError as error:
        raise Refused("bad_settings", _sentence(error, values, path, text)) from None
    except (pydantic.PydanticUserError, ValueError) as error:
        raise Refused("bad_settings", f"A COUNCIL_ variable cannot be read: {error}.") from None
    for name, value in flags.items():
        try:
            if value is not None:
                setattr(settings, name, value)
        except pydantic.ValidationError as error:
            raise Refused("bad_flag", f"--{name.replace('_', '-')}: {_problem(error)}.") from None
    return settings


def _read(path: Path, *, required: bool) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        if required:
            raise Refused("no_settings", f"There is no settings file {path}: correct --config.") from None
        return "", {}
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("bad_settings", f"{path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused("bad_settings", f"{path} is no valid TOML: {error}.") from None


def _sentence(error: pydantic.ValidationError, values: dict[str, Any], path: Path, text: str) -> str:
    """The first thing that is wrong, where it stands, and what it should be."""
    keys = [str(part) for part in error.errors()[0]["loc"]]
    if keys[0] in values:
        return f"{path}, line {_line_of(text, keys)}: {'.'.join(keys)}: {_problem(error)}."
    return f"The variable COUNCIL_{keys[0].upper()}: {_problem(error)}."


def _problem(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return "there is no such setting"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return message[0].lower() + message[1:]


def _line_of(text: str, keys: list[str]) -> int:
    """The line of the innermost of `keys` that the file spells out."""
    found, names = 1, list(keys)
    for number, line in enumerate(text.splitlines(), 1):
        table = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        assigned = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if table and (path := _parts(table[1])) and keys[: len(path)] == path:
            found, names = number, keys[len(path) :]
        elif assigned and names and _parts(assigned[1])[0] == names[0]:
            found, names = number, names[1:]
    return found


def _parts(dotted: str) -> list[str]:
    return [part.strip(" \"'") for part in dotted.split(".")]
