"""What a model server does wrong, in words: its own where it has some. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.sessions import Message

# A token with the longest list of alternatives is some 20 KiB; a server that sends more than this in a line is not one.
MAX_LINE_BYTES = 1 << 20
MAX_MESSAGE_CHARS = 200
# Shorter prompts than the first could be any word; of longer ones the beginning, the second, is told by.
QUOTED_CHARS = (8, 24)
MAX_REASON_CHARS = 40
# Where servers say what is wrong, from the outside to the inside: OpenAI's way, FastAPI's, Mistral's.
_SAYING = ("error", "message", "detail", "msg")
NO_JSON = (msgspec.MsgspecError, ValueError, RecursionError)


class ServerFault(Exception):
    """What a model server did wrong, as a predicate: it makes a sentence after the server's name."""


def error_message(body: bytes) -> str:
    """The server's own words in the body of a refusal, on one line; empty where it has none."""
    try:
        return one_line(_words(msgspec.json.decode(body)), MAX_MESSAGE_CHARS)
    except NO_JSON:
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith(("<", "{", "[")) else one_line(text, MAX_MESSAGE_CHARS)


def error_code(body: bytes) -> str:
    """The server's own name for what is wrong, empty where it has none: `code`, else `type`, of OpenAI's `error`."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except NO_JSON:
        return ""
    names = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return next((name for name in names if isinstance(name, str)), "")


def _words(value: Any) -> str:
    """The first text at a place where errors are told; with the name of the field that FastAPI complains of."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next(filter(None, map(_words, value)), "")
    if not isinstance(value, dict):
        return ""
    said = next(filter(None, (_words(value.get(name)) for name in _SAYING)), "")
    field = value.get("loc")
    return f"{field[-1]}: {said}" if said and isinstance(field, list) and field else said


def unquoted(predicate: str, asked: Sequence[Message]) -> str:
    """What a server says, cut where it quotes what it was asked: that is nobody else's business."""
    least, most = QUOTED_CHARS
    for turn in asked:
        quoted = one_line(turn.content, most + 1)[:most]
        if len(quoted) >= least and quoted in predicate:
            predicate = predicate.partition(quoted)[0] + "…"
    return predicate


def is_html(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def one_line(text: str, most: int) -> str:
    """`text` on one line of printable characters, at most `most` of them: a terminal may show it."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 8 * most])
    line = " ".join(printable.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def reported(body: bytes) -> str:
    return f"reported an error: {error_message(body) or 'without a message'}"


def no_stream(line: bytes) -> str:
    if is_html(line):
        return "answered with HTML, not with a stream: is the URL right?"
    if line.lstrip().startswith(b"{"):
        message = error_message(line)
        return f"reported an error: {message}" if message else "answered with JSON, not with a stream"
    return "answered with something that is not a stream: is the URL right?"
