"""Whether a loop keeps up, and how often it asks for more work.

    busy = the share of a core that the loop used lately, 0 to 1, as an exponential mean over half a second

CPU time is measured, and not a tick's length: with a Redis that is some milliseconds away every tick is long, and one
session more would not make it longer. A loop that uses three quarters of a core takes no other session; below that, a
busier loop asks for new sessions less often, so that they go to the loops with more room.
"""

from __future__ import annotations

import math

_MEAN_OVER_S = 0.5
# Above this one session more would make the others late at times.
_BUSIEST = 0.75
# A loop that is almost full asks at every fourth tick: a new session waits 67 ms for it at most.
_MOST_TICKS_BETWEEN = 4


class Pace:
    """The load of one loop, measured by itself."""

    def __init__(self) -> None:
        self.busy = 0.0
        self._ended_s: float | None = None
        self._tick = 0

    def add(self, worked_s: float, ended_s: float) -> None:
        """A tick used `worked_s` of CPU, and ended at `ended_s` of the monotonic clock."""
        elapsed_s = worked_s if self._ended_s is None else ended_s - self._ended_s
        self._ended_s = ended_s
        if elapsed_s > 0:
            share = min(1.0, worked_s / elapsed_s)
            self.busy += (share - self.busy) * (1.0 - math.exp(-elapsed_s / _MEAN_OVER_S))

    @property
    def keeps_up(self) -> bool:
        return self.busy < _BUSIEST

    def asks_now(self) -> bool:
        """Called once a tick: true at the ticks at which the loop asks for new sessions."""
        self._tick += 1
        between = 1 + int(self.busy / _BUSIEST * (_MOST_TICKS_BETWEEN - 1) + 0.5)
        return self.keeps_up and self._tick % between == 0
