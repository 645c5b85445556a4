"""Which parameter of a request a refusal is about, in whatever form the server names it. Pure.

{"error": {"param": "temperature", ...}}                 OpenAI, Azure, Together
{"detail": [{"loc": ["body", "seed"], "msg": ...}]}      FastAPI, Mistral
"[{'loc': ('body', 'stream_options'), ...}]"             vLLM: the same as a text
[{"error": {"message": "Logprobs is not enabled ..."}}]  Gemini
{"error": "`top_n_tokens` must be >= 0 and <= 5 ..."}    TGI, and all others: the first name in the message
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any, Literal

import msgspec

from producers.servers.faults import MESSAGE_FIELDS, NOT_JSON

Parameter = Literal[
    "logprobs", "temperature", "max_tokens", "usage", "seed", "system", "think", "truncate", "draft", "keep_alive",
    "penalties", "continue",
]  # fmt: skip
# What servers call them: TGI and llama-server have names of their own, Gemini writes camel case.
_NAMES: dict[Parameter, str] = {
    "logprobs": r"log[_ -]?prob(s|abilit(y|ies))?|top_n_tokens|n_probs|logits_all",
    "temperature": r"temperature",
    "max_tokens": r"max_?(completion|new|output)?_?tokens|(?<!draft_)num_predict|n_predict|in the completion",
    "usage": r"stream_?options|include_?usage",
    "seed": r"seed",
    "system": (
        r"system['\"`]? (role|message|prompt|instruction)s?|role:? ['\"`]?system|got system|developer instruction"
        r"|roles must alternate"
    ),
    "think": r"think(ing)?|reasoning",
    "truncate": r"truncate",
    "draft": r"draft_num_predict",
    "keep_alive": r"keep_alive",
    "penalties": r"(repeat|repetition|presence|frequency)_penalty|dry_multiplier",
    "continue": r"continue_final_message|add_generation_prompt",
}
# FastAPI's list of errors, as Python writes it, inside a message.
_WRITTEN_LOC = re.compile(r"['\"]loc['\"]: *[(\[]([^)\]]*)[)\]]")
_NUMBER = re.compile(r"(?<![\w.-])\d{1,5}(?![\w.]*\w)")
_LIMIT = re.compile(r"max|most|between|exceed|greater|more than|less|up to|below|<|≤|range", re.IGNORECASE)
# The number itself is too large: "less than 6", "< 6", "[0, 6)".
_EXCLUSIVE = re.compile(r"(?:less than|below|<) *`?(\d{1,5})|\[ *\d+ *, *(\d{1,5}) *\)", re.IGNORECASE)
# No server nests its messages deeper.
_DEPTH = 8


def complaints(body: bytes, sent: Collection[Parameter]) -> dict[Parameter, str]:
    """Which of the parameters that were sent a refusal is about, each with the server's words. Empty where it names
    none of them."""
    text, names = body.decode("utf-8", "replace"), _names_of(frozenset(sent))
    found: dict[Parameter, str] = {}
    for parameter, words in _in_value(_json(text), names, _DEPTH):
        found.setdefault(parameter, words)
    return found


@cache
def _names_of(parameters: frozenset[Parameter]) -> re.Pattern[str]:
    """Finds their names. A name may be part of a longer one (response_logprobs), and not of a model's (seed-coder)."""
    names = "|".join(f"(?P<{parameter}>{_NAMES[parameter]})" for parameter in sorted(parameters))
    before = r"(?<![A-Za-z0-9-])(?<![A-Za-z0-9]/)(?:[A-Za-z]+[_.])*?(?:max|top|response|sample|num)?_?"
    return re.compile(f"{before}(?:{names or '(?!)'})(?![A-Za-z0-9/-])", re.IGNORECASE)


def _in_value(value: Any, names: re.Pattern[str], depth: int) -> Iterator[tuple[Parameter, str]]:
    if depth == 0:
        return
    if isinstance(value, str):
        yield from _in_text(value, names, depth)
    elif isinstance(value, list):
        for entry in value:
            yield from _in_value(entry, names, depth - 1)
    elif isinstance(value, dict):
        words: str = next((value[name] for name in MESSAGE_FIELDS if isinstance(value.get(name), str)), "")
        loc = value.get("loc")
        places = [value.get("param"), *(reversed(loc) if isinstance(loc, list) else ())]
        if parameter := next((one for place in places if (one := _parameter(place, names))), None):
            yield parameter, words
            return
        for name in MESSAGE_FIELDS:
            yield from _in_value(value.get(name), names, depth - 1)


def _in_text(text: str, names: re.Pattern[str], depth: int) -> Iterator[tuple[Parameter, str]]:
    """Of a plain message the parameter that it names first: further ones may be those that the server accepts."""
    inner = _json(text)
    if not isinstance(inner, str):
        yield from _in_value(inner, names, depth - 1)
        return
    places = _WRITTEN_LOC.findall(text)
    for place in places or [text]:
        if parameter := _parameter(place, names):
            yield parameter, text


def _parameter(text: Any, names: re.Pattern[str]) -> Parameter | None:
    found = names.search(text) if isinstance(text, str) else None
    return next((name for name in _NAMES if found.groupdict().get(name)), None) if found else None


def _json(text: str) -> Any:
    """The JSON in a text; the text itself where it is not an object or a list."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(text)
        except NOT_JSON:
            pass
    return text


def lower_limit(words: str, requested: int) -> int | None:
    """The largest number below `requested` in words about a limit: "logprobs of 20, greater than max allowed: 5". None
    where there is none."""
    if not _LIMIT.search(words):
        return None
    too_large = {int(one or other) for one, other in _EXCLUSIVE.findall(words)}
    numbers = (number - (number in too_large) for number in map(int, _NUMBER.findall(words)))
    return max((number for number in numbers if 0 <= number < requested), default=None)
