"""JSON bodies of requests, and the messages about invalid ones."""

from __future__ import annotations

import re
from typing import TypeVar, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from consumers.web.api.fields import (
    FASTEST,
    MOST_WINDOWS,
    SLOWEST,
    ByteAt,
    MaxTokens,
    MemberAt,
    NamedTier,
    NotEmpty,
    Options,
    OwnName,
    Rate,
    Seed,
    ShownChat,
    Step,
    Temperature,
    Weights,
    WindowAt,
    WordAt,
    Written,
)
from consumers.web.api.members import member_index
from consumers.web.door.request import read_body
from schemas.control import Play
from schemas.errors import Refused
from schemas.rules.arguments import RequestChanges
from schemas.rules.chat import Chat, chat_of
from schemas.rules.members import member_spec_of
from schemas.rules.what_if import Change
from schemas.sessions import MemberSpec, Opening, SessionRequest, Sync, Weighting

_DEFAULTS = SessionRequest(prompt="")

# In the path of an error's field, the kind that pydantic tried.
_KIND = re.compile(r"str|int|MemberBody|function-.*")

B = TypeVar("B", bound=BaseModel)


_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class MemberBody(BaseModel):
    """A member with a name, options or a system text of its own. A field that is left out has the session's value."""

    model_config = _STRICT

    model: Written
    name: OwnName = ""
    temperature: Temperature | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None
    system: str | None = None


Members = tuple[Written | MemberBody, ...]


def _members_in(models: Members) -> tuple[str | MemberSpec, ...]:
    return tuple(one if isinstance(one, str) else member_spec_of(one.model_dump()) for one in models)


class _Request(BaseModel):
    """What a request to the council has beside its prompt or its messages."""

    model_config = _STRICT

    models: Members = ()
    weights: Weights = {}
    tier: NamedTier | None = None
    system: str = ""
    max_tokens: MaxTokens = _DEFAULTS.max_tokens
    seed: Seed | None = None
    temperature: Temperature = _DEFAULTS.temperature
    options: Options = {}
    allow_remote: bool = False
    weighting: Weighting = _DEFAULTS.weighting
    sync: Sync = _DEFAULTS.sync
    record: bool = False


class PromptSessionBody(_Request):
    """A request to the council with a prompt."""

    prompt: Written


class ChatSessionBody(_Request):
    """A request to the council with a chat."""

    messages: ShownChat


class SessionBody(_Request):
    """A request to the council: a prompt, or a chat as `messages`. A value outside its range is refused with a message
    that names the range."""

    prompt: str | None = None
    messages: tuple[dict[str, str], ...] | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One of the two is required."""
        return {"description": cls.__doc__, **handler(TypeAdapter(PromptSessionBody | ChatSessionBody).core_schema)}

    def request(self) -> SessionRequest:
        """The session request: all fields but `tier` and `record`. Raises Refused for a prompt and messages together,
        for neither, and for messages that are not a valid chat."""
        chat = self._chat()
        if chat.system and self.system:
            raise Refused(
                "two_systems",
                "There are two system texts, in 'system' and in the messages: leave one out.",
                status=409,
            )
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


class _Branch(BaseModel):
    """What a branch has beside its place. A field of the request that is left out has the parent's value."""

    model_config = _STRICT

    say: NotEmpty
    member: MemberAt | None = None
    models: Members = ()
    weights: Weights | None = None
    tier: NamedTier | None = None
    max_tokens: MaxTokens | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    options: Options | None = None
    allow_remote: bool | None = None
    weighting: Weighting | None = None
    sync: Sync | None = None
    record: bool = False


class ByteWhatIfBody(_Branch):
    """A branch at the byte `at` of an answer, which stays the same up to there."""

    at: ByteAt


class WordWhatIfBody(_Branch):
    """A branch with `say` in the place of a word of an answer, of which the first is 1."""

    word: WordAt


class WhatIfBody(_Branch):
    """A branch of a session: `say` is put at the byte `at` of an answer, or in the place of its word number `word`;
    `member` is the index, name or id of its member, by default the first one whose answer has that place."""

    at: ByteAt | None = None
    word: WordAt | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One of the two places is required."""
        return {"description": cls.__doc__, **handler(TypeAdapter(ByteWhatIfBody | WordWhatIfBody).core_schema)}

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

    model_config = _STRICT

    rate: Rate = 1.0
    paused: bool = False
    frames: bool = False

    def order(self) -> Play:
        """The order to the replay. Raises Refused."""
        return Play(rate=_checked_rate(self.rate), paused=self.paused)


class PlaybackBody(BaseModel):
    """A change of a running replay; a field that is left out does not change.

    `window` is the window to show next; `step` moves by so many windows, back if negative.
    """

    model_config = _STRICT

    rate: Rate | None = None
    paused: bool | None = None
    window: WindowAt | None = None
    step: Step = 0

    def order(self) -> Play:
        """The order to the replay; without a field it changes nothing. Raises Refused."""
        rate = None if self.rate is None else _checked_rate(self.rate)
        if self.window is not None and not 0 <= self.window <= MOST_WINDOWS:
            raise Refused("bad_window", f"window is {self.window}: give a window's index, from 0 to {MOST_WINDOWS}.")
        if abs(self.step) > MOST_WINDOWS:
            raise Refused("bad_step", f"step is {self.step}: give at most {MOST_WINDOWS} windows, on or back.")
        return Play(rate, self.paused, self.window, self.step)


def _checked_rate(rate: float) -> float:
    if rate != 0 and not SLOWEST <= rate <= FASTEST:
        raise Refused(
            "bad_rate",
            f"rate is {rate:g}: give {SLOWEST:g} to {FASTEST:g}, or 0 for as fast as the council computes.",
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
    field = ".".join(str(part) for part in first["loc"] if not _KIND.fullmatch(str(part)))
    if first["type"] == "extra_forbidden":
        known = MemberBody if "MemberBody" in first["loc"] else shape
        # Its own fields before those that it shares.
        names = dict.fromkeys([*known.__annotations__, *known.model_fields])
        raise Refused("bad_request", f"Unknown field {field!r}; known fields: {', '.join(names)}.")
    if first["type"] == "missing":
        raise Refused("bad_request", f"The field {field!r} is missing.")
    raise Refused("bad_request", f"The field {field!r} is wrong: {_lowered(first['msg'])}.")


_EXAMPLES: dict[type[BaseModel], str] = {
    SessionBody: '{"prompt": "..."}', WhatIfBody: '{"say": "...", "word": 3}', ReplayBody: '{"rate": 1}',
    PlaybackBody: '{"paused": true}',
}  # fmt: skip


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
