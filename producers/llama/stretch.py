"""Several tokens in one streamed completion: a stretch. Which tokens it has depends on the text alone.

    token   0 | 1 2 | 3 .. 6 | 7 .. 14 | 15 .. 19 | 20 | 21 | 22 23 | 24 .. 27 | 28 .. 35 | ...
            1    2      4        8       cut        |    1     2        4          8
                                                    `-- begins a character of several tokens

A stretch is computed to its end, whether its tokens are taken or not: what is ahead waits in this process and is used
later. The next one is asked for when its first token is wanted. So no more than a stretch is ever computed ahead of the
reader, and an answer of one seed is the same however the reader pauses.
"""

from __future__ import annotations

import msgspec

from producers.llama.step import Step
from producers.servers.faults import ServerFault, one_line
from producers.servers.pieces import LogprobEntry

# Each stretch costs a question (1 ms) and is what may be computed for nothing when a member ends: docs/architecture.md
# has the measurements.
STRETCH_TOKENS = 8
_MAX_REASON_CHARS = 200


class _StretchError(msgspec.Struct):
    message: str = ""


class _StretchEvent(msgspec.Struct):
    tokens: list[int] = []
    tokens_predicted: int = 0
    stop_type: str | None = None
    completion_probabilities: list[LogprobEntry] | None = None
    error: _StretchError | None = None


_decoder = msgspec.json.Decoder(_StretchEvent)


def next_length(length: int, *, is_cut: bool) -> int:
    """How many tokens to ask for after a stretch of `length`; it is cut where a character of several tokens begins,
    and more of these may follow."""
    return 1 if is_cut else min(2 * length, STRETCH_TOKENS)


class StretchReader:
    """One stretch, event by event. It `is_over` with its last event, or before the first token that is not told."""

    def __init__(self) -> None:
        self._count = 0
        self._held: Step | None = None
        self.is_over = False

    def read(self, event: bytes) -> list[Step]:
        """The tokens that are certain now. Raises ServerFault."""
        try:
            told = _decoder.decode(event)
        except msgspec.MsgspecError as error:
            raise ServerFault(f"sent a line that is no completion: {error}") from error
        if told.error is not None:
            raise ServerFault(f"reported an error: {one_line(told.error.message, _MAX_REASON_CHARS)}")
        # A special token may be the end; the event behind it says so.
        held, self._held = self._held, None
        steps = [held] if held else []
        if told.stop_type is not None:
            self.is_over = True
            return [msgspec.structs.replace(step, is_end=told.stop_type == "eos") for step in steps]
        if told.tokens_predicted != self._count + 1 or not told.tokens or not told.completion_probabilities:
            self.is_over = True
            return steps
        self._count += 1
        step = Step(told.tokens[-1], False, told.completion_probabilities[-1])
        if step.is_special:
            self._held = step
            return steps
        return [*steps, step]
