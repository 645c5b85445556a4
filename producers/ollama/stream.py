"""One streamed answer of Ollama, from bytes to chunks. Pure: no clock, no I/O.

    bytes, cut anywhere --> lines --> {"message": {"content"}, "done": false}   Chunk, from /api/chat
                                  |-> {"response": ..., "done": false}          Chunk, from /api/generate
                                  |-> {..., "done": true, "done_reason"}        why the model ended; the end
                                  `-> {"error": ...}                            the model broke, under HTTP 200

A line has any number of logprob entries, with text or without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from producers.backend import Chunk, Ending
from producers.servers.answer_text import AnswerText
from producers.servers.endings import end_word, ending_of, is_failure, is_stop
from producers.servers.faults import (
    ENDED_IN_LINE,
    HTML,
    NOT_JSON,
    ServerFault,
    ended_early,
    is_html,
    reported,
)
from producers.servers.lines import Lines
from producers.servers.loose import Odd, Texts, entries_in, loose_json, odd_words, texts_in
from producers.servers.pieces import LogprobEntry
from producers.servers.reading import prompt_tokens

# How Ollama ends a request that contains nothing to answer; a model that was asked something has not ended then.
NOT_ANSWERS = {"load": "only loaded the model: it found nothing to answer", "unload": "unloaded the model"}
_NOT_VALID = "sent a line that is not Ollama's: it is not valid JSON"
_NO_OBJECT = "sent a line that is not Ollama's: it is not a JSON object"


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    # Ollama's name is thinking; servers that imitate it use OpenAI's names.
    thinking: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Line(_Message):
    """A line as it is documented; any other one is read part by part."""

    message: _Message | None = None
    response: str | None = None
    logprobs: list[LogprobEntry] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    error: None = None


class _Found(msgspec.Struct, gc=False):
    """What a line contains. `word`: why the model ended; None where it has not."""

    texts: Texts
    entries: Sequence[LogprobEntry]
    word: str | None = None
    has_error: bool = False
    prompt_tokens: int | None = None


_decoder = msgspec.json.Decoder(_Line)


class OllamaStream:
    """An AnswerStream. `top_k` alternatives a token were requested.

    `thinks` is the lane in which the model begins: an entry without text has the lane of the text before it.
    `begins_thinking`: the chat template opens the thinking, and Ollama does not know it.
    """

    def __init__(self, top_k: int, *, thinks: bool = False, begins_thinking: bool = False) -> None:
        self._lines = Lines()
        self._odd: Odd = Counter()
        self._text = AnswerText(top_k, "thinking" if thinks else "answer", begins_thinking=begins_thinking)
        self._word: str | None = None
        self._is_refusal = False
        # Some versions leave it out where the prompt was cached.
        self._prompt_tokens: int | None = None
        # Rises with everything that the model produced.
        self.events = 0

    @property
    def may_have_ended(self) -> bool:
        """True once the model has ended by itself."""
        return self._word is not None

    @property
    def has_ended(self) -> bool:
        """True once the model has ended by itself: nothing but the end is expected."""
        return self._word is not None

    @property
    def is_over(self) -> bool:
        """True after the last line."""
        return self._word is not None

    @property
    def ended_unopened(self) -> bool:
        """True where the model wrote the end of a thinking that it had not begun: its template had."""
        return self._text.ended_unopened

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""
        try:
            for line in self._lines.feed(data):
                yield from self._read(line)
        except ServerFault:
            # What follows the last line is not part of the answer, unless it is text.
            if self._word is None:
                raise

    def rest(self) -> Chunk | None:
        """The text that was kept back."""
        pieces = self._text.rest(has_stopped=is_stop(self._word or ""))
        return Chunk(pieces) if pieces else None

    def end(self) -> Iterator[Chunk | Ending]:
        """The last chunks and how the answer ended, when no more bytes come. Raises ServerFault where it is not
        complete, or where the model failed."""
        try:
            yield from self._read(self._lines.rest())
        except ServerFault as fault:
            if self._word is None:
                raise ServerFault(ENDED_IN_LINE) if str(fault) == _NOT_VALID else fault from fault
        if rest := self.rest():
            yield rest
        if self._word is None:
            raise ServerFault(ended_early(has_begun=self.events > 0))
        yield ending_of(
            self._word,
            has_answer=self._text.has_answer,
            is_refusal=self._is_refusal,
            odd=odd_words(self._odd),
            end=self._text.end,
            prompt_tokens=self._prompt_tokens,
        )

    def _read(self, line: bytes) -> Iterator[Chunk]:
        """The chunk in a line, if it has something to show."""
        if not line or line.isspace():
            return
        found = self._found(line)
        texts = found.texts
        self._is_refusal = self._is_refusal or bool(texts.refusal)
        pieces = self._text.pieces(texts.answer + texts.refusal, texts.thinking, found.entries)
        self.events += bool(pieces or found.entries or texts.answer or texts.thinking or found.word is not None)
        if pieces:
            yield Chunk(pieces)
        if found.has_error and not (self._word is not None and not is_failure(self._word)):
            raise ServerFault(reported(line))
        if found.word is not None:
            if found.word in NOT_ANSWERS:
                raise ServerFault(NOT_ANSWERS[found.word])
            self._word, self._prompt_tokens = found.word, found.prompt_tokens

    def _found(self, line: bytes) -> _Found:
        """Raises ServerFault for bytes that are not a line of Ollama."""
        try:
            decoded = _decoder.decode(line)
        except NOT_JSON:
            return self._found_loosely(line)
        message = decoded.message or decoded
        thinking = message.thinking or message.reasoning_content or message.reasoning or ""
        texts = Texts(message.content or decoded.response or "", thinking, message.refusal or "")
        entries = decoded.logprobs or ()
        _number(entries)
        if not decoded.done:
            return _Found(texts, entries)
        return _Found(texts, entries, _end(decoded.done_reason), prompt_tokens=prompt_tokens(decoded.prompt_eval_count))

    def _found_loosely(self, line: bytes) -> _Found:
        try:
            found = loose_json(line)
        except NOT_JSON as error:
            raise ServerFault(HTML if is_html(line) else _NOT_VALID) from error
        if not isinstance(found, dict):
            raise ServerFault(_NO_OBJECT)
        texts = texts_in(found.get("message"), self._odd)
        if not (texts.answer or texts.thinking or texts.refusal):
            own = {name: value for name, value in found.items() if name in _OWN_TEXTS}
            texts = texts_in({**own, "content": found.get("response") or found.get("content")}, self._odd)
        entries = entries_in(found.get("logprobs"), self._odd)
        _number(entries)
        word, is_done = found.get("done_reason"), found.get("done") in (True, "true", 1)
        end = _end(word if isinstance(word, str) else None) if is_done else None
        return _Found(texts, entries, end, bool(found.get("error")), prompt_tokens(found, "prompt_eval_count"))


_OWN_TEXTS = ("thinking", "reasoning_content", "reasoning", "refusal")


def _end(word: str | None) -> str:
    return end_word(word) or "stop"


def _number(entries: Sequence[LogprobEntry]) -> None:
    """Ollama lists each token once, without its id, and the names of two may be equal: half characters all read U+FFFD.
    The position in the list distinguishes them, so that each counts."""
    for entry in entries:
        for position, listed in enumerate(entry.top_logprobs or ()):
            listed.id = position
