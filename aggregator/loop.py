"""The loop: sixty times a second, as soon as the windows of its sessions are due in Redis's own time.

    tick:  what is new for each session, TIME --> close what is due --> commits, new sessions

All windows lie on one grid, but for less than a millisecond, so one tick serves all sessions: it is at the latest of
their next due times, at most 1 ms past the grid's point. One thread, no asyncio (a third of its CPU for each command),
two round trips a tick however many sessions there are. Without a session it waits in a blocking read instead.

In a cluster a session's windows are due by the clock of its own node: one TIME for each node that has sessions of ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from aggregator.owned import BEAT_S, OwnedSession
from aggregator.pace import Pace
from aggregator.tenure import MOST_NEW_A_TICK, Tenure
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import RedisAway
from schemas.grid import NS_PER_MS, NS_PER_S
from transport.commit import verdict
from transport.leases import (
    LOOK_S,
    REFRESH_S,
    SWEEP_S,
    Leases,
    has_left,
    sweep_consumers,
)
from transport.redis.address import Node
from transport.redis.cluster import KeyedCommand, is_moved
from transport.redis.connection import Command, Pipe, ReplyError, redis_ns
from transport.register import ProcessRegistration
from transport.replays import SILENT_MS

_TICK_NS = NS_PER_S // 60
# Whoever does not keep up takes only what nobody else takes, and slowly: late frames are better than none.
_MOST_LEFT_WHEN_BUSY = 1
_MOST_WINDOWS_A_TICK = 60
# Together, beyond the one that each session closes anyway: some 30 ms, so that those behind do not hold up the others.
_MOST_CAUGHT_UP_A_TICK = 240
# A replay that is faster than life closes, beside live sessions, so many windows a tick at most; and all replays have
# half a tick of time together, since a recording may contain windows that take long.
_MOST_REPLAYED_A_TICK = 10
_REPLAYS_SHARE_S = 0.5 / 60
# Without a live session: how long this loop waits before it looks again whether a replay's next window is due.
_REPLAY_TICK_NS = _TICK_NS // 2
# A session that kills its owners does so while it is loaded, or soon after.
_WINDOWS_OF_PROOF = 60
# Also how long a signal may go unnoticed: Python waits on in a read that a signal interrupts.
_IDLE_BLOCK_MS = 250
_RECONNECT_S = 0.25


class AggregatorLoop:
    """Closes the windows of the sessions whose leases it holds, until `is_stopping` says so."""

    def __init__(self, url: str, registration: ProcessRegistration, log: Log, is_stopping: Callable[[], bool]) -> None:
        self._pipe = Pipe(url)
        self._presence = RedisPresence(log)
        self._tenure = Tenure(self._pipe, Leases(keys.AGGREGATOR_GROUP, registration.name), self._presence, log)
        self._registration = registration
        self._log = log
        self._is_stopping = is_stopping
        self._upkeep_due, self._look_due, self._sweep_due = 0.0, 0.0, 0.0
        self._pace = Pace()
        self.windows = 0
        # What replays took of the time of live sessions, less their share: below 0 there is some left in this tick.
        self._replays_took_s = 0.0
        # What closing their windows took in this tick.
        self._replayed_s = 0.0
        # Those that were closed when the one after them was due as well.
        self.windows_late = 0

    def run(self) -> None:
        """Ticks until it shall stop; then hands its sessions over at once."""
        while not self._is_stopping():
            try:
                sleep_ns = self._tick()
            except RedisAway as error:
                self._lose_redis(error)
                continue
            self._presence.come_back()
            if self._tenure.owned:
                time.sleep(sleep_ns / NS_PER_S)
        self._leave()

    def _lose_redis(self, error: RedisAway) -> None:
        """What is in memory may no longer be true: it is loaded again when Redis is back."""
        self._presence.lose(error)
        self._tenure.owned.clear()
        self._upkeep_due = 0.0
        time.sleep(_RECONNECT_S)

    def _leave(self) -> None:
        try:
            if self._presence.is_away:
                raise RedisAway("it was away when this process was to end")
            self._pipe.run([self._tenure.leases.hand_over(), *self._registration.leave()])
        except RedisAway:
            self._log.warning("Redis is away; the sessions will be taken over when their leases run out")
        self._pipe.close()

    def _tick(self) -> int:
        """One tick; returns how long to sleep until the next one, in nanoseconds.

        What is due comes first: housekeeping has the rest of the tick.
        """
        owned = list(self._tenure.owned.values())
        if not owned:
            self._idle()
            return 0
        began_s, self._replayed_s = time.thread_time(), 0.0
        timed, told_at_ns = self._read(owned)
        self._commit_due(timed)
        self._keep_house()
        live = [(session, at_ns) for session, at_ns in timed if not session.is_replay]
        # The CPU time of replays does not count as busy: this aggregator still takes new live sessions.
        worked_s = time.thread_time() - began_s - self._replayed_s if live else 0.0
        self._pace.add(worked_s, time.monotonic())
        if not live:
            # At the rate `max`, or after a seek, a replay has windows due: this loop closes them as fast as it can.
            return 0 if any(session.due_ns <= at_ns for session, at_ns in timed) else _REPLAY_TICK_NS
        # Whoever is still behind is served at the next tick anyway.
        until_ns = [session.due_ns - at_ns for session, at_ns in live if session.due_ns > at_ns]
        # Not more than a tick: a session whose ids are ahead of Redis's clock (a failover) must not stop the others.
        # Nor a little earlier, though timers fire late: a tick that finds nothing due costs as much as one that does.
        next_ns = min(max(until_ns, default=_TICK_NS), _TICK_NS)
        return max(0, next_ns - (time.monotonic_ns() - told_at_ns))

    def _read(self, owned: list[OwnedSession]) -> tuple[list[tuple[OwnedSession, int]], int]:
        """One round trip: what is new in each session. Returns each with the time at its node, in ns, and when that
        was, by the monotonic clock."""
        nodes = self._drop_moved(owned)
        clocks = [KeyedCommand(one.key, ("TIME",)) for one in dict(zip(nodes, owned, strict=True)).values()]
        reads = [session.read_commands() for session in owned]
        replies = self._pipe.run([*(command for read in reads for command in read), *clocks], follows=False)
        told, told_at_ns = replies[len(replies) - len(clocks) :], time.monotonic_ns()
        if refusal := next((reply for reply in told if isinstance(reply, ReplyError)), None):
            raise RedisAway(f"Redis does not tell the time: {refusal}")
        now_ns = dict(zip(dict.fromkeys(nodes), map(redis_ns, told), strict=True))
        given = iter(replies)
        for session, read in zip(owned, reads, strict=True):
            refusal = session.add_replies(list(islice(given, len(read))))
            if refusal is not None and not is_moved(refusal):
                self._tenure.rest(session.name, refusal)
        if any(map(is_moved, replies)):
            self._drop_moved(owned)
        located = [(session, now_ns[node]) for session, node in zip(owned, nodes, strict=True)]
        self._end_silent_replays(located)
        return [(session, session.time_ns(at_ns)) for session, at_ns in located], told_at_ns

    def _end_silent_replays(self, located: list[tuple[OwnedSession, int]]) -> None:
        """Ends the replays whose process has ended without a word; another one would have taken them over."""
        for session, now_ns in located:
            is_silent = session.is_replay and now_ns // NS_PER_MS - session.played_ms > SILENT_MS
            if is_silent and self._tenure.owned.get(session.name) is session:
                self._tenure.end(session.lease, session.epoch, "The process that played this replay has ended.")

    def _drop_moved(self, owned: list[OwnedSession]) -> list[Node | None]:
        """The node of each session. What another node than before serves may have lost what was read: it is loaded
        anew, not followed."""
        nodes = self._pipe.nodes_of([session.key for session in owned])
        for session, node in zip(owned, nodes, strict=True):
            if session.session_node.has_changed(node):
                self._tenure.owned.pop(session.name, None)
        return nodes

    def _idle(self) -> None:
        """Without a session: waits for one, unless there are leases whose sessions are to be loaded."""
        self._pace = Pace()
        block_ms = int(LOOK_S * 1_000) if self._tenure.leases.has_others else _IDLE_BLOCK_MS
        ask = self._tenure.leases.read_new(MOST_NEW_A_TICK)
        if self._tenure.leases.held or self._tenure.has_left:
            new, *left = self._pipe.run([ask, *self._looks()])
        else:
            new, *left = self._pipe.wait(ask, block_ms, *self._looks())
        self._tenure.has_left = any(map(has_left, left))
        self._tenure.add_new(new)
        self._keep_house()
        if not self._tenure.owned and (self._tenure.leases.held or isinstance(new, ReplyError)):
            # Redis refuses for now: what is asked again at once is refused again at once.
            time.sleep(_RECONNECT_S)

    def _looks(self) -> list[Command]:
        return [self._tenure.leases.look_for_left()] if self._tenure.leases.has_others else []

    def _keep_house(self) -> None:
        """Once a second the leases and this process's record; always what is left, or held and not yet loaded."""
        now = time.monotonic()
        if now >= self._upkeep_due:
            self._upkeep_due = now + REFRESH_S
            counted = {"sessions": len(self._tenure.owned), "windows": self.windows, "windows_late": self.windows_late}
            self._registration.detail |= counted
            sweep = [sweep_consumers()] if now >= self._sweep_due else []
            self._sweep_due = now + SWEEP_S if sweep else self._sweep_due
            self._presence.note(self._pipe.run([*self._registration.renew(), *sweep]))
            self._tenure.refresh(MOST_NEW_A_TICK if self._pace.keeps_up else _MOST_LEFT_WHEN_BUSY)
        elif self._tenure.has_left and self._pace.keeps_up:
            self._tenure.refresh(MOST_NEW_A_TICK)
        self._tenure.own_more()

    def _commit_due(self, timed: list[tuple[OwnedSession, int]]) -> None:
        """One round trip: every window that is due at its node's time, and whether there is more to serve."""
        now, room = time.monotonic(), _MOST_CAUGHT_UP_A_TICK
        has_live = not all(session.is_replay for session, _ in timed)
        most_replayed = _MOST_REPLAYED_A_TICK if has_live else _MOST_WINDOWS_A_TICK
        self._replays_took_s = max(0.0, self._replays_took_s) - _REPLAYS_SHARE_S if has_live else -math.inf
        commits = list[tuple[OwnedSession, Command]]()
        for session, now_ns in timed:
            if self._tenure.owned.get(session.name) is not session:
                continue
            most = min(most_replayed if session.is_replay else _MOST_WINDOWS_A_TICK, 1 + room)
            beats = now >= session.beat_due_s
            if session.is_replay:
                closed = self._closed_of_replay(session, now_ns // NS_PER_MS, most)
            else:
                closed = self._closed(session, now_ns // NS_PER_MS, most, beats)
            if beats and closed:
                # With a window that is closed: a tick that finds none due must not swallow it.
                session.beat_due_s = now + BEAT_S
            room -= max(0, len(closed) - 1)
            if not session.is_replay:
                self.windows_late += len(closed) if session.due_ns <= now_ns else max(0, len(closed) - 1)
            commits += ((session, command) for command in closed)
        asks = [self._tenure.leases.read_new(MOST_NEW_A_TICK)] if self._pace.asks_now() else []
        looks = self._looks() if now >= self._look_due and self._pace.keeps_up else []
        replies = self._pipe.run([*(command for _, command in commits), *asks, *looks], follows=False)
        for (session, _), reply in zip(commits, replies, strict=False):
            if self._tenure.owned.get(session.name) is session:
                self._add_commit(session, reply)
        for session, _ in timed:
            if session.core.record.ended and self._tenure.owned.get(session.name) is session:
                self._tenure.release(session.lease)
        if looks:
            self._look_due, self._tenure.has_left = now + LOOK_S, has_left(replies[-1])
        if asks:
            self._tenure.add_new(replies[len(commits)])

    def _closed_of_replay(self, session: OwnedSession, now_ms: int, most: int) -> list[Command]:
        """The same of a replay, as long as the replays' share of the tick lasts; then the others have their turn."""
        commands = list[Command]()
        while len(commands) < most and self._replays_took_s < 0.0:
            began_s = time.thread_time()
            closed = self._closed(session, now_ms, 1, beat=False)
            took_s = time.thread_time() - began_s
            self._replays_took_s += took_s
            self._replayed_s += took_s
            if not closed:
                break
            commands += closed
        if commands and self._tenure.owned.get(session.name) is session:
            self._tenure.owned[session.name] = self._tenure.owned.pop(session.name)
        return commands

    def _closed(self, session: OwnedSession, now_ms: int, most: int, beat: bool) -> list[Command]:
        """The commits of the session's due windows."""
        try:
            return session.close_due(now_ms, most, beat)
        except Exception as bug:  # noqa: BLE001
            self._tenure.end_by_bug(session.lease, session.epoch, bug)
            return []

    def _add_commit(self, session: OwnedSession, reply: Any) -> None:
        match "MOVED" if is_moved(reply) else verdict(reply):
            case "OK":
                self.windows += 1
                session.committed += 1
                if session.committed == _WINDOWS_OF_PROOF:
                    self._tenure.leases.prove(session.lease)
                self._tenure.recover(session.name)
            case "GONE":
                self._tenure.release(session.lease)
            case "STALE":
                self._tenure.owned.pop(session.name)
            case "ERROR":
                self._tenure.rest(session.name, reply)
            case _:
                self._tenure.owned.pop(session.name)
