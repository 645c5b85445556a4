"""The loop: sixty times a second, as soon as the windows of its sessions are due by Redis's clock.

    tick:  new entries of each session, TIME --> close the due windows --> commits, new sessions

All sessions' windows lie on one grid, to within a millisecond, so one tick serves all sessions: it runs at the latest
of their next due times, at most 1 ms past the grid's point. One thread, no asyncio (which costs three times the CPU for
each command); two round trips a tick, however many sessions there are. Without a session it waits in a blocking read.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aggregator.closing import WindowCloser
from aggregator.owned import OwnedSession
from aggregator.pace import Pace
from aggregator.reading import SessionReader
from aggregator.tenure import MOST_NEW_A_TICK, Tenure
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import RedisAway
from schemas.grid import NS_PER_S
from transport.leases import LOOK_S, REFRESH_S, SWEEP_S, Leases, sweep_consumers
from transport.redis.connection import Command, Pipe, ReplyError
from transport.register import ProcessRegistration

_TICK_NS = NS_PER_S // 60
# A loop that does not keep up takes only what no other takes, and slowly: late frames are better than none.
_MOST_LEFT_WHEN_BUSY = 1
# Without a live session: how long the loop waits before it looks again for a due window of a replay.
_REPLAY_TICK_NS = _TICK_NS // 2
# Also how long a signal may go unnoticed: a read that a signal interrupts is continued by Python.
_IDLE_BLOCK_MS = 250
_RECONNECT_S = 0.25


class AggregatorLoop:
    """Closes the windows of the sessions whose leases it has, until `is_stopping` returns true."""

    def __init__(self, url: str, registration: ProcessRegistration, log: Log, is_stopping: Callable[[], bool]) -> None:
        self._pipe = Pipe(url)
        self._presence, self._pace = RedisPresence(log), Pace()
        self._tenure = Tenure(self._pipe, Leases(keys.AGGREGATOR_GROUP, registration.name), self._presence, log)
        self._reader, self._closer = SessionReader(self._pipe, self._tenure), WindowCloser(self._tenure)
        self._registration, self._log, self._is_stopping = registration, log, is_stopping
        self._upkeep_due = self._look_due = self._sweep_due = 0.0
        # The pipe's connection on which the sessions in memory were loaded.
        self._connection = 0

    def run(self) -> None:
        """Ticks until it must stop; then hands its sessions over."""
        while not self._is_stopping():
            try:
                sleep_ns = self._tick()
            except RedisAway as error:
                self._presence.lose(error)
                # What is in memory may be out of date: it is loaded again when Redis is back.
                self._tenure.owned.clear()
                self._upkeep_due = 0.0
                time.sleep(_RECONNECT_S)
                continue
            self._presence.come_back()
            if self._tenure.owned:
                time.sleep(sleep_ns / NS_PER_S)
        try:
            if self._presence.is_away:
                raise RedisAway("Redis is away.")
            self._pipe.run([self._tenure.leases.hand_over(), *self._registration.leave()])
        except RedisAway:
            self._log.warning("Redis is away; the sessions will be taken over when their leases expire")
        self._pipe.close()

    def _tick(self) -> int:
        """Returns how long to sleep until the next tick, in nanoseconds. Due windows come first; upkeep has the rest of
        the tick."""
        owned = list(self._tenure.owned.values()) if self._is_connected_still() else []
        if not owned:
            self._idle()
            return 0
        began_s = time.thread_time()
        timed, read_at_ns = self._reader.read(owned)
        if not self._is_connected_still():
            return 0
        replays_s = self._commit_due(timed)
        self._keep_up()
        live = [(session, at_ns) for session, at_ns in timed if not session.is_replay]
        # The CPU time of replays does not count as busy: this aggregator still takes new live sessions.
        self._pace.add(time.thread_time() - began_s - replays_s if live else 0.0, time.monotonic())
        if not live:
            # At the rate `max`, or after a seek, windows of a replay are due: they are closed without a pause.
            return 0 if any(session.due_ns <= at_ns for session, at_ns in timed) else _REPLAY_TICK_NS
        # A session that is still behind is served at the next tick anyway.
        until_ns = [session.due_ns - at_ns for session, at_ns in live if session.due_ns > at_ns]
        # At most a tick: a session whose ids are ahead of Redis's clock (a failover) must not stop the others. And not
        # earlier, although timers fire late: a tick that finds nothing due costs as much as any other.
        next_ns = min(max(until_ns, default=_TICK_NS), _TICK_NS)
        return max(0, next_ns - (time.monotonic_ns() - read_at_ns))

    def _is_connected_still(self) -> bool:
        """False where the pipe has a new connection: Redis may lack the end of what the sessions have read, so nothing
        that was computed from it is written."""
        return self._connection == self._pipe.connections

    def _commit_due(self, timed: list[tuple[OwnedSession, int]]) -> float:
        """One round trip: commits every window that is due at its node's time, and asks for more sessions. Returns the
        CPU seconds that replays took."""
        now_s = time.monotonic()
        commits, replays_s = self._closer.close_due(timed, now_s)
        asks = [self._tenure.leases.read_new(MOST_NEW_A_TICK)] if self._may_take and self._pace.asks_now() else []
        looks = self._looks() if now_s >= self._look_due and self._may_take and self._pace.keeps_up else []
        replies = self._pipe.run([*(command for _, command in commits), *asks, *looks], follows=False)
        self._closer.add_replies(commits, replies)
        for session, _ in timed:
            if session.core.record.ended and self._tenure.owns(session):
                self._tenure.release(session.lease)
        if looks:
            self._look_due, self._tenure.has_left = now_s + LOOK_S, self._tenure.leases.has_left(replies[-1])
        if asks:
            self._tenure.add_new(replies[len(commits)])
        return replays_s

    def _idle(self) -> None:
        """Without a session in memory, or after a new connection, which ends what is in memory: waits for a session,
        unless there are leases whose sessions are to be loaded, or while Redis refuses what this process writes."""
        self._pace = Pace()
        tenure = self._tenure
        tenure.owned.clear()
        if not self._may_take:
            self._connection = self._pipe.connections
            self._keep_up()
            time.sleep(_RECONNECT_S)
            return
        block_ms = int(LOOK_S * 1_000) if tenure.leases.has_others else _IDLE_BLOCK_MS
        ask, looks = tenure.leases.read_new(MOST_NEW_A_TICK), self._looks()
        is_wanted = tenure.leases.held or tenure.has_left
        new, *left = self._pipe.run([ask, *looks]) if is_wanted else self._pipe.wait(ask, block_ms, *looks)
        self._connection = self._pipe.connections
        tenure.has_left = any(map(tenure.leases.has_left, left))
        tenure.add_new(new)
        self._keep_up()
        if not tenure.owned and (tenure.leases.held or isinstance(new, ReplyError)):
            # Redis refuses for now, and would refuse the same command at once.
            time.sleep(_RECONNECT_S)

    @property
    def _may_take(self) -> bool:
        """False while Redis refuses what this process writes: it could not serve a session that it takes."""
        return self._presence.refusal is None

    def _looks(self) -> list[Command]:
        return [self._tenure.leases.look_for_left()] if self._tenure.leases.has_others else []

    def _keep_up(self) -> None:
        """Once a second renews the leases and this process's record; takes what another aggregator has left; loads the
        sessions that are leased and not in memory."""
        now_s = time.monotonic()
        if now_s >= self._upkeep_due:
            self._upkeep_due = now_s + REFRESH_S
            self._registration.detail |= {"sessions": len(self._tenure.owned), **self._closer.counts}
            sweep = [sweep_consumers()] if now_s >= self._sweep_due else []
            self._sweep_due = now_s + SWEEP_S if sweep else self._sweep_due
            self._presence.note(self._pipe.run([*self._registration.renew(), *sweep]))
            most = MOST_NEW_A_TICK if self._pace.keeps_up else _MOST_LEFT_WHEN_BUSY
            self._tenure.refresh(most if self._may_take else 0)
        elif self._tenure.has_left and self._may_take and self._pace.keeps_up:
            self._tenure.refresh(MOST_NEW_A_TICK)
        self._tenure.own_more()
