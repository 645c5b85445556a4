"""How much of its work DECIPHER leaves out when it does not keep up. Pure.

    level 0    everything
    level 1    no optional analysis: field, interference and resonance wait for a frame that is on time
    level 2    and all frames that wait are told as one; of their text nothing is lost

Behind is who lags; overloaded is whose lag does not shrink. A DECIPHER that comes back after a kill, or an aggregator
that catches up, leaves many frames at once: those are composed one by one, all of them.
"""

from __future__ import annotations

from typing import Literal

Level = Literal[0, 1, 2]

# A tenth of a second, and half a second: what an eye sees, and what a person calls late.
_LAG_OF_LEVEL_1 = 6
_LAG_OF_LEVEL_2 = 30
_ON_TIME = 1
# So often in a row that no chance does it.
_MOST_WITHOUT_PROGRESS = 3


class Overload:
    """The level of one session's composing."""

    def __init__(self) -> None:
        self.level: Level = 0
        self._least_lag = 0
        self._without_progress = 0

    def note(self, lag: int) -> None:
        """After a batch was written, so many committed frames wait."""
        if lag <= _ON_TIME:
            self.level, self._least_lag, self._without_progress = 0, lag, 0
            return
        if self._least_lag <= _ON_TIME or lag < self._least_lag:
            self._least_lag, self._without_progress = lag, 0
            return
        self._without_progress += 1
        if self._without_progress >= _MOST_WITHOUT_PROGRESS:
            reached: Level = 2 if lag > _LAG_OF_LEVEL_2 else 1 if lag > _LAG_OF_LEVEL_1 else 0
            self.level = max(self.level, reached)
