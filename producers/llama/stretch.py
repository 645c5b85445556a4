"""Several tokens in one streamed completion: a stretch. Which tokens it contains depends on the text alone. Pure.

    token   0 | 1 2 | 3 .. 6 | 7 .. 14 | 15 .. 19 | 20 | 21 | 22 23 | 24 .. 27 | 28 .. 35 | ...
            1    2      4        8       cut        |    1     2        4          8
                                                    `-- begins a character of several tokens

A stretch is computed to its end, whether its tokens are taken or not: the ones ahead wait in this process. The next
stretch is requested when its first token is. So at most one stretch is computed ahead of the reader, and an answer with
one seed is the same however the reader pauses.
"""

from __future__ import annotations

import msgspec

from producers.llama.step import Step
from producers.servers.faults import ServerFault, reported
from producers.servers.pieces import LogprobEntry

# Each stretch costs a request (1 ms), and may be computed for nothing when a member ends: docs/architecture.md has the
# measurements.
STRETCH_TOKENS = 8


class _StretchEvent(msgspec.Struct):
    tokens: list[int] = []
    tokens_predicted: int = 0
    stop_type: str | None = None
    completion_probabilities: list[LogprobEntry] | None = None
    error: object = None


_decoder = msgspec.json.Decoder(_StretchEvent)


def next_length(length: int, *, is_cut: bool) -> int:
    """How many tokens to request after a stretch of `length`; it `is_cut` where a character of several tokens begins,
    and more of these may follow."""
    return 1 if is_cut else min(2 * length, STRETCH_TOKENS)


class StretchReader:
    """One stretch, event by event. It `is_over` with its last event, or before the first token that is missing."""

    def __init__(self) -> None:
        self._count = 0
        self._held: Step | None = None
        self.is_over = False

    def read(self, event: bytes) -> list[Step]:
        """The tokens that are certain after this event. Raises ServerFault."""
        try:
            found = _decoder.decode(event)
        except msgspec.MsgspecError as error:
            raise ServerFault(f"sent a line that is not a completion: {error}") from error
        if found.error is not None:
            raise ServerFault(reported(event))
        # A special token may be the end, which the next event shows.
        held, self._held = self._held, None
        steps = [held] if held else []
        if found.stop_type is not None:
            self.is_over = True
            return [msgspec.structs.replace(step, is_end=found.stop_type == "eos") for step in steps]
        if found.tokens_predicted != self._count + 1 or not found.tokens or not found.completion_probabilities:
            self.is_over = True
            return steps
        self._count += 1
        step = Step(found.tokens[-1], False, found.completion_probabilities[-1])
        if step.is_special:
            self._held = step
            return steps
        return [*steps, step]
