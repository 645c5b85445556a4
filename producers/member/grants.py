"""How far a member may write whose backend really pauses: it stops where it would only run ahead of the others.

    its answer, in bytes    0            end      grant
                            |== written ==|          |        end <= grant: the next token is taken from the backend
                            |======== written =======|==|     end >  grant: held; no token is taken, none is computed

A token needs a grant for its start, which is the end of the token before it: so one token may reach past the grant.
The first grant is the start: it comes when the models of all members in step are ready. Thinking needs no more than
that: it comes before the answer, whose end is then 0.

The aggregator raises the grant with the windows that it commits, as the slowest member writes (`Progress.grant`). It is
a field of the session's state, which is read with each write of tokens and, while the member is held, just after each
commit. It leads by few bytes, by one at the beginning: if it were read late, the slowest member itself would wait.

    window   7   8   9   9   9   9  ...  9   9   9   10
             '-- moves --'-- ten seconds --'-- lapsed: written without it --'-- the grant counts again

Pure: no clock, no I/O. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from schemas.control import NOT_STARTED
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, due_ms

WINDOW_S = 1.0 / FRAME_RATE_HZ
# The time from a window's end to its commit, in most cases.
_COMMIT_NS = 3 * NS_PER_MS
# A late commit is looked for again when it is twice as late, after this time at least and a window at most.
_SOON_S = 0.002
# An aggregator is taken over after three seconds, and its successor has some windows to compute.
LAPSE_S = 10.0
# The state is read each second at least. A longer gap means that Redis was away or that this process was stopped, so
# the grant could not be seen to move.
MOST_WATCHED_S = 2.0


def next_look_s(window: int, origin_ns: int, now_ns: int) -> float:
    """The seconds until the next window is committed, when the state showed `window` at `now_ns` of Redis's clock.
    `origin_ns` is the session's origin."""
    due_s = (due_ms(origin_ns, window + 1) * NS_PER_MS + _COMMIT_NS - now_ns) / NS_PER_S
    if due_s > 0.0:
        # Bounded, in case a clock jumped.
        return min(due_s, 2 * WINDOW_S)
    return min(max(-due_s, _SOON_S), WINDOW_S)


class GrantGate:
    """Whether one claim may take its next token from the backend. `end` is the end of the answer, in bytes."""

    def __init__(self, lapse_s: float = LAPSE_S, *, end: int = 0) -> None:
        self._lapse_s = lapse_s
        self.end = end
        self._grant: int | None = NOT_STARTED
        self._window: int | None = None
        self._read_at_s = self._still_s = 0.0

    @property
    def is_held(self) -> bool:
        """True while the next token has no grant."""
        return self._grant is not None and self.end > self._grant and self._still_s < self._lapse_s

    def reach(self, end: int) -> None:
        """Sets the end of the answer, in bytes."""
        self.end = end

    def take(self, window: int, grant: int | None, now_s: float) -> None:
        """Takes the session's state, read at `now_s`: its last committed window, and the grant of this claim. None is
        no limit."""
        if window == self._window:
            self._still_s += min(now_s - self._read_at_s, MOST_WATCHED_S)
        else:
            self._window, self._still_s = window, 0.0
        self._read_at_s, self._grant = now_s, grant
