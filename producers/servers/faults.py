"""What a model server did wrong, as a sentence: in its own words where it sent some. Pure: no clock, no I/O.

Each sentence is a predicate, which follows the server's name: "tiny at http://127.0.0.1:8080 sent nothing for 30 s".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.sessions import Message

MAX_MESSAGE_CHARS = 200
MAX_REASON_CHARS = 40
# A quoted prompt is found by its beginning: a shorter one than the first could be any word; of a longer one these many
# characters are compared.
QUOTED_CHARS = (8, 24)
# Where servers put their message, from the outside to the inside: OpenAI's way, FastAPI's, Mistral's, a list of errors.
MESSAGE_FIELDS = ("error", "message", "detail", "msg", "errors", "error_message")
# What colours a terminal.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# What decoding raises for bytes that are not the JSON that they should be.
NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
HTML = "answered with HTML instead of a stream: check the URL"
ENDED_IN_LINE = "ended the stream in the middle of a line"


# 500 is also the status of a server that is broken: there its words decide.
_REFUSALS, _BROKEN = (400, 406, 415, 422, 424, 501), 500
_ABOUT_MESSAGES = re.compile(r"assistant|\brole|prefill|last message|final_message|template", re.IGNORECASE)


def refuses_messages(status: int, words: str) -> bool:
    """True for a refusal, by its HTTP status and words, of what the request contains."""
    return status in _REFUSALS or (status == _BROKEN and bool(_ABOUT_MESSAGES.search(words)))


class ServerFault(Exception):
    """What a model server did wrong, as a predicate. `is_away`: no server listens at the address. `words` are all that
    the server wrote, where the predicate has their first line only. `is_refusal`: the server does not accept such a
    request."""

    def __init__(self, predicate: str, *, is_away: bool = False, words: str = "", is_refusal: bool = False) -> None:
        super().__init__(predicate)
        self.is_away, self.words, self.is_refusal = is_away, words or predicate, is_refusal


def error_message(body: bytes) -> str:
    """The server's own words in the body of a refusal: their first line; empty where it has none."""
    return _first_line(_words_in(body))


def error_words(body: bytes) -> str:
    """All of the server's own words in a body, on one line."""
    return one_line(_words_in(body), MAX_MESSAGE_CHARS)


def _words_in(body: bytes) -> str:
    try:
        return _message_in(msgspec.json.decode(body))
    except NOT_JSON:
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith(("<", "{", "[")) else text


def _first_line(text: str) -> str:
    """The first line with something on it; a heading that ends in a colon with what follows it."""
    lines = [line for line in text[: 64 * MAX_MESSAGE_CHARS].splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if not line.rstrip().endswith(":")), len(lines))
    return one_line(" ".join(lines[: first + 1]), MAX_MESSAGE_CHARS)


def error_code(body: bytes) -> str:
    """The server's own name for the error, empty where it has none: `code`, else `type`, of OpenAI's `error`."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except NOT_JSON:
        return ""
    names = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return next((name for name in names if isinstance(name, str)), "")


def _message_in(value: Any) -> str:
    """The first text in a field for messages, with the name of the field that FastAPI complains about."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next(filter(None, map(_message_in, value)), "")
    if not isinstance(value, dict):
        return ""
    message = next(filter(None, (_message_in(value.get(name)) for name in MESSAGE_FIELDS)), "")
    field = value.get("loc")
    return f"{field[-1]}: {message}" if message and isinstance(field, list) and field else message


def unquoted(predicate: str, asked: Sequence[Message]) -> str:
    """The predicate, cut where it quotes a message of the request: prompts are private."""
    least, most = QUOTED_CHARS
    for turn in asked:
        quoted = one_line(turn.content, most + 1)[:most]
        if len(quoted) >= least and quoted in predicate:
            predicate = predicate.partition(quoted)[0] + "…"
    return predicate


def is_html(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def one_line(text: str, most: int) -> str:
    """`text` on one line of at most `most` printable characters, so that a terminal can show it."""
    text = _ESCAPES.sub("", text[: 8 * most])
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def reported(body: bytes) -> str:
    """That the server reported an error, with its message."""
    return f"reported an error: {error_words(body) or 'without a message'}"


def not_a_stream(line: bytes) -> str:
    """What a server sent instead of a stream of events."""
    if is_html(line):
        return HTML
    if line.lstrip().startswith(b"{"):
        return reported(line) if error_message(line) else "answered with JSON instead of a stream"
    return "sent something other than a stream: check the URL"


def ended_early(*, has_begun: bool) -> str:
    """That the stream ended before the model did."""
    return "ended the stream before the answer was complete" if has_begun else "ended the stream without an answer"
