"""Bodies of requests in JSON, checked where they come in. What the sentence of an error says is written here."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from consumers.web.door.reading import read_body
from schemas.control import Play
from schemas.errors import Refused
from schemas.rules.chat import Chat, chat_of
from schemas.rules.members import member_spec_of
from schemas.sessions import SessionRequest, Sync, Weighting

_DEFAULTS = SessionRequest(prompt="")
# Slower than a quarter nobody watches; at 64 an hour takes a minute.
_SLOWEST, _FASTEST = 0.25, 64.0
# Ten years of windows.
_MOST_WINDOWS = 2 * 10**10

B = TypeVar("B", bound=BaseModel)


class MemberBody(BaseModel):
    """A member with a name, options or a system text of its own; what is left out is the session's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    name: str = ""
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    system: str | None = None


class SessionBody(BaseModel):
    """What a person may ask for: a prompt, or a chat as `messages`. Ranges are the admission's business, which knows
    the models."""

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
        """The same, less the tier and whether it is recorded. Raises Refused for a prompt and messages at once, for
        neither, and for messages that make no chat."""
        chat = self._chat()
        if chat.system and self.system:
            raise Refused("two_systems", "'system' and the messages' own system text contradict: leave one out.")
        plain = self.model_dump(exclude={"tier", "record", "prompt", "messages", "system", "models"})
        return SessionRequest(
            prompt=chat.prompt, system=self.system or chat.system, history=chat.history,
            models=tuple(one if isinstance(one, str) else member_spec_of(one.model_dump()) for one in self.models),
            **plain,
        )  # fmt: skip

    def _chat(self) -> Chat:
        if self.messages is None and self.prompt is None:
            raise Refused("bad_request", "The field 'prompt' is missing.")
        if self.messages is not None and self.prompt is not None:
            raise Refused("bad_request", "Send 'prompt' or 'messages', not both.")
        return Chat(self.prompt) if self.prompt is not None else chat_of(self.messages or ())


class ReplayBody(BaseModel):
    """How a replay begins: `rate` 1 is the recorded pace, 0 as fast as the council computes. With `frames` the recorded
    frames are shown as they are."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rate: float = 1.0
    paused: bool = False
    frames: bool = False

    def word(self) -> Play:
        """The word to the replay. Raises Refused."""
        return Play(rate=_checked_rate(self.rate), paused=self.paused)


class PlaybackBody(BaseModel):
    """How a replay goes on; what is left out stays as it is.

    `window` is shown next; `step` moves by as many windows.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rate: float | None = None
    paused: bool | None = None
    window: int | None = None
    step: int = 0

    def word(self) -> Play:
        """The word to the replay. Raises Refused."""
        rate = None if self.rate is None else _checked_rate(self.rate)
        if self.window is not None and not 0 <= self.window <= _MOST_WINDOWS:
            raise Refused("bad_window", f"window is {self.window}: give a window's index, a whole number from 0 on.")
        if abs(self.step) > _MOST_WINDOWS:
            raise Refused("bad_step", f"step is {self.step}: give how many windows, back or forth.")
        word = Play(rate, self.paused, self.window, self.step)
        if word == Play():
            raise Refused("bad_request", "Nothing is asked for: send rate, paused, window or step.")
        return word


def _checked_rate(rate: float) -> float:
    if rate != 0 and not _SLOWEST <= rate <= _FASTEST:
        raise Refused(
            "bad_rate",
            f"rate is {rate:g}: give {_SLOWEST:g} to {_FASTEST:g}, or 0 for as fast as the council computes.",
        )
    return rate


async def read_json_body(request: web.Request, shape: type[B]) -> B:
    """The body of a request. Raises Refused with one sentence about the first thing that is wrong."""
    if request.content_type != "application/json":
        raise Refused("unsupported_media_type", "Send the body as application/json.", status=415)
    return checked_body(await read_body(request), shape)


def checked_body(raw: bytes, shape: type[B]) -> B:
    """The body in `raw`. Raises Refused with one sentence about the first thing that is wrong."""
    try:
        return shape.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    # A member is a text or an object: pydantic tells what is wrong with it as either. Of an object its fields count.
    of_members = (one for one in errors if "MemberBody" in one["loc"] and one["type"] != "model_type")
    first = next(of_members, errors[0])
    if first["type"] == "json_invalid":
        raise Refused("bad_json", f"The body is no JSON ({first['msg'].removeprefix('Invalid JSON: ')}).")
    if not first["loc"]:
        raise Refused("bad_request", f"The body is no JSON object: send one such as {_EXAMPLES[shape]}.")
    # Which of the two pydantic tried stands in the place of what was written.
    field = ".".join(str(part) for part in first["loc"] if part not in ("str", "MemberBody"))
    if first["type"] == "extra_forbidden":
        known = MemberBody if "MemberBody" in first["loc"] else shape
        raise Refused("bad_request", f"There is no field {field!r}: the fields are {', '.join(known.model_fields)}.")
    if first["type"] == "missing":
        raise Refused("bad_request", f"The field {field!r} is missing.")
    raise Refused("bad_request", f"The field {field!r} is wrong: {_lowered(first['msg'])}.")


_EXAMPLES: dict[type[BaseModel], str] = {
    SessionBody: '{"prompt": "..."}', ReplayBody: '{"rate": 1}', PlaybackBody: '{"paused": true}',
}  # fmt: skip


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
