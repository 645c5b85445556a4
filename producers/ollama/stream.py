"""One streamed answer of Ollama, from the bytes of the network to chunks. No clock, no I/O.

    bytes, cut anywhere --> lines --> {"message": {"content"}, "done": false}   Chunk, from /api/chat
                                  |-> {"response": ..., "done": false}          Chunk, from /api/generate
                                  |-> {..., "done": true, "done_reason"}        why the model ended; nothing follows
                                  `-> {"error": ...}                            the model broke, under HTTP 200

A line carries any number of logprob entries, with text or without. A line is bounded. Where the bytes were cut changes
no chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from producers.backend import Chunk, Ending, Piece
from producers.servers.faults import MAX_LINE_BYTES, MAX_REASON_CHARS, ServerFault, error_message, is_html, one_line
from producers.servers.pieces import LogprobEntry, measured_pieces
from schemas.entries import Lane

# Ollama ends so where it was given nothing to answer; a model that was asked something has not ended then.
NO_ANSWERS = {"load": "only loaded the model: it saw nothing to answer", "unload": "unloaded the model"}


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    # Ollama says thinking; servers that imitate it use OpenAI's names.
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


_HTML = "answered with HTML, not with a stream: is the URL right?"
_HALF_LINE = "ended in the middle of a line"

_decoder = msgspec.json.Decoder(_Line)
_NO_JSON = (msgspec.MsgspecError, ValueError, RecursionError)


class OllamaStream:
    """Feed it what the network brings; it yields chunks. `top_k` alternatives a token were asked for.

    `thinks` says in which lane the model begins: what comes without text belongs to the lane of the text before it.
    """

    def __init__(self, top_k: int, *, thinks: bool = False) -> None:
        self._top_k = top_k
        self._lane: Lane = "thinking" if thinks else "answer"
        self._parts: list[bytes] = []  # of the line that has no end yet
        self._parts_bytes = 0
        self._reason: str | None = None
        # Grows by one with everything the model said.
        self.heard = 0

    @property
    def finished(self) -> bool:
        """The model has ended by itself; what still comes changes nothing."""
        return self._reason is not None

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self.finished:
                return
            self._keep(line)
            if chunk := self._chunk(self._taken()):
                yield chunk
        if not self.finished:
            self._keep(rest)

    def end(self) -> Ending:
        """How the answer ended, when no more bytes come. Raises ServerFault where it did not."""
        rest = self._taken().strip()
        if rest and not self.finished:
            try:
                _decoder.decode(rest)
            except _NO_JSON as error:
                raise ServerFault(_HTML if is_html(rest) else _HALF_LINE) from error
            if self._chunk(rest) is not None:
                raise ServerFault(_HALF_LINE)
        if self._reason is not None:
            return Ending(self._reason)
        raise ServerFault("ended without finishing" if self.heard else "ended without a word")

    def _keep(self, part: bytes) -> None:
        self._parts_bytes += len(part)
        if self._parts_bytes > MAX_LINE_BYTES:
            raise ServerFault(f"sent a line of more than {MAX_LINE_BYTES >> 20} MiB")
        self._parts.append(part)

    def _taken(self) -> bytes:
        whole, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
        return whole

    def _chunk(self, line: bytes) -> Chunk | None:
        """What a line says; None where it says nothing to show."""
        if not line or line.isspace():
            return None
        try:
            said = _decoder.decode(line)
        except _NO_JSON as error:
            reason = _HTML if is_html(line) else f"sent a line that is not Ollama's: {one_line(str(error), 100)}"
            raise ServerFault(reason) from error
        if said.error is not None:
            raise ServerFault(f"reported an error: {error_message(line) or 'without a message'}")
        pieces = self._pieces(said)
        if said.done:
            self._reason = one_line(said.done_reason or "stop", MAX_REASON_CHARS)
            if self._reason in NO_ANSWERS:
                raise ServerFault(NO_ANSWERS[self._reason])
        self.heard += bool(pieces or said.done)
        return Chunk(pieces) if pieces else None

    def _pieces(self, said: _Line) -> tuple[Piece, ...]:
        message = said.message or said
        answer = message.content or said.response or ""
        thinking = message.thinking or message.reasoning_content or message.reasoning or ""
        if answer or thinking:
            self._lane = "answer" if answer else "thinking"
        entries = said.logprobs or ()
        for entry in entries:
            # Ollama lists each token once and without its number, and the names of two may be equal: half characters
            # all read U+FFFD. The place in the list tells them apart, so that each counts.
            for place, listed in enumerate(entry.top_logprobs or ()):
                listed.id = place
        pieces = measured_pieces(answer or thinking, self._lane, entries, self._top_k)
        if answer and thinking:  # the entries cannot be told apart: they go with the answer
            pieces = (*measured_pieces(thinking, "thinking", (), self._top_k), *pieces)
        return pieces
