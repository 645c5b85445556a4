"""One streamed answer of Ollama, from bytes to chunks. Pure: no clock, no I/O.

    bytes, cut anywhere --> lines --> {"message": {"content"}, "done": false}   Chunk, from /api/chat
                                  |-> {"response": ..., "done": false}          Chunk, from /api/generate
                                  |-> {..., "done": true, "done_reason"}        why the model ended; the end
                                  `-> {"error": ...}                            the model broke, under HTTP 200

A line has any number of logprob entries, with text or without.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from producers.backend import Chunk, Ending, Piece
from producers.servers.faults import (
    ENDED_IN_LINE,
    HTML,
    MAX_REASON_CHARS,
    NOT_JSON,
    ServerFault,
    ended_early,
    is_html,
    one_line,
    reported,
)
from producers.servers.lines import Lines
from producers.servers.pieces import LogprobEntry, pieces_of_lanes
from schemas.entries import Lane

# How Ollama ends a request that contains nothing to answer; a model that was asked something has not ended then.
NOT_ANSWERS = {"load": "only loaded the model: it found nothing to answer", "unload": "unloaded the model"}


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    # Ollama's name is thinking; servers that imitate it use OpenAI's names.
    thinking: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Line(_Message):
    message: _Message | None = None
    response: str | None = None
    logprobs: list[LogprobEntry] | None = None
    done: bool = False
    done_reason: str | None = None
    error: object = None


_decoder = msgspec.json.Decoder(_Line)


class OllamaStream:
    """An AnswerStream. `top_k` alternatives a token were requested.

    `thinks` is the lane in which the model begins: an entry without text has the lane of the text before it.
    """

    def __init__(self, top_k: int, *, thinks: bool = False) -> None:
        self._top_k = top_k
        self._lines = Lines()
        self._lane: Lane = "thinking" if thinks else "answer"
        self._reason: str | None = None
        # Rises with everything that the model produced.
        self.events = 0

    @property
    def finished(self) -> bool:
        """True once the model has ended by itself; the rest of the stream changes nothing."""
        return self._reason is not None

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""
        if self.finished:
            return
        for line in self._lines.feed(data):
            if chunk := self._chunk(line):
                yield chunk
            if self.finished:
                return

    def end(self) -> Ending:
        """How the answer ended, when no more bytes come. Raises ServerFault where it is not complete."""
        rest = self._lines.rest().strip()
        if rest and not self.finished:
            try:
                _decoder.decode(rest)
            except NOT_JSON as error:
                raise ServerFault(HTML if is_html(rest) else ENDED_IN_LINE) from error
            if self._chunk(rest) is not None:
                raise ServerFault(ENDED_IN_LINE)
        if self._reason is not None:
            return Ending(self._reason)
        raise ServerFault(ended_early(has_begun=self.events > 0))

    def _chunk(self, line: bytes) -> Chunk | None:
        """The chunk in a line; None where the line has nothing to show."""
        if not line or line.isspace():
            return None
        try:
            decoded = _decoder.decode(line)
        except NOT_JSON as error:
            reason = HTML if is_html(line) else f"sent a line that is not Ollama's: {one_line(str(error), 100)}"
            raise ServerFault(reason) from error
        if decoded.error is not None:
            raise ServerFault(reported(line))
        pieces = self._pieces(decoded)
        if decoded.done:
            self._reason = one_line(decoded.done_reason or "stop", MAX_REASON_CHARS)
            if self._reason in NOT_ANSWERS:
                raise ServerFault(NOT_ANSWERS[self._reason])
        self.events += bool(pieces or decoded.done)
        return Chunk(pieces) if pieces else None

    def _pieces(self, line: _Line) -> tuple[Piece, ...]:
        message = line.message or line
        answer = message.content or line.response or ""
        thinking = message.thinking or message.reasoning_content or message.reasoning or ""
        entries = line.logprobs or ()
        for entry in entries:
            # Ollama lists each token once, without its id, and the names of two may be equal: half characters all read
            # U+FFFD. The position in the list distinguishes them, so that each counts.
            for position, listed in enumerate(entry.top_logprobs or ()):
                listed.id = position
        self._lane, pieces = pieces_of_lanes(answer, thinking, self._lane, entries, self._top_k)
        return pieces
