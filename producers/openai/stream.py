"""One streamed answer of an OpenAI-compatible server, from the bytes of the network to chunks. No clock, no I/O.

    bytes, cut anywhere --> lines --> `data: {json}` --> Chunk       text or logprob entries
                                 |               `--> finish_reason  why the model ended
                                 |--> `data: [DONE]`                 nothing follows
                                 `--> `: ping`, empty lines          no speech

These servers put one JSON object into one `data:` line. A line is bounded. Where the bytes were cut changes no chunk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import msgspec

from producers.backend import Chunk, Ending
from producers.servers.faults import (
    MAX_LINE_BYTES,
    MAX_MESSAGE_CHARS,
    MAX_REASON_CHARS,
    NO_JSON,
    ServerFault,
    no_stream,
    one_line,
    reported,
)
from producers.servers.pieces import LogprobEntry, measured_pieces
from schemas.entries import Lane


class _Reported(msgspec.Struct):
    message: str | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    # Three names for one thing; a server that sends two of them sends the same text twice.
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[LogprobEntry] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    error: _Reported | str | None = None
    # An older vLLM's error has no more around it.
    message: str | None = None


_event_decoder = msgspec.json.Decoder(_Event)


class ChatStream:
    """Feed it what the network brings; it yields chunks. `top_k` alternatives a token were asked for."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._parts: list[bytes] = []  # of the line that has no end yet
        self._parts_bytes = 0
        self._lane: Lane = "answer"
        self._reason: str | None = None
        self._done = False
        # Grows by one with everything the model said; pings are no speech.
        self.heard = 0

    @property
    def finished(self) -> bool:
        """The model has ended by itself; what still comes changes nothing."""
        return self._done or self._reason is not None

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self.finished:
                return
            self._keep(line)
            whole = line if len(self._parts) == 1 else b"".join(self._parts)
            self._parts, self._parts_bytes = [], 0
            if chunk := self._chunk(whole):
                self.heard += 1
                yield chunk
        if not self.finished:
            self._keep(rest)

    def end(self) -> Ending:
        """How the answer ended, when no more bytes come. Raises ServerFault where it did not."""
        if self.finished:
            return Ending(self._reason or "stop")
        rest = b"".join(self._parts).strip()
        if not rest and not self.heard:
            raise ServerFault("ended without a word")
        if rest.startswith((b"<", b"{")):
            raise ServerFault(no_stream(rest))
        raise ServerFault("ended in the middle of a line" if rest else "ended without finishing")

    def _keep(self, part: bytes) -> None:
        self._parts_bytes += len(part)
        if self._parts_bytes > MAX_LINE_BYTES:
            raise ServerFault(f"sent a line of more than {MAX_LINE_BYTES >> 20} MiB")
        self._parts.append(part)

    def _chunk(self, line: bytes) -> Chunk | None:
        """What a line says; None where it says nothing to show."""
        field, _, value = line.partition(b":")
        value = value.strip()
        if field == b"data":
            if value != b"[DONE]":
                return self._said(_event(value)) if value else None
            self._done = True
            self.heard += 1
        elif field == b"error":  # an older llama-server
            raise ServerFault(reported(value))
        elif field.strip() not in (b"", b"event", b"id", b"retry"):
            raise ServerFault(no_stream(line))
        return None

    def _said(self, event: _Event) -> Chunk | None:
        if event.error is not None:
            raise ServerFault(_reported_error(event.error))
        if not event.choices:
            if event.message:
                raise ServerFault(_reported_error(event.message))
            return None
        choice = event.choices[0]
        if choice.finish_reason:
            self._reason = one_line(choice.finish_reason, MAX_REASON_CHARS)
            self.heard += 1
        delta = choice.delta or _Delta()
        answer = delta.content or ""
        thinking = delta.reasoning_content or delta.reasoning or delta.thinking or ""
        if answer or thinking:
            self._lane = "answer" if answer else "thinking"
        entries = (choice.logprobs and choice.logprobs.content) or ()
        pieces = measured_pieces(answer or thinking, self._lane, entries, self._top_k)
        if answer and thinking:  # the entries cannot be told apart: they go with the answer
            pieces = (*measured_pieces(thinking, "thinking", (), self._top_k), *pieces)
        return Chunk(pieces) if pieces else None


def _event(value: bytes) -> _Event:
    try:
        return _event_decoder.decode(value)
    except NO_JSON:
        pass
    try:
        return _event_decoder.decode(_repaired(value))
    except NO_JSON as error:
        raise ServerFault(f"sent a line that is no chat completion: {one_line(str(error), 100)}") from error


def _repaired(value: bytes) -> bytes:
    """JSON as some servers write it, made valid: NaN and infinity become null, half characters become U+FFFD."""
    parsed = json.loads(value.decode("utf-8", "replace"), parse_float=_finite, parse_constant=lambda _name: None)
    text = json.dumps(parsed, ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _reported_error(error: _Reported | str) -> str:
    message = error if isinstance(error, str) else error.message or ""
    return f"reported an error: {one_line(message, MAX_MESSAGE_CHARS) or 'without a message'}"
