"""How the end of a member's answer is shown: an empty answer is never a silent success. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from producers.backend import LENGTH
from schemas.entries import Lane


def shown_reason(reason: str, lanes: AbstractSet[Lane], max_tokens: int) -> str:
    """The reason of a member that finished: that of its model, or why there is no answer. `lanes` are those with text
    other than white space."""
    if "answer" in lanes:
        return reason
    if reason == LENGTH:
        user = "thinking" if "thinking" in lanes else "something other than text"
        return f"{user} used all max_tokens ({max_tokens}): raise --max-tokens"
    return "the model ended after its thinking, without an answer" if lanes else "the model ended without an answer"
