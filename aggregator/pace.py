"""Whether a loop keeps up, and how eagerly it should look for more work.

    busy = the share of a core that the loop took lately, 0 to 1, as an exponential mean over half a second

A single late tick says little, and waiting is no work: a Redis that is some milliseconds away makes every tick long,
and a session more would not make it longer. A loop that takes three quarters of a core has no room for another session;
before that, whoever is busier asks for new sessions less often, so that they go to those with more room.
"""

from __future__ import annotations

import math

_MEAN_OVER_S = 0.5
# Above this a session more would make the others late now and then.
_BUSIEST = 0.75
# Whoever is almost full looks at every fourth tick: a new session waits for it 67 ms at most.
_MOST_TICKS_BETWEEN = 4


class Pace:
    """What one loop has measured of itself."""

    def __init__(self) -> None:
        self.busy = 0.0
        self._ended_s: float | None = None
        self._tick = 0

    def add(self, worked_s: float, ended_s: float) -> None:
        """A tick took `worked_s` of CPU, and ended at `ended_s` of a clock that never falls."""
        elapsed_s = worked_s if self._ended_s is None else ended_s - self._ended_s
        self._ended_s = ended_s
        if elapsed_s > 0:
            share = min(1.0, worked_s / elapsed_s)
            self.busy += (share - self.busy) * (1.0 - math.exp(-elapsed_s / _MEAN_OVER_S))

    @property
    def keeps_up(self) -> bool:
        return self.busy < _BUSIEST

    def asks_now(self) -> bool:
        """Called once a tick: whether this is one at which to ask for new sessions."""
        self._tick += 1
        between = 1 + int(self.busy / _BUSIEST * (_MOST_TICKS_BETWEEN - 1) + 0.5)
        return self.keeps_up and self._tick % between == 0
