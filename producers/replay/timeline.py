"""The position of a replay, and its pace. Pure: time is an argument.

    recorded   0 ----------------|----------------|--------------- end
                            position           reached
                     (what every page shows)   (the replay's clock: what is written)

The position moves at `rate`, backwards only by an order; what was reached stays reached. An order may set the position
past it: then the position waits until everything before it is written and computed.
"""

from __future__ import annotations

from schemas.control import Play, Playback
from schemas.grid import NS_PER_S, window_index_at, window_start_ns

# A slower rate would be a pause, a faster one "as fast as the council computes".
SLOWEST, FASTEST = 0.25, 64.0


class Timeline:
    """The position of one replay, in nanoseconds since the session's origin.

    `rate` is 1 for the recorded pace, 0 for as fast as frames are computed. Times `now_s` are seconds of a monotonic
    clock.
    """

    def __init__(self, start_ns: int, last_window: int, *, rate: float, paused: bool, now_s: float) -> None:
        self.last_window = last_window
        self.end_ns = window_start_ns(last_window + 1)
        self.rate, self.paused = rate, paused
        self.reached_ns = start_ns
        # Frames were committed up to here.
        self.computed_ns = start_ns
        self._at_ns, self._at_s = start_ns, now_s
        # The position does not move while the frames at it are missing.
        self._is_held = False
        # For the achieved rate: the recorded time that was played, and how long that took.
        self._played_ns, self._took_s = 0, 0.0

    def position_ns(self, now_s: float) -> int:
        """The position at this time; never past the end, and the same while it is held."""
        if not self.is_running:
            return self._at_ns
        if not self.rate:
            return max(self._at_ns, min(self.end_ns, self.computed_ns))
        return min(self.end_ns, self._at_ns + int((now_s - self._at_s) * self.rate * NS_PER_S))

    @property
    def is_running(self) -> bool:
        return not self.paused and not self._is_held

    def is_over(self, now_s: float) -> bool:
        """True where the position is the end."""
        return self.position_ns(now_s) >= self.end_ns

    def due_s(self, at_ns: int) -> float:
        """When the position reaches `at_ns`; infinite where it does not move by itself."""
        if not self.is_running or not self.rate:
            return float("inf")
        return self._at_s + (at_ns - self._at_ns) / (self.rate * NS_PER_S)

    def late_s(self, at_ns: int, now_s: float) -> float | None:
        """How late `now_s` is for an entry that is due at `at_ns`; None where it was skipped, or has no due time."""
        if not self.is_running or not self.rate or at_ns < self._at_ns:
            return None
        return now_s - self.due_s(at_ns)

    def reach(self, at_ns: int) -> None:
        """Everything before `at_ns` is written."""
        self.reached_ns = max(self.reached_ns, at_ns)

    def cut(self, last_window: int, now_s: float) -> None:
        """The replay ends with this window."""
        self._anchor(now_s)
        self.last_window = last_window
        self.end_ns = window_start_ns(last_window + 1)
        self._at_ns = min(self._at_ns, self.end_ns)

    def hold(self, is_held: bool, now_s: float) -> None:
        """Stops the position, or lets it move."""
        if is_held != self._is_held:
            self._anchor(now_s)
            self._is_held = is_held

    def order(self, order: Play, now_s: float) -> None:
        """Follows an order; numbers out of range are limited to it."""
        self._anchor(now_s)
        if order.rate is not None and order.rate == order.rate:
            self.rate = min(FASTEST, max(SLOWEST, order.rate)) if order.rate else 0.0
        if order.paused is not None:
            self.paused = order.paused
        window = window_index_at(self._at_ns) - 1 if order.window is None else order.window
        if order.window is not None or order.step:
            shown = min(self.last_window, max(0, window + order.step))
            self._at_ns = window_start_ns(shown + 1)

    def _anchor(self, now_s: float) -> None:
        position = self.position_ns(now_s)
        if self.is_running and position > self._at_ns:
            played_ns = position - self._at_ns
            self._played_ns += played_ns
            # After the end, time passes and the position does not move.
            self._took_s += min(now_s - self._at_s, played_ns / NS_PER_S / self.rate if self.rate else float("inf"))
        self._at_ns, self._at_s = position, now_s

    def achieved_rate(self, now_s: float) -> float | None:
        """Recorded time per second of time in which the replay was not paused or held; None before it has run."""
        self._anchor(now_s)
        return self._played_ns / NS_PER_S / self._took_s if self._took_s > 0 else None

    def playback(self, now_s: float) -> Playback:
        """The position and pace, as clients receive them."""
        position = self.position_ns(now_s)
        return Playback(
            max(-1, window_index_at(position) - 1), self.last_window, self.rate, self.paused, position >= self.end_ns
        )
