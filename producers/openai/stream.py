"""One streamed answer of an OpenAI-compatible server, from bytes to chunks. Pure: no clock, no I/O.

    bytes, cut anywhere --> lines --> `data: {json}` --> Chunk       text or logprob entries
                                 |               `--> finish_reason  why the model ended
                                 |--> `data: [DONE]`                 the end
                                 `--> `: ping`, empty lines          ignored

These servers put one JSON object into one `data:` line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import msgspec

from producers.backend import Chunk, Ending
from producers.servers.faults import (
    ENDED_IN_LINE,
    MAX_REASON_CHARS,
    NOT_JSON,
    ServerFault,
    ended_early,
    not_a_stream,
    one_line,
    reported,
)
from producers.servers.lines import Lines
from producers.servers.pieces import LogprobEntry, pieces_of_lanes
from schemas.entries import Lane


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    # Three names for one field; a server that sends two of them sends the same text twice.
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[LogprobEntry] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _EventError(msgspec.Struct):
    message: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    error: _EventError | str | None = None
    # An older vLLM sends its error's fields without an object around them.
    message: str | None = None


_event_decoder = msgspec.json.Decoder(_Event)


class ChatStream:
    """An AnswerStream. `top_k` alternatives a token were requested."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._lines = Lines()
        self._lane: Lane = "answer"
        self._reason: str | None = None
        self._done = False
        # Rises with everything that the model produced; pings do not count.
        self.events = 0

    @property
    def finished(self) -> bool:
        """True once the model has ended by itself; the rest of the stream changes nothing."""
        return self._done or self._reason is not None

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""
        if self.finished:
            return
        for line in self._lines.feed(data):
            if chunk := self._chunk(line):
                self.events += 1
                yield chunk
            if self.finished:
                return

    def end(self) -> Ending:
        """How the answer ended, when no more bytes come. Raises ServerFault where it is not complete."""
        if self.finished:
            return Ending(self._reason or "stop")
        rest = self._lines.rest().strip()
        if rest.startswith((b"<", b"{")):
            raise ServerFault(not_a_stream(rest))
        raise ServerFault(ENDED_IN_LINE if rest else ended_early(has_begun=self.events > 0))

    def _chunk(self, line: bytes) -> Chunk | None:
        """The chunk in a line; None where the line has nothing to show."""
        field, _, value = line.partition(b":")
        value = value.strip()
        if field == b"data":
            if value != b"[DONE]":
                return self._chunk_of(_event(value)) if value else None
            self._done = True
            self.events += 1
        elif field == b"error":  # an older llama-server
            raise ServerFault(reported(value))
        elif field.strip() not in (b"", b"event", b"id", b"retry"):
            raise ServerFault(not_a_stream(line))
        return None

    def _chunk_of(self, event: _Event) -> Chunk | None:
        if event.error is not None or (event.message and not event.choices):
            raise ServerFault(reported(msgspec.json.encode(event)))
        if not event.choices:
            return None
        choice = event.choices[0]
        if choice.finish_reason:
            self._reason = one_line(choice.finish_reason, MAX_REASON_CHARS)
            self.events += 1
        delta = choice.delta or _Delta()
        thinking = delta.reasoning_content or delta.reasoning or delta.thinking or ""
        entries = (choice.logprobs and choice.logprobs.content) or ()
        self._lane, pieces = pieces_of_lanes(delta.content or "", thinking, self._lane, entries, self._top_k)
        return Chunk(pieces) if pieces else None


def _event(value: bytes) -> _Event:
    try:
        return _event_decoder.decode(value)
    except NOT_JSON:
        pass
    try:
        return _event_decoder.decode(_repaired(value))
    except NOT_JSON as error:
        raise ServerFault(f"sent a line that is not a chat completion: {one_line(str(error), 100)}") from error


def _repaired(value: bytes) -> bytes:
    """JSON as some servers write it, made valid: NaN and infinity become null, half characters become U+FFFD."""
    parsed = json.loads(value.decode("utf-8", "replace"), parse_float=_finite, parse_constant=lambda _name: None)
    text = json.dumps(parsed, ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
