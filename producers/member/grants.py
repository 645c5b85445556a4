"""How far a member may write whose backend really pauses: it stops where it would only run ahead of the others.

    its answer, in bytes    0            end      grant
                            |== written ==|          |        end <= grant: the next token is taken from the backend
                            |======== written =======|==|     end >  grant: held; nobody asks, nothing is computed

A token needs a grant for where it starts, which is where those before it end: so one token may reach past the grant.
The first grant is the start: it comes when the models of all members in step are ready. Thinking needs no more than
that: it comes before the answer, whose end is then 0.

The aggregator raises the grant with the windows that it commits, as the slowest member comes on (`Progress.grant`). It
stands in the session's state: read with each write of tokens and, while it is waited for, just after each commit. It
leads by few bytes, by one at the beginning: were it heard of late, the slowest itself would have to wait for it.

    window   7   8   9   9   9   9  ...  9   9   9   10
             '-- moves --'-- ten seconds --'-- lapsed: written as it likes --'-- the grant counts again
"""

from __future__ import annotations

import asyncio

from schemas.control import NOT_STARTED
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, due_ms

WINDOW_S = 1.0 / FRAME_RATE_HZ
# What an aggregator takes from a window's end to its commit, mostly.
_COMMIT_NS = 3 * NS_PER_MS
# A commit that is late is looked for again twice a window, until it is late by a whole one: then nobody is in a hurry.
_LATE_S = WINDOW_S / 2
# An aggregator is taken over after three seconds, and its successor has some windows to compute.
LAPSE_S = 10.0
# The state is read each second at least. Whatever is longer was a time in which nobody could have heard it move: Redis
# was away, or this process stood still.
MOST_WATCHED_S = 2.0


def next_look_s(window: int, origin_ns: int, now_ns: int) -> float:
    """How long, in seconds, to wait before the state is read again, which showed `window` at `now_ns` of Redis's clock:
    until the next window is committed, in the session that began at `origin_ns`."""
    due_s = (due_ms(origin_ns, window + 1) * NS_PER_MS + _COMMIT_NS - now_ns) / NS_PER_S
    if due_s > 0.0:
        # Whatever a clock says: it is not far.
        return min(due_s, 2 * WINDOW_S)
    return _LATE_S if due_s > -WINDOW_S else WINDOW_S


class GrantGate:
    """Stands before one claim's backend. Times are seconds of a clock that never falls."""

    def __init__(self, lapse_s: float = LAPSE_S) -> None:
        self._lapse_s = lapse_s
        self._end = 0
        self._grant: int | None = NOT_STARTED
        self._window: int | None = None
        self._heard_at = self._still_s = 0.0
        self._raised = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """True while the next token has no grant."""
        return self._grant is not None and self._end > self._grant and self._still_s < self._lapse_s

    def reach(self, end: int) -> None:
        """The answer ends there now, in bytes."""
        self._end = end

    def hear(self, window: int, grant: int | None, now_s: float) -> None:
        """The session's state, read at `now_s`: its last committed window, and what is granted to this claim; None lets
        it write as it likes."""
        if window == self._window:
            self._still_s += min(now_s - self._heard_at, MOST_WATCHED_S)
        else:
            self._window, self._still_s = window, 0.0
        self._heard_at, self._grant = now_s, grant
        if not self.is_held:
            self._raised.set()

    async def wait(self) -> None:
        """Returns when the next token may be taken."""
        while self.is_held:
            self._raised.clear()
            await self._raised.wait()
