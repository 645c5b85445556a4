"""Fields of JSON whose shape is not certain: what has another shape counts as missing. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from producers.backend import MOST_PROMPT_TOKENS
from producers.servers.faults import NOT_JSON

# Longer than every real name.
MOST_NAME_CHARS = 200


def decoded(body: bytes) -> Any:
    """The JSON in `body`; None where it is not valid."""
    try:
        return msgspec.json.decode(body)
    except NOT_JSON:
        return None


def entries(body: bytes, name: str, key: str, *others: str) -> list[dict[str, Any]] | None:
    """The entries of the list `name`, each with its name under `key`; None where there is no such list.

    With `others`, an entry may have its name under one of them, or be the name. An entry without a usable name is left
    out, and hides no other one.
    """
    answer = decoded(body)
    found = answer if isinstance(answer, list) else at(answer, name)
    if not isinstance(found, list):
        return None
    named = []
    for entry in found:
        fields = {key: entry} if others and isinstance(entry, str) else entry
        own = next(filter(None, (text(fields, one) for one in (key, *others))), "")
        if 0 < len(own) <= MOST_NAME_CHARS:
            named.append({**fields, key: own})
    return named


def at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text(value: Any, *path: str) -> str:
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def texts(value: Any, *path: str) -> tuple[str, ...]:
    found = at(value, *path)
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def number(value: Any, *path: str) -> int:
    """A count; 0 where there is none."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def prompt_tokens(value: Any, *path: str) -> int | None:
    """How many tokens a server has counted in a request; None where it reports nothing, or no such number."""
    count = number(value, *path)
    return count if 0 < count <= MOST_PROMPT_TOKENS else None
