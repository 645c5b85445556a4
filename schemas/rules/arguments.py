"""The arguments of the Python API: their names and types, and the refusal of a value of another type.

Python does not check the types of arguments. A value of the wrong type is refused here, before anything is started,
with the same error as a value outside its range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypedDict, cast, get_args

import msgspec

from schemas.errors import Refused
from schemas.rules.choice import shortened
from schemas.rules.members import SPEC_OPTIONS
from schemas.sessions import (
    LARGEST_OPTION,
    MEMBER_OPTIONS,
    MemberSpec,
    Message,
    Parent,
    SessionRequest,
    Speaker,
    Sync,
    Weighting,
)


class RequestOptions(TypedDict, total=False):
    """The options that a request and a what-if branch have."""

    weights: Mapping[str, float] | None
    max_tokens: int
    temperature: float
    seed: int | None
    options: Mapping[str, Mapping[str, float]] | None
    allow_remote: bool
    weighting: Weighting
    sync: Sync


class RequestChanges(RequestOptions, total=False):
    """The fields of SessionRequest that a branch may have of its own."""

    models: Sequence[str | MemberSpec]


class AskOptions(RequestOptions, total=False):
    """The keyword arguments of a request: all fields of SessionRequest that a user writes, but the prompt and the
    models."""

    system: str
    history: Sequence[Message]


def request_from(
    prompt: str, models: Sequence[str | MemberSpec] | str | None, options: AskOptions, caller: str
) -> SessionRequest:
    """The request that the arguments of `caller` describe. Without `models` (None) the council's own members answer.

    Raises Refused for a value of the wrong type and for an empty list of models; TypeError, as Python does, for an
    unknown keyword argument.
    """
    given = _checked(AskOptions, options, caller)
    if models is not None:
        given["models"] = _models(models)
    request = SessionRequest(prompt, **given)
    check_types(request)
    return request


def changes_from(changes: RequestChanges, caller: str) -> RequestChanges:
    """The changes of a branch with the types of SessionRequest. Raises Refused and TypeError as request_from does."""
    return cast(RequestChanges, _checked(RequestChanges, changes, caller))


def check_types(request: SessionRequest) -> None:
    """Raises Refused where a field of the request does not have its type."""
    if not isinstance(request, SessionRequest):
        raise _wrong("request", request, "a SessionRequest")
    _require(isinstance(request.prompt, str), "prompt", request.prompt, "the text that the council is to answer")
    for name, check in _CHECKS.items():
        # Without models the council's own members answer.
        if (value := getattr(request, name)) != ():
            check(value)


def check_council(tier: object, redis_url: object) -> None:
    """Raises Refused where an argument that chooses the council does not have its type."""
    _require(tier is None or isinstance(tier, str), "tier", tier, "low, mid, high or hybrid")
    _require(redis_url is None or isinstance(redis_url, str), "redis_url", redis_url, "the address of a Redis")


def check_frames(session: object, redis_url: object, each: object) -> None:
    """Raises Refused where an argument of frames() does not have its type."""
    _require(session is None or isinstance(session, str), "session", session, "a session's id as a text")
    _require(isinstance(each, bool), "each", each, "True or False")
    check_council(None, redis_url)
    if session is not None and each:
        raise Refused("bad_frames", "frames() takes a session or each=True: leave one of them out.")


def check_cancel(reason: object, members: object, count: int) -> None:
    """Raises Refused where an argument of cancel() is not valid in a session with `count` members."""
    _require(isinstance(reason, str) and reason.isprintable(), "reason", reason, "one line of text")
    are_indexes = isinstance(members, Sequence) and all(_is_whole(one) and 0 <= one < count for one in members)
    _require(are_indexes, "members", members, f"a list of indexes from 0 to {count - 1}")


def check_place(session: object, say: object, at: object, word: object, member: object) -> None:
    """Raises Refused where an argument of a what-if branch does not have its type."""
    _require(
        isinstance(session, str | PurePath), "session", session, "a session's id as a text, or the path of a recording"
    )
    _require(isinstance(say, str), "say", say, "a text")
    _require(at is None or _is_whole(at), "at", at, "a byte of the answer, a whole number")
    _require(word is None or _is_whole(word), "word", word, "the number of a word, a whole number from 1")
    _require(
        member is None or isinstance(member, str) or _is_whole(member), "member", member, "a member's index or its name"
    )


def _checked(known: type, given: Mapping[str, Any], caller: str) -> dict[str, Any]:
    """The arguments with the types of SessionRequest; None stands for the default, but as a seed. Raises Refused, and
    TypeError for a name that the TypedDict `known` does not have."""
    names = known.__optional_keys__  # type: ignore[attr-defined]
    for name in given:
        if name not in names:
            raise TypeError(f"{caller}() has no argument {name!r}; its options are {', '.join(sorted(names))}.")
    return {name: _CHECKS[name](value) for name, value in given.items() if value is not None or name == "seed"}


def _models(value: object) -> tuple[str | MemberSpec, ...]:
    if isinstance(value, str):
        return (value,)
    _require(_is_list(value), "models", value, "a list of members, each a text or a MemberSpec")
    members: tuple[str | MemberSpec, ...] = tuple(value)  # type: ignore[arg-type]
    if not members:
        raise Refused("no_members", "models is empty: name at least one member, or leave models out.")
    for index, member in enumerate(members):
        field = f"models[{index}]"
        _require(isinstance(member, str | MemberSpec), field, member, "a text or a MemberSpec")
        if isinstance(member, MemberSpec):
            _check_member(field, member)
    return members


def _check_member(field: str, member: MemberSpec) -> None:
    for name, value in msgspec.structs.asdict(member).items():
        if name in MEMBER_OPTIONS:
            is_valid, what = (_is_number, "a number") if name == "temperature" else (_is_whole, "a whole number")
        else:
            is_valid, what = _is_text, "a text"
        _require(is_valid(value) or (value is None and name in SPEC_OPTIONS), f"{field}.{name}", value, what)


def _weights(value: object) -> dict[str, float]:
    return _numbers("weights", value, "{'smollm2': 2}")


def _options(value: object) -> dict[str, dict[str, float]]:
    example = "{'smollm2': {'temperature': 0}}"
    _require(isinstance(value, Mapping), "options", value, f"each member's options by its name, such as {example}")
    assert isinstance(value, Mapping)
    return {_name("options", name): _numbers(f"options[{name!r}]", own, "{'seed': 7}") for name, own in value.items()}


def _numbers(field: str, value: object, example: str) -> dict[str, float]:
    _require(isinstance(value, Mapping), field, value, f"numbers by name, such as {example}")
    assert isinstance(value, Mapping)
    for name, number in value.items():
        _require(_is_number(number), f"{field}[{name!r}]", number, "a number")
    return {_name(field, name): number for name, number in value.items()}


def _name(field: str, name: object) -> str:
    _require(isinstance(name, str), f"A name in {field}", name, "a text")
    return str(name)


def _history(value: object) -> tuple[Message, ...]:
    _require(_is_list(value), "history", value, "a list of Message")
    turns: tuple[Message, ...] = tuple(value)  # type: ignore[arg-type]
    for index, turn in enumerate(turns):
        is_turn = isinstance(turn, Message) and turn.role in get_args(Speaker) and isinstance(turn.content, str)
        _require(is_turn, f"history[{index}]", turn, 'a Message, such as Message("user", "Hello")')
    return turns


def _is_list(value: object) -> bool:
    """True for a list of any kind; a text and a mapping are none."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_OPTION


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _text(field: str) -> Callable[[object], Any]:
    return _plain(field, _is_text, "a text")


def _plain(field: str, is_valid: Callable[[object], bool], what: str) -> Callable[[object], Any]:
    """A check that returns the value as it is."""

    def check(value: object) -> object:
        _require(is_valid(value), field, value, what)
        return value

    return check


_CHECKS: Mapping[str, Callable[[object], Any]] = {
    "models": _models,
    "weights": _weights,
    "system": _text("system"),
    "max_tokens": _plain("max_tokens", _is_whole, "a whole number"),
    "temperature": _plain("temperature", _is_number, "a number"),
    "seed": _plain("seed", lambda value: value is None or _is_whole(value), "a whole number, or None"),
    "history": _history,
    "options": _options,
    "allow_remote": _plain("allow_remote", lambda value: isinstance(value, bool), "True or False"),
    "weighting": _text("weighting"),
    "sync": _text("sync"),
    "prefix": _text("prefix"),
    "parent": _plain("parent", lambda value: value is None or isinstance(value, Parent), "a Parent, or None"),
    "mixture": _plain("mixture", _is_whole, "a whole number"),
}


def _require(is_valid: bool, field: str, value: object, what: str) -> None:
    if not is_valid:
        raise _wrong(field, value, what)


def _wrong(field: str, value: object, what: str) -> Refused:
    # Values of other libraries, such as tables, are shown in several lines.
    return Refused("bad_argument", f"{field} is {shortened(' '.join(repr(value).split()))}: give {what}.")
