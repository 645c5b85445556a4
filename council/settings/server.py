"""A model server in the settings: `[servers.NAME]`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, field_validator

from producers.source import ModelSource

# Names are in the lines of tables, and in paths.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# No known model has a longer name, and it still fits a line.
_MOST_MODEL_CHARS = 200
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# Prefixes of known services' keys that could begin a variable's name as well.
_KEY_BEGINNINGS = ("sk_", "pk_", "rk_", "hf_", "gsk_", "ghp_", "xai_", "nvapi_", "AIza", "eyJ")
# The words of a variable's name are shorter; a key is one run of letters and digits.
_KEY_RUN = re.compile(r"[A-Za-z0-9]{20,}")
_SHORTEST_KEY = 16
# Ollama's own default is five minutes; no council needs more than a day.
_MOST_KEEP_ALIVE_S = 86_400
_DURATION = re.compile(r"(?:([0-9]{1,5})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,5})s)?")


def _server_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a server's name is 1 to 64 letters, digits, - and _")
    return name


def _model_name(name: str) -> str:
    if name != name.strip() or not name or len(name) > _MOST_MODEL_CHARS or not name.isprintable() or "," in name:
        raise ValueError(f"a model's name is 1 to {_MOST_MODEL_CHARS} printable characters without a comma")
    return name


ServerName = Annotated[str, AfterValidator(_server_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]


class Server(BaseModel):
    """A model server: its address, its interface, and the models of it that the council may use (empty: all).

    `key_env` is the name of the environment variable that contains its API key; the key itself is never a setting.
    `remote` overrides the rule by address. `parallel` and `max_loaded` replace what the server reports.
    `allow_council`: the server may be another council.
    """

    model_config = ConfigDict(extra="forbid")

    url: HttpUrl
    models: list[ModelName] = Field([], min_length=1, max_length=1_000)
    api: Literal["openai", "ollama"] = "openai"
    key_env: str | None = None
    remote: bool | None = None
    parallel: int | None = Field(None, ge=1, le=64)
    max_loaded: int | None = Field(None, ge=1, le=64)
    keep_alive: int = 600
    allow_council: bool = False

    @field_validator("url")
    @classmethod
    def _nothing_but_an_address(cls, url: HttpUrl) -> HttpUrl:
        # An @ behind the host ends a password with a raw / that is not percent-encoded.
        if url.username or url.password or "@" in str(url):
            raise ValueError(
                "other users of this machine can see a password in a URL: put the server's key into an environment "
                "variable and name that variable with key_env"
            )
        if url.query or url.fragment or url.port == 0:
            raise ValueError("give only the server's address, such as http://127.0.0.1:8080")
        return url

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: list[str]) -> list[str]:
        for index, model in enumerate(models):
            if model in models[:index]:
                raise ValueError(f"{model!r} is named twice: name each model once")
        return models

    @field_validator("key_env")
    @classmethod
    def _a_variable_and_no_key(cls, name: str | None) -> str | None:
        """The message does not contain the value, which may be a key."""
        if name is not None and (not _VARIABLE.fullmatch(name) or looks_like_a_key(name)):
            raise ValueError(
                "this is not the name of an environment variable: put the key into a variable, such as MY_SERVER_KEY, "
                "and write that name here; never write a key into a file"
            )
        return name

    @field_validator("keep_alive", mode="before")
    @classmethod
    def _seconds(cls, value: object) -> int:
        return keep_alive_s(value)

    @property
    def address(self) -> str:
        """The URL without a trailing slash."""
        return str(self.url).rstrip("/")

    @property
    def is_remote(self) -> bool:
        """True where a prompt for this server leaves this machine and its network."""
        if self.remote is not None:
            return self.remote
        # Imported here: it imports an HTTP client, and most commands need none.
        from producers.servers.address import is_remote

        return is_remote(self.address)

    def source(self, model: str) -> ModelSource:
        """The source of one of its models."""
        return ModelSource(
            self.api, model, url=self.address, key_env=self.key_env or "", remote=self.is_remote,
            parallel=self.parallel or 0, max_loaded=self.max_loaded or 0, keep_alive_s=self.keep_alive,
            allow_council=self.allow_council,
        )  # fmt: skip


def looks_like_a_key(name: str) -> bool:
    """True for a text that is probably an API key, not the name of a variable."""
    if name.startswith(_KEY_BEGINNINGS) and len(name) >= _SHORTEST_KEY:
        return True
    runs = _KEY_RUN.findall(name)
    return any(any(c.isdigit() for c in run) and any(c.isalpha() for c in run) for run in runs)


def keep_alive_s(value: object) -> int:
    """The seconds in a number, or in a text such as "10m", "30s" or "1h30m". Raises ValueError."""
    seconds = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and len(value) <= 24:
        text = value.strip()
        if re.fullmatch(r"[0-9]{1,6}", text):
            seconds = int(text)
        elif text and (match := _DURATION.fullmatch(text)):
            hours, minutes, rest = (int(part or 0) for part in match.groups())
            seconds = 3_600 * hours + 60 * minutes + rest
    if seconds is None or not 1 <= seconds <= _MOST_KEEP_ALIVE_S:
        raise ValueError('give a time from 1 second to 24 hours, such as "10m", "30s", "1h" or 600 (seconds)')
    return seconds
