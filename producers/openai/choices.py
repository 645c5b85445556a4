"""One event of a chat completion, from its JSON to the texts in it, whatever their form. Pure: no clock, no I/O.

{"choices": [{"delta": {"content": "a"}}]}           as it is documented: read at once
{"choices": [{"delta": {"content": [{"text": ...     read part by part (producers/servers/loose.py)
{"choices": [{"message": ...}]}, {"text": "a"}       of a server that does not stream, of older completions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from producers.servers.faults import NOT_JSON, ServerFault
from producers.servers.loose import Odd, entries_in, loose_json, texts_in
from producers.servers.pieces import LogprobEntry
from producers.servers.reading import at, decoded, number, prompt_tokens

NOT_VALID = "sent a line that is not a chat completion: it is not valid JSON"
ODD_EVENT = "events in an unknown form"
# OpenAI's; Gemini's; Anthropic's.
_WORDS = ("finish_reason", "finishReason", "stop_reason")
ODD_REASON = "a finish_reason in an unknown form"


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    # Three names for one field; a server that sends two of them sends the same text twice.
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    reasoning_details: None = None
    thought: None = None
    thinking_content: None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[LogprobEntry] | None = None
    # DeepSeek's, of its thinking.
    reasoning_content: list[LogprobEntry] | None = None
    # Of older completions.
    tokens: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: int = 0
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    finishReason: None = None
    text: None = None
    error: None = None


class _Event(msgspec.Struct, gc=False):
    """An event as it is documented; any other one is read part by part. `usage` and `timings` have any form."""

    choices: list[_Choice]
    error: None = None
    usage: msgspec.Raw | None = None
    # llama-server's.
    timings: msgspec.Raw | None = None


class Choice(msgspec.Struct, gc=False):
    """The texts of one choice, its logprob entries, and its word for the end."""

    answer: str
    thinking: str
    refusal: str
    entries: Sequence[LogprobEntry]
    word: str | None


class Found(msgspec.Struct, gc=False):
    """What an event contains: a choice, an error, both or neither."""

    choice: Choice | None = None
    has_error: bool = False


class _Completion(msgspec.Struct, gc=False):
    """An event of llama-server's own /completion."""

    content: str = ""
    stop_type: str | None = None
    completion_probabilities: list[LogprobEntry] | None = None
    tokens_evaluated: object = None
    error: object = None


_decoder = msgspec.json.Decoder(_Event)
_completion_decoder = msgspec.json.Decoder(_Completion)
_STOP_TYPES = {"eos": "stop", "word": "stop", "limit": "length"}


class CompletionReader:
    """The same of each event of a stream of completions. `prompt_tokens` as ChoiceReader has it."""

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None

    def read(self, value: bytes) -> Found:
        """Raises ServerFault for bytes that are not an event."""
        try:
            event = _completion_decoder.decode(value)
        except NOT_JSON as error:
            raise ServerFault(NOT_VALID) from error
        word = _STOP_TYPES.get(event.stop_type or "")
        self.prompt_tokens = prompt_tokens(event.tokens_evaluated) or self.prompt_tokens
        return Found(Choice(event.content, "", "", event.completion_probabilities or (), word), bool(event.error))


class ChoiceReader:
    """The choice of each event of one stream: only the first choice is read, since one was asked for. `prompt_tokens`
    is what the server has reported last of the tokens of the request; None where it has not."""

    def __init__(self, odd: Odd, begun: str = "") -> None:
        """`odd` counts what is not understood; `begun` is the answer that the request begins."""
        self._odd, self._begun = odd, begun
        self._index: int | None = None
        # The answer so far: some servers repeat it whole at the end.
        self._answer: list[str] = []
        self.prompt_tokens: int | None = None

    def read(self, value: bytes) -> Found:
        """Raises ServerFault for bytes that may contain text, and are not JSON."""
        try:
            event = _decoder.decode(value)
        except NOT_JSON:
            found = self._read_loosely(value)
        else:
            if event.usage or event.timings:
                self._count(decoded(event.usage or b"null"), decoded(event.timings or b"null"))
            found = Found(self._documented(event.choices))
        if found.choice and found.choice.answer:
            self._answer.append(found.choice.answer)
        return found

    def _documented(self, choices: list[_Choice]) -> Choice | None:
        for choice in choices:
            if self._is_ours(choice.index):
                delta, logprobs = choice.delta, choice.logprobs
                thinking = delta.reasoning_content or delta.reasoning or delta.thinking or ""
                entries = (logprobs and (logprobs.content or logprobs.reasoning_content)) or ()
                return Choice(delta.content or "", thinking, delta.refusal or "", entries, choice.finish_reason)
        return None

    def _count(self, usage: Any, timings: Any) -> None:
        """Some servers report it with each event, and nothing or null in most. A prompt of which a llama-server has
        some tokens cached is reported in two parts by its timings."""
        computed, cached = number(timings, "prompt_n"), at(timings, "cache_n")
        whole = computed + cached if computed and type(cached) is int and cached >= 0 else None
        self.prompt_tokens = prompt_tokens(usage, "prompt_tokens") or prompt_tokens(whole) or self.prompt_tokens

    def _is_ours(self, index: object) -> bool:
        number = int(index) if isinstance(index, int) or (isinstance(index, str) and index.isdigit()) else 0
        if self._index is None:
            self._index = number
        return number == self._index

    def _read_loosely(self, value: bytes) -> Found:
        try:
            event = loose_json(value)
        except NOT_JSON as error:
            if value.startswith((b"{", b"[")):
                raise ServerFault(NOT_VALID) from error
            event = None
        if isinstance(event, list):
            event = next((one for one in event if isinstance(one, dict)), None)
        if not isinstance(event, dict):
            self._odd[ODD_EVENT] += 1
            return Found()
        self._count(event.get("usage"), event.get("timings"))
        # Without choices, of llama.cpp's own interface and of some proxies: the event is its only choice.
        own = {"delta": event} if event.get("content") else event if event.get("delta") else None
        listed = event.get("choices")
        choice = self._loose_choice([own] if listed is None and own else listed)
        # An older vLLM and FastAPI send their error's fields without an object around them.
        words = None if choice else event.get("message") or event.get("detail")
        nested = listed[0] if choice and isinstance(listed, list) else None
        has_error = bool(event.get("error")) or (isinstance(words, str) and bool(words))
        return Found(choice, has_error or (isinstance(nested, dict) and bool(nested.get("error"))))

    def _loose_choice(self, choices: Any) -> Choice | None:
        if isinstance(choices, dict):
            choices = [choices] if {"delta", "message", "text"} & choices.keys() else list(choices.values())
        if not isinstance(choices, list):
            return None
        for choice in choices:
            if not isinstance(choice, dict):
                self._odd[ODD_EVENT] += 1
            elif self._is_ours(choice.get("index")):
                return self._texts_of(choice)
        return None

    def _texts_of(self, choice: dict[str, Any]) -> Choice:
        texts = texts_in(choice.get("delta"), self._odd)
        if not (texts.answer or texts.thinking or texts.refusal):
            # Whole texts, or of older completions. With a delta beside it, a message is what the deltas made so far.
            whole = choice.get("message") if choice.get("delta") is None else None
            texts = texts_in(choice.get("text") if whole is None else whole, self._odd)
            if whole is not None:
                # Of an answer that was begun, a message mostly has the beginning as well.
                texts.answer = texts.answer.removeprefix(self._begun).removeprefix("".join(self._answer))
        word = next((choice[name] for name in _WORDS if choice.get(name)), None)
        if isinstance(word, dict):
            word = word.get("type") or word.get("reason")
        if not (word is None or isinstance(word, str)):
            self._odd[ODD_REASON] += 1
            word = None
        entries = entries_in(choice.get("logprobs"), self._odd)
        return Choice(texts.answer, texts.thinking, texts.refusal, entries, word)
