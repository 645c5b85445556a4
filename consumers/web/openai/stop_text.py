"""Stop texts: an answer ends before that one of them which is complete first. Pure.

stop "END"      arrives   "It is E"   "N"   "D. And"
                shown     "It is "    ""    ""          the answer ends here
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Cuts one text at the stop text that is complete first. What may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        # True once a stop text was found: the text has ended.
        self.is_found = False

    def add(self, text: str) -> str:
        """The next part of the text, as far as it can be shown."""
        if self.is_found or not self._stops:
            return "" if self.is_found else text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_found, self._held = True, ""
            # The one that is complete first: which one it is must not depend on the parts in which the text arrives.
            return text[: min(found)[1]]
        keep = max(_begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """The text has ended by itself: what was held back."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many of the last characters of the text are a beginning of the stop text."""
    most = min(len(text), len(stop) - 1)
    return next((count for count in range(most, 0, -1) if text.endswith(stop[:count])), 0)
