"""What a server's word for the end of an answer means: the model ended by itself, or it failed. Pure.

Servers have words of their own for the same ends: "eos_token" (TGI), "end_turn", "MAX_TOKENS", "COMPLETE" (Cohere).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from producers.backend import LENGTH, REFUSED, STOP, Ending, Piece
from producers.servers.faults import MAX_REASON_CHARS, ServerFault, one_line

# Many short words are easier to read as text.
_STOPS = frozenset(
    """stop stopped eos eos_token eos_found eot eog end end_turn end_of_turn end_of_text end_of_sequence endoftext
    stop_sequence stop_str stop_token stop_word stop_words stop_string stop_criteria stop_criteria_met matched_stop
    complete completed completion success succeeded done finish finished natural normal ok""".split()  # noqa: SIM905
)
_LENGTHS = frozenset(
    """length limit max_tokens max_token max_length max_new_tokens max_output_tokens max_completion_tokens token_limit
    tokens_limit length_limit output_limit out_of_tokens max_tokens_reached length_capped model_length
    model_context_window_exceeded context_length context_limit context_length_exceeded""".split()  # noqa: SIM905
)
_FAILURES = frozenset(
    """error errored server_error internal_error error_toxic error_limit abort aborted abort_error cancel cancelled
    canceled fail failed failure timeout content_filter content_filtered safety blocklist prohibited_content recitation
    spii sensitive blocked insufficient_system_resource network_error overloaded unload""".split()  # noqa: SIM905
)
_NO_WORDS = frozenset(("null", "none", "nil", "undefined", "unspecified", "not_finished", "not_done", "in_progress"))
_CAPITAL_AFTER_SMALL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def end_word(word: str | None) -> str:
    """The word for an end on one line; empty where it means that the model has not ended."""
    return "" if word is None or _plain(word) in ("", *_NO_WORDS) else one_line(word, MAX_REASON_CHARS)


def ending_of(
    word: str,
    *,
    has_answer: bool,
    is_refusal: bool = False,
    odd: Iterable[str] = (),
    end: Piece | None = None,
    prompt_tokens: int | None = None,
) -> Ending:
    """How the answer ended; `end` is the token with which the model ended it. A word of which nothing is known is kept
    where there is an answer. Raises ServerFault with the word where the model failed, or where it is unknown and there
    is no answer."""
    plain = _plain(word)
    if plain in _FAILURES:
        raise ServerFault(f'ended the answer with "{word}"')
    if is_refusal and has_answer and plain in (*_STOPS, "refusal", "refused"):
        return Ending(REFUSED, tuple(odd), prompt_tokens=prompt_tokens)
    if plain in _STOPS:
        return Ending(STOP, tuple(odd), end.logprob if end else None, end.top if end else (), prompt_tokens)
    if not has_answer and plain not in _LENGTHS:
        raise ServerFault(f'ended with "{word}" and without an answer')
    return Ending(LENGTH if plain in _LENGTHS else word, tuple(odd), prompt_tokens=prompt_tokens)


def is_stop(word: str) -> bool:
    """True where the model ended by itself."""
    return _plain(word) in _STOPS


def is_failure(word: str) -> bool:
    """True where the model, or its server, gave up."""
    return _plain(word) in _FAILURES


def _plain(word: str) -> str:
    """In small letters with underscores: "MAX_TOKENS", "maxTokens", "max-tokens" are one word."""
    plain = _CAPITAL_AFTER_SMALL.sub("_", word.strip()).lower().replace("-", "_").replace(" ", "_")
    return plain.removeprefix("finish_reason_")
