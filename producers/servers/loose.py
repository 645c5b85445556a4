"""JSON of model servers that is not what their documentation promises: what can be read of it is read. Pure.

    bytes --loose_json--> a value --texts_in-----> the texts of a message, whatever their form
                                 `--entries_in---> its logprob entries, whatever their form

A form that is not understood costs the measurement, never the text. `odd` counts what was left out, in words that
follow "sent ".
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from producers.servers.halves import whole_text
from producers.servers.pieces import ListedToken, LogprobEntry

ODD_LOGPROBS = "logprobs in an unknown form"
ODD_CONTENT = "content in an unknown form"
# Lists in lists in lists are not a message.
_MOST_DEPTH = 8
_THINKING = ("reasoning_content", "reasoning", "thinking", "thinking_content", "thought", "reasoning_text")
_PART_TEXTS = ("text", "content", "output_text", "value")

Odd = Counter[str]


class Texts(msgspec.Struct):
    """The texts of one message."""

    answer: str = ""
    thinking: str = ""
    refusal: str = ""


def loose_json(value: bytes) -> Any:
    """The JSON in `value`. NaN and infinity become None, raw control characters are allowed in strings, bytes that are
    not UTF-8 become U+DC80 to U+DCFF (`halves.py`). Raises NOT_JSON."""
    text = value.decode("utf-8", "surrogateescape")
    return json.loads(text, strict=False, parse_float=_finite, parse_constant=lambda _name: None)


def texts_in(message: Any, odd: Odd) -> Texts:
    """The texts of a message or a delta; of a part of a list of contents where it is one."""
    texts = Texts()
    _add(texts, message, odd, 0)
    return texts


def _add(texts: Texts, found: Any, odd: Odd, depth: int) -> None:
    """Adds the texts in `found`: a text, a number, a message, a part, or a list of these."""
    if depth > _MOST_DEPTH:
        odd[ODD_CONTENT] += 1
    elif isinstance(found, list):
        for part in found:
            _add(texts, part, odd, depth + 1)
    elif not isinstance(found, dict):
        texts.answer += _plain(found)
    else:
        _add_object(texts, found, odd, depth)


def _add_object(texts: Texts, found: dict[str, Any], odd: Odd, depth: int) -> None:
    kind = found.get("type")
    thinking = next((found[name] for name in (*_THINKING, "reasoning_details") if found.get(name)), None)
    if thinking is not None:
        texts.thinking += _all_text(thinking, odd, depth)
    if found.get("refusal"):
        texts.refusal += _all_text(found["refusal"], odd, depth)
    content = next((found[name] for name in _PART_TEXTS if found.get(name) not in (None, "")), None)
    if isinstance(kind, str) and ("think" in kind or "reason" in kind):
        texts.thinking += _all_text(content, odd, depth)
    elif content is not None:
        _add(texts, content, odd, depth + 1)
    elif kind is not None and thinking is None and not found.get("refusal") and "text" not in found:
        odd[ODD_CONTENT] += 1


def _all_text(found: Any, odd: Odd, depth: int) -> str:
    texts = Texts()
    _add(texts, found, odd, depth + 1)
    return texts.thinking + texts.refusal + texts.answer


def _plain(found: Any) -> str:
    """A text as it is; a number, which was a text before a proxy read it, as it was written."""
    return found if isinstance(found, str) else "" if found is None else json.dumps(found)


def odd_words(odd: Odd) -> tuple[str, ...]:
    """What was left out, and how often."""
    return tuple(f"{what} ({count} {'time' if count == 1 else 'times'})" for what, count in odd.items())


def entries_in(logprobs: Any, odd: Odd) -> list[LogprobEntry]:
    """The entries of `logprobs`: a list, OpenAI's object around one, or the lists of its older completions."""
    listed = logprobs
    if isinstance(logprobs, dict):
        listed = logprobs.get("content") or logprobs.get("reasoning_content")
        if listed is None and isinstance(logprobs.get("tokens"), list):
            listed = list(_older(logprobs))
        if listed is None and not any(value is not None for value in logprobs.values()):
            listed = []
    if logprobs is None or listed == []:
        return []
    entries = [_entry(one, odd) for one in listed] if isinstance(listed, list) else [None]
    if any(entry is None for entry in entries):
        odd[ODD_LOGPROBS] += 1
        return []
    return [entry for entry in entries if entry is not None]


def _older(logprobs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries in the lists of older completions: tokens, token_logprobs, top_logprobs."""
    tokens = logprobs["tokens"]
    for index, token in enumerate(tokens):
        yield {
            "token": token,
            "logprob": _at(logprobs.get("token_logprobs"), index),
            "top_logprobs": _at(logprobs.get("top_logprobs"), index),
        }


def _at(found: Any, index: int) -> Any:
    return found[index] if isinstance(found, list) and index < len(found) else None


def _entry(found: Any, odd: Odd) -> LogprobEntry | None:
    """One entry; None where its token is not a text: then the chunk's text cannot be divided."""
    own = _listed(found)
    if own is None or own.token is None:
        return None
    top = found.get("top_logprobs")
    if isinstance(top, dict):
        top = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
    if top is not None and not isinstance(top, list):
        odd[ODD_LOGPROBS] += 1
        top = None
    alternatives = [listed for listed in map(_listed, top or ()) if listed is not None]
    return LogprobEntry(own.token, own.bytes, own.logprob, own.id, alternatives)


def _listed(found: Any) -> ListedToken | None:
    if not isinstance(found, dict):
        return None
    token, raw, number = found.get("token"), found.get("bytes"), found.get("id")
    if not (token is None or isinstance(token, str)):
        return None
    is_bytes = isinstance(raw, list) and all(isinstance(byte, int) for byte in raw)
    return ListedToken(
        None if token is None else whole_text(token),
        raw if is_bytes else None,
        _number(found.get("logprob")),
        number if isinstance(number, int | str) else None,
    )


def _number(found: Any) -> float | None:
    """A number, which may be written as a text; None where it is not finite."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        return _finite(found)
    except (ValueError, OverflowError):
        return None


def _finite(digits: str | float) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
