"""JSON bodies of requests, and the messages about invalid ones."""

from __future__ import annotations

from typing import TypeVar, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from consumers.web.api.members import member_index
from consumers.web.door.request import read_body
from schemas.control import Play
from schemas.errors import Refused
from schemas.rules.chat import Chat, chat_of
from schemas.rules.members import member_spec_of
from schemas.rules.what_if import Change, RequestChanges
from schemas.sessions import MemberSpec, Opening, SessionRequest, Sync, Weighting

_DEFAULTS = SessionRequest(prompt="")
# Slower than a quarter is of no use; at 64 an hour takes a minute.
_SLOWEST, _FASTEST = 0.25, 64.0
# Ten years of windows.
_MOST_WINDOWS = 2 * 10**10

B = TypeVar("B", bound=BaseModel)


class MemberBody(BaseModel):
    """A member with a name, options or a system text of its own. A field that is left out has the session's value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    name: str = ""
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    system: str | None = None


def _members_in(models: tuple[str | MemberBody, ...]) -> tuple[str | MemberSpec, ...]:
    return tuple(one if isinstance(one, str) else member_spec_of(one.model_dump()) for one in models)


class SessionBody(BaseModel):
    """A request to the council: a prompt, or a chat as `messages`. A value outside its range is refused with a message
    that names the range."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    models: tuple[str | MemberBody, ...] = ()
    weights: dict[str, float] = {}
    tier: str | None = None
    system: str = ""
    max_tokens: int = _DEFAULTS.max_tokens
    seed: int | None = None
    temperature: float = _DEFAULTS.temperature
    options: dict[str, dict[str, float]] = {}
    allow_remote: bool = False
    weighting: Weighting = _DEFAULTS.weighting
    sync: Sync = _DEFAULTS.sync
    record: bool = False

    def request(self) -> SessionRequest:
        """The session request: all fields but `tier` and `record`. Raises Refused for a prompt and messages together,
        for neither, and for messages that are not a valid chat."""
        chat = self._chat()
        if chat.system and self.system:
            raise Refused("two_systems", "There are two system texts, in 'system' and in the messages: leave one out.")
        plain = self.model_dump(exclude={"tier", "record", "prompt", "messages", "system", "models"})
        return SessionRequest(
            prompt=chat.prompt, system=self.system or chat.system, history=chat.history,
            models=_members_in(self.models),
            **plain,
        )  # fmt: skip

    def _chat(self) -> Chat:
        if self.messages is None and self.prompt is None:
            raise Refused("bad_request", "The field 'prompt' is missing.")
        if self.messages is not None and self.prompt is not None:
            raise Refused("bad_request", "Send 'prompt' or 'messages', not both.")
        return Chat(self.prompt) if self.prompt is not None else chat_of(self.messages or ())


class WhatIfBody(BaseModel):
    """A branch of a session: `say` is put at the byte `at` of an answer, or in the place of its word number `word`;
    `member` is the index, name or id of its member, by default the first one whose answer has that place. A field of
    the request that is left out has the parent's value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    say: str
    at: int | None = None
    word: int | None = None
    member: str | int | None = None
    models: tuple[str | MemberBody, ...] = ()
    weights: dict[str, float] | None = None
    tier: str | None = None
    max_tokens: int | None = None
    seed: int | None = None
    temperature: float | None = None
    options: dict[str, dict[str, float]] | None = None
    allow_remote: bool | None = None
    weighting: Weighting | None = None
    sync: Sync | None = None
    record: bool = False

    def change(self, opening: Opening) -> Change:
        """The change of the parent `opening`. Raises Refused for an unknown member."""
        member = None if self.member is None else member_index(str(self.member), opening)
        return Change(self.say, self.at, self.word, member)

    def given(self) -> RequestChanges:
        """The fields of the request that the body has. Raises Refused for a member that is not valid."""
        plain = self.model_dump(exclude={"say", "at", "word", "member", "models", "tier", "record"}, exclude_none=True)
        members = {"models": _members_in(self.models)} if self.models else {}
        return cast(RequestChanges, {**plain, **members})


class ReplayBody(BaseModel):
    """How a replay begins. `rate` 1 is the recorded speed, 0 as fast as the council computes. With `frames` the
    recorded frames are shown and nothing is computed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rate: float = 1.0
    paused: bool = False
    frames: bool = False

    def order(self) -> Play:
        """The order to the replay. Raises Refused."""
        return Play(rate=_checked_rate(self.rate), paused=self.paused)


class PlaybackBody(BaseModel):
    """A change of a running replay; a field that is left out does not change.

    `window` is the window to show next; `step` moves by so many windows, back if negative.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rate: float | None = None
    paused: bool | None = None
    window: int | None = None
    step: int = 0

    def order(self) -> Play:
        """The order to the replay. Raises Refused."""
        rate = None if self.rate is None else _checked_rate(self.rate)
        if self.window is not None and not 0 <= self.window <= _MOST_WINDOWS:
            raise Refused("bad_window", f"window is {self.window}: give a window's index, from 0 to {_MOST_WINDOWS}.")
        if abs(self.step) > _MOST_WINDOWS:
            raise Refused("bad_step", f"step is {self.step}: give at most {_MOST_WINDOWS} windows, on or back.")
        order = Play(rate, self.paused, self.window, self.step)
        if order == Play():
            raise Refused("bad_request", "The body changes nothing: send rate, paused, window or step.")
        return order


def _checked_rate(rate: float) -> float:
    if rate != 0 and not _SLOWEST <= rate <= _FASTEST:
        raise Refused(
            "bad_rate",
            f"rate is {rate:g}: give {_SLOWEST:g} to {_FASTEST:g}, or 0 for as fast as the council computes.",
        )
    return rate


async def read_json_body(request: web.Request, shape: type[B]) -> B:
    """The body of a request. Raises Refused with one sentence about its first error."""
    if request.content_type != "application/json":
        raise Refused("unsupported_media_type", "Send the body as application/json.", status=415)
    return checked_body(await read_body(request), shape)


def checked_body(raw: bytes, shape: type[B]) -> B:
    """The body in `raw`. Raises Refused with one sentence about its first error."""
    try:
        return shape.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    # A member is a string or an object, and pydantic reports its errors as both: those of an object's fields count.
    of_members = (one for one in errors if "MemberBody" in one["loc"] and one["type"] != "model_type")
    first = next(of_members, errors[0])
    if first["type"] == "json_invalid":
        raise Refused("bad_json", f"The body is not valid JSON ({first['msg'].removeprefix('Invalid JSON: ')}).")
    if not first["loc"]:
        raise Refused("bad_request", f"The body is not a JSON object: send one such as {_EXAMPLES[shape]}.")
    # pydantic puts the kind that it tried, such as a string or an object, into the path of the field.
    field = ".".join(str(part) for part in first["loc"] if part not in ("str", "int", "MemberBody"))
    if first["type"] == "extra_forbidden":
        known = MemberBody if "MemberBody" in first["loc"] else shape
        raise Refused("bad_request", f"Unknown field {field!r}; known fields: {', '.join(known.model_fields)}.")
    if first["type"] == "missing":
        raise Refused("bad_request", f"The field {field!r} is missing.")
    raise Refused("bad_request", f"The field {field!r} is wrong: {_lowered(first['msg'])}.")


_EXAMPLES: dict[type[BaseModel], str] = {
    SessionBody: '{"prompt": "..."}', WhatIfBody: '{"say": "...", "word": 3}', ReplayBody: '{"rate": 1}',
    PlaybackBody: '{"paused": true}',
}  # fmt: skip


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
