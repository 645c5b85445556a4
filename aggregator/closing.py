"""Which due windows one tick closes, and what follows from the replies to their commits.

A tick closes at most 60 windows of a session and 240 beyond the first of each, so that sessions that are behind do not
delay the others. Replays have half a tick of CPU time together beside live sessions, and take turns at it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from aggregator.owned import BEAT_S, OwnedSession
from aggregator.tenure import Tenure
from schemas.grid import NS_PER_MS
from transport.commit import verdict
from transport.redis.cluster import is_moved
from transport.redis.connection import Command

_MOST_WINDOWS_A_TICK = 60
# Some 30 ms.
_MOST_CAUGHT_UP_A_TICK = 240
# A recording may contain windows that take long.
_MOST_REPLAYED_A_TICK = 10
_REPLAYS_SHARE_S = 0.5 / 60
# A session that ends its owners does so while it is loaded, or soon after.
_WINDOWS_OF_PROOF = 60

Commits = Sequence[tuple[OwnedSession, Command]]


class WindowCloser:
    """Closes the windows of one loop's sessions."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        # Windows that were committed, and those closed when the window after them was due as well.
        self._windows = self._windows_late = 0
        # CPU seconds of replays beyond their share; below 0 there is some left in this tick.
        self._replays_over_s = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """For the process's record."""
        return {"windows": self._windows, "windows_late": self._windows_late}

    def close_due(self, timed: Sequence[tuple[OwnedSession, int]], now_s: float) -> tuple[Commits, float]:
        """The commits of every window that is due at its session's time, in nanoseconds, and the CPU seconds that
        replays took. `now_s` is the monotonic clock, by which live sessions beat."""
        room, commits, replays_s = _MOST_CAUGHT_UP_A_TICK, list[tuple[OwnedSession, Command]](), 0.0
        has_live = not all(session.is_replay for session, _ in timed)
        most_replayed = _MOST_REPLAYED_A_TICK if has_live else _MOST_WINDOWS_A_TICK
        self._replays_over_s = max(0.0, self._replays_over_s) - _REPLAYS_SHARE_S if has_live else -math.inf
        for session, now_ns in timed:
            if not self._tenure.owns(session):
                continue
            most = min(most_replayed if session.is_replay else _MOST_WINDOWS_A_TICK, 1 + room)
            if session.is_replay:
                closed, took_s = self._close_replay(session, now_ns // NS_PER_MS, most)
                replays_s += took_s
            else:
                beats = now_s >= session.beat_due_s
                closed = self._close(session, now_ns // NS_PER_MS, most, beats)
                if beats and closed:
                    # The beat goes with a window: a tick that finds none due must not lose it.
                    session.beat_due_s = now_s + BEAT_S
                self._windows_late += len(closed) if session.due_ns <= now_ns else max(0, len(closed) - 1)
            room -= max(0, len(closed) - 1)
            commits += ((session, command) for command in closed)
        return commits, replays_s

    def _close_replay(self, session: OwnedSession, now_ms: int, most: int) -> tuple[list[Command], float]:
        """Closes windows one by one while the replays' share of the tick lasts. Then the replay goes to the end of the
        owned sessions: at the next tick the others have their turn first."""
        commands, began_s = list[Command](), time.thread_time()
        until_s = began_s - self._replays_over_s
        while len(commands) < most and time.thread_time() < until_s:
            closed = self._close(session, now_ms, 1, beat=False)
            if not closed:
                break
            commands += closed
        took_s = time.thread_time() - began_s
        self._replays_over_s += took_s
        if commands and self._tenure.owns(session):
            self._tenure.owned[session.name] = self._tenure.owned.pop(session.name)
        return commands, took_s

    def _close(self, session: OwnedSession, now_ms: int, most: int, beat: bool) -> list[Command]:
        try:
            return session.close_due(now_ms, most, beat)
        except Exception as bug:  # noqa: BLE001  # a bug that one session brings out must not end the others
            self._tenure.end_by_bug(session.lease, session.epoch, bug)
            return []

    def add_replies(self, commits: Commits, replies: Sequence[Any]) -> None:
        """The replies to the commits come first among `replies`."""
        for (session, _), reply in zip(commits, replies, strict=False):
            if self._tenure.owns(session):
                self._add_reply(session, reply)

    def _add_reply(self, session: OwnedSession, reply: Any) -> None:
        match "MOVED" if is_moved(reply) else verdict(reply):
            case "OK":
                self._windows += 1
                session.committed += 1
                if session.committed == _WINDOWS_OF_PROOF:
                    self._tenure.leases.prove(session.lease)
                self._tenure.recover(session.name)
            case "GONE":
                self._tenure.release(session.lease)
            case "ERROR":
                self._tenure.rest(session.name, reply)
            case _:
                # Another owner has it (STALE), or it must be loaded again.
                self._tenure.owned.pop(session.name)
