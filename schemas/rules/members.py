"""The text that describes a member: a model, and options of this member alone.

    smollm2                                        the member has the name of its model
    calm=smollm2:temperature=0,seed=7              a name of its own, and options
    critic=smollm2:system="Doubt it, briefly."     a system text; commas in it need double quotes

The same text is accepted on the command line, in settings, over HTTP and from Python. So one model can be several
members of a session, each with a name of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from schemas.errors import Refused
from schemas.sessions import (
    LARGEST_OPTION,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS_LIMIT,
    MEMBER_OPTIONS,
    MemberSpec,
)

# No colon, comma or equals sign, which are separators. A letter first: digits alone are a member's index.
NAME_PATTERN = r"[A-Za-z][A-Za-z0-9._-]{0,63}"
SPEC_OPTIONS = (*MEMBER_OPTIONS, "system")
_NAMED = re.compile(rf"\s*({NAME_PATTERN})\s*=(.*)", re.DOTALL)
# The first option follows a colon. A model's name may contain colons, but not before a word with an equals sign.
_MODEL_AND_OPTIONS = re.compile(r"(.*?)(?::\s*(\w+\s*=.*))?", re.DOTALL)
_SEPARATORS = re.compile('[",]')
_MOST_REPEATED_CHARS = 100


def split_members(joined: str) -> list[str]:
    """The texts of the members in a list that is separated by commas. A part `option=value` belongs to the member
    before it, so a member cannot have the name of an option."""
    parts: list[str] = []
    for part in _parts(joined):
        word = part.partition("=")[0].strip()
        if parts and word in SPEC_OPTIONS:
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return parts


def _parts(text: str) -> list[str]:
    """The parts between commas that are not in double quotes."""
    parts, start, is_quoted = [], 0, False
    for separator in _SEPARATORS.finditer(text):
        if separator[0] == '"':
            is_quoted = not is_quoted
        elif not is_quoted:
            parts.append(text[start : separator.start()])
            start = separator.end()
    return [*parts, text[start:]]


def member_spec(written: str) -> MemberSpec:
    """The member in one text. Raises Refused, with one sentence, where it is not valid."""
    named = _NAMED.fullmatch(written)
    name, rest = (named[1], named[2]) if named else ("", written)
    if name:
        check_member_name(name)
    found = _MODEL_AND_OPTIONS.fullmatch(rest)
    assert found is not None  # it matches every text
    model, options = found[1].strip(), found[2] or ""
    if not model:
        raise Refused("bad_member", f"{_quoted(written)} has no model: write NAME=MODEL or MODEL.")
    values: dict[str, Any] = {}
    for part in _parts(options) if options else ():
        option, separator, value = part.partition("=")
        option = option.strip()
        if not separator:
            raise Refused("bad_member", f"{_quoted(part.strip())} of {_quoted(written)} is not an option: write it "
                          "as option=value, and a text with a comma in double quotes.")  # fmt: skip
        if option in values:
            raise Refused("bad_member", f"{_quoted(written)} gives {option} twice: give it once.")
        values[option] = _value(option, value.strip(), written)
    return MemberSpec(model, name, **values)


def member_spec_of(values: Mapping[str, Any]) -> MemberSpec:
    """The member in an object with the fields of MemberSpec. Raises Refused where it is not valid."""
    known = ("model", "name", *SPEC_OPTIONS)
    if unknown := next((key for key in values if key not in known), None):
        raise Refused(
            "bad_member", f"A member has an unknown field {_quoted(str(unknown))}; known fields: {', '.join(known)}."
        )
    try:
        spec = msgspec.convert(dict(values), MemberSpec)
    except msgspec.ValidationError as error:
        raise Refused("bad_member", f"A member is not valid: {error}.") from None
    if spec.name:
        check_member_name(spec.name)
    if not spec.model.strip():
        raise Refused("bad_member", "A member has no model: give its model.")
    return spec


def check_member_name(name: str) -> None:
    """Raises Refused for a name that is not a valid name."""
    if name in SPEC_OPTIONS or not re.fullmatch(NAME_PATTERN, name):
        raise Refused(
            "bad_member_name",
            f"{_quoted(name)} is not a valid name: begin with a letter; up to 63 letters, digits, dots, "
            f"hyphens and underscores may follow; the names {', '.join(SPEC_OPTIONS)} are reserved.",
        )


def check_option(option: str, value: float, of: str = "") -> None:
    """Raises Refused for an option that is not in its range. `of` names its member in the message."""
    match option:
        case "max_tokens" if not 1 <= value <= MAX_TOKENS_LIMIT:
            wanted = f"a number from 1 to {MAX_TOKENS_LIMIT}"
        case "temperature" if not (math.isfinite(value) and 0.0 <= value <= MAX_TEMPERATURE):
            wanted = f"a number from 0 to {MAX_TEMPERATURE:g}"
        case "seed" if not 0 <= value <= MAX_SEED:
            wanted = f"a whole number from 0 to {MAX_SEED}"
        case _:
            return
    raise Refused(f"bad_{option}", f"{option}{of} is {value}: give {wanted}.")


def _value(option: str, value: str, written: str) -> float | int | str:
    if option == "system":
        if not value.startswith('"'):
            return value
        if len(value) < 2 or not value.endswith('"'):
            raise Refused("bad_member", f"The system text of {_quoted(written)} has no closing double quote: add it.")
        return value[1:-1]
    if option not in MEMBER_OPTIONS:
        raise Refused(
            "unknown_option",
            f"{_quoted(written)} has an unknown option {_quoted(option)}; known options: {', '.join(SPEC_OPTIONS)}.",
        )
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not abs(number) <= LARGEST_OPTION or (option != "temperature" and not number.is_integer()):
        kind = "a number" if option == "temperature" else "a whole number"
        raise Refused(f"bad_{option}", f"{option} of {_quoted(written)} is {_quoted(value)}: give {kind}.")
    exact = number if option == "temperature" else int(number)
    check_option(option, exact, f" of {_quoted(written)}")
    return exact


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MOST_REPEATED_CHARS else f"{text[:_MOST_REPEATED_CHARS]}…")


def resolved_spec(written: object, models: Collection[str], named: Sequence[MemberSpec]) -> MemberSpec:
    """The member that `written` stands for: one of the `named` members, or else one of these models, or else a
    description. Raises Refused, also for an object that is neither a text nor a MemberSpec."""
    if isinstance(written, MemberSpec):
        # Python does not check the fields of a struct.
        return member_spec_of(msgspec.structs.asdict(written))
    if not isinstance(written, str):
        raise Refused("bad_member", f"A member is {_quoted(str(written))}: give a text or a MemberSpec.")
    own = next((spec for spec in named if spec.name == written), None)
    if own is not None or written in models:
        return own or MemberSpec(written)
    spec = member_spec(written)
    if spec.model not in models and any(spec.model == other.name for other in named):
        raise Refused(
            "bad_member",
            f"{_quoted(written)} has no model, because {_quoted(spec.model)} is a member: give that member's model.",
        )
    return spec
