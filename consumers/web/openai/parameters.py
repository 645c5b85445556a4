"""The bodies of requests in OpenAI's form, and the request to the council that they contain.

Parameters that a council cannot follow (tools, penalties, …) are ignored, and named in a warning: clients send them
without their users' knowledge. A parameter that the council follows must be right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.config import JsonDict

from consumers.web.api.fields import Temperature, Whole
from schemas.errors import Refused
from schemas.rules.chat import Chat, chat_of
from schemas.rules.choice import shortened
from schemas.sessions import MAX_TOKENS_LIMIT, SessionRequest

# Each is a session, and a web process has 32 of them at once.
MOST_CHOICES = 8
# OpenAI has four; clients of other servers send more.
_MOST_STOPS = 16
# Each is looked for in every part of the answer.
_MOST_STOP_CHARS = 256
# As OpenAI's.
MOST_ALTERNATIVES = 20
# A client shows a header's value in one line.
_MOST_NAMED = 12
_SEEDS = 2**32

_STOP = {"type": "string", "minLength": 1, "maxLength": _MOST_STOP_CHARS}
_PART = {
    "type": "object", "properties": {"type": {"enum": ["text", "input_text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}  # fmt: skip
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]},
    },
    "required": ["role", "content"],
}
# The last one has the role user; a message may have other fields, which are ignored.
Messages = Annotated[list[dict[str, Any]], WithJsonSchema({"type": "array", "items": _MESSAGE, "minItems": 1})]
Stops = Annotated[
    str | list[str],
    WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": _MOST_STOPS}]}),
]

# Clients of llama.cpp and LM Studio send it for an answer without a limit of their own.
_NO_LIMIT = -1


def _limit(value: int) -> int | None:
    if value < 1 and value != _NO_LIMIT:
        raise ValueError(f"give at least 1, or {_NO_LIMIT} for the council's own limit")
    return None if value == _NO_LIMIT else value


TokenLimit = Annotated[
    Whole,
    AfterValidator(_limit),
    WithJsonSchema({"type": "integer", "anyOf": [{"minimum": 1}, {"const": _NO_LIMIT}]}),
]

B = TypeVar("B", bound="AskedBody")


def _requires(name: str, other: str) -> JsonDict:
    """The schema of a body that has the field `other`, which is true, where it has the field `name`."""
    return {
        "if": {"required": [name], "properties": {name: {"not": {"type": "null"}}}},
        "then": {"required": [other], "properties": {other: {"const": True}}},
    }


class StreamOptions(BaseModel):
    """The options of a stream. With include_usage its last chunk has the usage."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    include_usage: bool | None = None


class AskedBody(BaseModel):
    """What both kinds of requests have. A null counts as left out."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, json_schema_extra={"allOf": [_requires("stream_options", "stream")]}
    )

    model: str
    temperature: Temperature | None = None
    max_tokens: TokenLimit | None = None
    seed: Whole | None = None
    stop: Stops | None = None
    n: Annotated[Whole | None, Field(ge=1, le=MOST_CHOICES)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # The council's own: the user allows that the prompt is sent to a remote member.
    allow_remote: bool | None = None


class ChatBody(AskedBody):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(
        json_schema_extra={"allOf": [_requires("stream_options", "stream"), _requires("top_logprobs", "logprobs")]}
    )

    messages: Messages
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole | None, Field(ge=0, le=MOST_ALTERNATIVES)] = None


class CompletionBody(AskedBody):
    """POST /v1/completions. The council answers each prompt as a question."""

    prompt: Annotated[str | list[str], Field(json_schema_extra={"minItems": 1, "maxItems": MOST_CHOICES})]
    echo: bool | None = None
    logprobs: Annotated[Whole | None, Field(ge=0, le=MOST_ALTERNATIVES)] = None


class Asked(msgspec.Struct, frozen=True):
    """A request, checked as far as that is possible without the council: `requests` has one for each choice.

    `given` are the names of the options that the client set itself. logprobs is the number of alternatives
    beside each token, None where the client wants no logprobs. `warnings` name what is ignored.
    """

    kind: Literal["chat", "completion"]
    model: str
    requests: Sequence[SessionRequest]
    given: Collection[str]
    stops: Sequence[str]
    logprobs: int | None
    is_stream: bool
    has_usage: bool
    echoes: bool
    warnings: Sequence[str]


def asked_chat(raw: bytes) -> Asked:
    """The request for a chat completion. Raises Refused."""
    body = _parsed(raw, ChatBody, '{"model": "council", "messages": [{"role": "user", "content": "..."}]}')
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused("bad_top_logprobs", "top_logprobs requires logprobs: send logprobs true as well, or neither.")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    chat = _chat(body.messages)
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _asked("chat", body, [chat], most, logprobs)


def asked_completion(raw: bytes) -> Asked:
    """The request for a completion. Raises Refused."""
    body = _parsed(raw, CompletionBody, '{"model": "council", "prompt": "..."}')
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise Refused("bad_prompt", "The list of prompts is empty: give at least one prompt.")
    if len(prompts) * (body.n or 1) > MOST_CHOICES:
        raise Refused(
            "bad_n", f"{len(prompts)} prompts of {body.n or 1} choices each are too many: ask for at most "
            f"{MOST_CHOICES} choices in all."
        )  # fmt: skip
    return _asked("completion", body, list(map(Chat, prompts)), body.max_tokens, body.logprobs)


def _asked(
    kind: Literal["chat", "completion"], body: AskedBody, chats: Sequence[Chat], most: int | None, logprobs: int | None
) -> Asked:
    is_stream = bool(body.stream)
    if body.stream_options is not None and not is_stream:
        raise Refused("bad_stream_options", "stream_options requires stream: send stream true as well, or neither.")
    warnings = list(_ignored(body))
    options: dict[str, Any] = {}
    if body.temperature is not None:
        options["temperature"] = body.temperature
    if most is not None:
        options["max_tokens"] = min(most, MAX_TOKENS_LIMIT)
        if most > MAX_TOKENS_LIMIT:
            warnings.append(f"max_tokens is {shortened(str(most))}, and a council writes at most {MAX_TOKENS_LIMIT}")
    requests = []
    for chat in chats:
        for choice in range(body.n or 1):
            if body.seed is not None:
                # OpenAI's seeds are 64-bit numbers, also negative ones. Choices of one seed would be equal.
                options["seed"] = (body.seed + choice) % _SEEDS
            requests.append(
                SessionRequest(
                    chat.prompt,
                    system=chat.system,
                    history=chat.history,
                    allow_remote=bool(body.allow_remote),
                    **options,
                )
            )
    return Asked(
        kind,
        body.model,
        requests,
        tuple(options),
        _stops(body.stop),
        logprobs,
        is_stream,
        bool(body.stream_options and body.stream_options.include_usage),
        isinstance(body, CompletionBody) and bool(body.echo),
        warnings,
    )


def _ignored(body: AskedBody) -> list[str]:
    """A sentence about the parameters that the council does not follow. A null asks for nothing."""
    names = sorted(name for name, value in (body.model_extra or {}).items() if value is not None)
    if not names:
        return []
    shown = ", ".join(shortened(name) for name in names[:_MOST_NAMED])
    return [f"ignored parameters: {shown}{', …' if len(names) > _MOST_NAMED else ''}"]


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS or any(not 1 <= len(text) <= _MOST_STOP_CHARS for text in stops):
        raise Refused(
            "bad_stop", f"stop must be one text, or up to {_MOST_STOPS}, of 1 to {_MOST_STOP_CHARS} characters each."
        )
    return stops


def _chat(messages: Sequence[Mapping[str, Any]]) -> Chat:
    """The chat in OpenAI's messages. The system texts are joined: members have one. Raises Refused."""
    turns = [_turn(number, message) for number, message in enumerate(messages, 1)]
    systems = [content for role, content in turns if role == "system"]
    rest = [{"role": role, "content": content} for role, content in turns if role != "system"]
    system = [{"role": "system", "content": "\n\n".join(systems)}] if systems else []
    try:
        return chat_of([*system, *rest])
    except Refused as refusal:
        # Not 409: clients of OpenAI's API send a request again that was answered with it.
        raise Refused(refusal.code, str(refusal)) from None


def _turn(number: int, message: Mapping[str, Any]) -> tuple[str, str]:
    """(role, text) of a message."""
    role, content = message.get("role"), message.get("content")
    if role == "developer":
        role = "system"
    if role in ("tool", "function") or (content is None and role == "assistant"):
        raise Refused("bad_messages", f"Message {number} is about a tool, and a council uses no tools: leave it out.")
    if role not in ("system", "user", "assistant"):
        raise Refused(
            "bad_messages", f"Message {number} has the role {shortened(str(role))!r}: give system, user or assistant."
        )
    if isinstance(content, list):
        return role, "\n".join(_text_of(number, part) for part in content)
    if not isinstance(content, str):
        raise Refused("bad_messages", f"Message {number} has no text: give it as the message's content.")
    return role, content


def _text_of(number: int, part: object) -> str:
    """The text of one part of a message."""
    if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type") in ("text", "input_text"):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise Refused(
        "bad_messages",
        f"Message {number} has a part of the type {shortened(str(kind))!r}, and a council reads text alone: leave it "
        "out.",
    )


def _parsed(raw: bytes, shape: type[B], example: str) -> B:
    """The body. Raises Refused with one sentence about its first error; its code names the parameter."""
    try:
        return shape.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise Refused("bad_json", f"The body is not valid JSON ({first['msg'].removeprefix('Invalid JSON: ')}).")
    if not first["loc"]:
        raise Refused("bad_request", f"The body is not a JSON object: send one such as {example}.")
    name = str(first["loc"][0])
    if first["type"] == "missing":
        raise Refused(f"bad_{name}", f"The parameter {name!r} is missing: send a body such as {example}.")
    reason = first["msg"].removeprefix("Value error, ")
    raise Refused(f"bad_{name}", f"The parameter {name!r} is wrong: {reason[:1].lower()}{reason[1:]}.")
