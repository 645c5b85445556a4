"""How much of its work DECIPHER leaves out when it does not keep up. Pure.

    level 0    everything
    level 1    no optional analysis: field, interference and resonance come with the next frame that is on time
    level 2    and all frames that wait are composed as one; their text is kept

A lag alone is no overload: after a kill of DECIPHER, or when an aggregator catches up, many frames come at once, and
each of them is composed. An overload is a lag that does not shrink.
"""

from __future__ import annotations

from typing import Literal

Level = Literal[0, 1, 2]

# A tenth of a second, which is just visible, and half a second.
_LAG_OF_LEVEL_1 = 6
_LAG_OF_LEVEL_2 = 30
_ON_TIME = 1
# So often in a row that it is not by chance.
_MOST_WITHOUT_PROGRESS = 3


class Overload:
    """The level of one session's composing."""

    def __init__(self) -> None:
        self.level: Level = 0
        self._least_lag = 0
        self._without_progress = 0

    def note(self, lag: int) -> None:
        """`lag` is how many committed frames are not composed, after a batch was written."""
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
