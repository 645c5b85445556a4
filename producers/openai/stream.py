"""One streamed answer of an OpenAI-compatible server, from bytes to chunks. Pure: no clock, no I/O.

    bytes, cut anywhere --> events --> {"choices": [...]}  --> Chunk          text or logprob entries
                                  |                       `--> finish_reason  why the model may have ended
                                  |--> {"error": ...}                         the model broke, under HTTP 200
                                  `--> [DONE]                                 the end

A finish_reason is believed at the end of the stream only: there are servers that send one with each chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from producers.backend import Chunk, Ending
from producers.openai.choices import NOT_VALID, ChoiceReader, CompletionReader, Found
from producers.servers.answer_text import AnswerText
from producers.servers.endings import end_word, ending_of, is_failure, is_stop
from producers.servers.events import DONE, Event, Events, is_json
from producers.servers.faults import (
    ENDED_IN_LINE,
    ServerFault,
    ended_early,
    error_message,
    is_html,
    not_a_stream,
    reported,
)
from producers.servers.loose import Odd, odd_words

_HTML_INSIDE = "sent HTML in the middle of its answer, and ended the stream"


class ChatStream:
    """An AnswerStream. `top_k` alternatives a token were requested. `begins_thinking`: the chat template is known, or
    supposed, to open the thinking. `begun` is the answer that the request begins. `has_ids`: the entries have ids with
    which the model can continue."""

    def __init__(self, top_k: int, *, begins_thinking: bool = False, begun: str = "", has_ids: bool = False) -> None:
        self._events = Events()
        self._odd: Odd = Counter()
        self._choices: ChoiceReader | CompletionReader = ChoiceReader(self._odd, begun)
        self._text = AnswerText(top_k, begins_thinking=begins_thinking, has_ids=has_ids)
        self._word = ""
        self._has_text = self._is_refusal = self._is_repeated = self._is_done = False
        # Rises with everything that the model produced; pings do not count.
        self.events = 0

    @property
    def may_have_ended(self) -> bool:
        """True once the server has sent a reason for the end, after text."""
        return self._is_done or (bool(self._word) and self._has_text)

    @property
    def has_ended(self) -> bool:
        """True where nothing but the end is expected: a reason came, and no text after it."""
        return self.may_have_ended and not self._is_repeated

    @property
    def is_over(self) -> bool:
        """True after [DONE]."""
        return self._is_done

    @property
    def ended_unopened(self) -> bool:
        """True where the model wrote the end of a thinking that it had not begun: its template had."""
        return self._text.ended_unopened

    def read_completions(self, top_k: int) -> None:
        """The server sends completions of llama-server's own kind, and all of their text is the answer."""
        self._choices = CompletionReader()
        self._text = AnswerText(top_k, continues=True, has_ids=True)

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""
        if self._is_done:
            return
        try:
            for event in self._events.feed(data):
                yield from self._read(event)
                if self._is_done:
                    return
        except ServerFault:
            if not self.has_ended or is_failure(self._word):
                raise
            self._is_done = True

    def rest(self) -> Chunk | None:
        """The text that was kept back."""
        pieces = self._text.rest(has_stopped=is_stop(self._word or ("stop" if self._is_done else "")))
        return Chunk(pieces) if pieces else None

    def end(self) -> Iterator[Chunk | Ending]:
        """The last chunks and how the answer ended, when no more bytes come. Raises ServerFault where it is not
        complete, or where the model failed."""
        if not self._is_done:
            yield from self._last_events()
        if rest := self.rest():
            yield rest
        word = self._word or ("stop" if self._is_done else "")
        other = self._events.other.strip()
        if word:
            yield ending_of(
                word,
                has_answer=self._text.has_answer,
                is_refusal=self._is_refusal,
                odd=odd_words(self._odd),
                end=self._text.end,
                prompt_tokens=self._choices.prompt_tokens,
            )
        elif other and (not self._has_text or (other.startswith(b"{") and error_message(other))):
            raise ServerFault(not_a_stream(other))
        else:
            raise ServerFault(_HTML_INSIDE if is_html(other) else ended_early(has_begun=self.events > 0))

    def _last_events(self) -> Iterator[Chunk]:
        """The event whose end is missing; and the whole answer of a server that does not stream."""
        try:
            for event in self._events.end():
                yield from self._read(event)
        except ServerFault as fault:
            if not self.has_ended:
                raise ServerFault(ENDED_IN_LINE) if str(fault) == NOT_VALID else fault from fault
        other = self._events.other.strip()
        if not self._has_text and other.startswith(b"{") and is_json(other):
            yield from self._read(Event(other))

    def _read(self, event: Event) -> Iterator[Chunk]:
        value = event.data.strip()
        if value == DONE:
            self._is_done = True
            self.events += 1
        elif event.is_error:
            raise ServerFault(reported(value))
        elif value:
            found = self._choices.read(value)
            if found.choice:
                yield from self._chunk(found)
            if found.has_error:
                raise ServerFault(reported(value))

    def _chunk(self, found: Found) -> Iterator[Chunk]:
        """The chunk of an event, if it has something to show."""
        choice = found.choice
        if choice is None:
            return
        self._is_refusal = self._is_refusal or bool(choice.refusal)
        pieces = self._text.pieces(choice.answer + choice.refusal, choice.thinking, choice.entries)
        if choice.answer or choice.thinking or choice.refusal or choice.entries or pieces:
            self._is_repeated = self._is_repeated or (bool(self._word) and self._has_text)
            self._has_text = True
            self.events += 1
        if word := end_word(choice.word):
            self._word = word
            self.events += self._has_text
        if pieces:
            yield Chunk(pieces)
