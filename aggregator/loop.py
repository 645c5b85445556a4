"""The loop: sixty times a second, as soon as the windows of its sessions are due in Redis's own time.

    tick:  what is new for each session, TIME --> close what is due --> commits, new sessions

All windows lie on one grid, but for less than a millisecond, so one tick serves all sessions: it is at the latest of
their next due times, at most 1 ms past the grid's point. One thread, no asyncio (a third of its CPU for each command),
two round trips a tick however many sessions there are. Without a session it waits in a blocking read instead.

In a cluster a session's windows are due by the clock of its own node: one TIME for each node that has sessions of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aggregator.owned import BEAT_S, OwnedSession, load_session
from aggregator.pace import Pace
from aggregator.session import Session
from schemas import keys
from schemas.errors import Malformed, RedisAway, RedisRefuses
from schemas.grid import NS_PER_MS, NS_PER_S
from transport.address import Node
from transport.cluster import Place, Placed, is_moved
from transport.commit import Taken, end_session, epoch_taken, take_over, taken, verdict
from transport.connection import Command, Pipe, ReplyError, redis_ns
from transport.leases import (
    LOOK_S,
    MOST_DELIVERIES,
    REFRESH_S,
    SWEEP_S,
    Lease,
    Leases,
    has_left,
    is_missing_group,
    sweep_consumers,
)
from transport.log import Log
from transport.presence import RedisPresence
from transport.process import Standing

_TICK_NS = NS_PER_S // 60
# Taking a session costs some round trips: more in one tick would make the others late.
_MOST_NEW_A_TICK = 2
# Whoever does not keep up takes only what nobody else takes, and slowly: late frames are better than none.
_MOST_LEFT_WHEN_BUSY = 1
_MOST_WINDOWS_A_TICK = 60
# Together, beyond the one that each session closes anyway: some 30 ms, so that those behind do not hold up the others.
_MOST_CAUGHT_UP_A_TICK = 240
# A session that kills its owners does so while it is loaded, or soon after.
_WINDOWS_OF_PROOF = 60
# Also how long a signal may go unnoticed: Python waits on in a read that a signal interrupts.
_IDLE_BLOCK_MS = 250
_RECONNECT_S = 0.25
_REST_S = 1.0


class AggregatorLoop:
    """Closes the windows of the sessions whose leases it holds, until `is_stopping` says so."""

    def __init__(self, url: str, standing: Standing, log: Log, is_stopping: Callable[[], bool]) -> None:
        self._pipe = Pipe(url)
        self._leases = Leases(keys.AGGREGATOR_GROUP, standing.name)
        self._standing = standing
        self._log = log
        self._is_stopping = is_stopping
        self._owned: dict[str, OwnedSession] = {}
        self._rested_until: dict[str, float] = {}
        self._upkeep_due, self._look_due, self._sweep_due = 0.0, 0.0, 0.0
        self._has_left = False
        self._pace = Pace()
        self._presence = RedisPresence(log)
        self.windows = 0
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
            if self._owned:
                time.sleep(sleep_ns / NS_PER_S)
        self._leave()

    def _lose_redis(self, error: RedisAway) -> None:
        """What is in memory may no longer be true: it is loaded again when Redis is back."""
        self._presence.lose(error)
        self._owned.clear()
        self._upkeep_due = 0.0
        time.sleep(_RECONNECT_S)

    def _leave(self) -> None:
        try:
            if self._presence.is_away:
                raise RedisAway("it was away when this process was to end")
            self._pipe.run([self._leases.hand_over(), *self._standing.leave()])
        except RedisAway:
            self._log.warning("Redis is away; the sessions will be taken over when their leases run out")
        self._pipe.close()

    def _tick(self) -> int:
        """One tick; returns how long to sleep until the next one, in nanoseconds.

        What is due comes first: housekeeping has the rest of the tick.
        """
        owned = list(self._owned.values())
        if not owned:
            self._idle()
            return 0
        began_s = time.thread_time()
        timed, told_at_ns = self._read(owned)
        self._commit_due(timed)
        self._keep_house()
        self._pace.add(time.thread_time() - began_s, time.monotonic())
        # Whoever is still behind is served at the next tick anyway.
        until_ns = [session.due_ns - at_ns for session, at_ns in timed if session.due_ns > at_ns]
        # Not more than a tick: a session whose ids are ahead of Redis's clock (a failover) must not stop the others.
        # Nor a little earlier, though timers fire late: a tick that finds nothing due costs as much as one that does.
        next_ns = min(max(until_ns, default=_TICK_NS), _TICK_NS)
        return max(0, next_ns - (time.monotonic_ns() - told_at_ns))

    def _read(self, owned: list[OwnedSession]) -> tuple[list[tuple[OwnedSession, int]], int]:
        """One round trip: what is new in each session. Returns each with the time at its node, in ns, and when that
        was, by the monotonic clock."""
        nodes = self._drop_moved(owned)
        clocks = [Placed(one.key, ("TIME",)) for one in dict(zip(nodes, owned, strict=True)).values()]
        replies = self._pipe.run([*(session.read_command() for session in owned), *clocks], follows=False)
        told, told_at_ns = replies[len(owned) :], time.monotonic_ns()
        if refusal := next((reply for reply in told if isinstance(reply, ReplyError)), None):
            raise RedisAway(f"Redis does not tell the time: {refusal}")
        now_ns = dict(zip(dict.fromkeys(nodes), map(redis_ns, told), strict=True))
        for session, reply in zip(owned, replies, strict=False):
            session.add_entries(reply)
            if isinstance(reply, ReplyError) and not is_moved(reply):
                self._rest(session.name, reply)
        if any(map(is_moved, replies)):
            self._drop_moved(owned)
        return [(session, now_ns[node]) for session, node in zip(owned, nodes, strict=True)], told_at_ns

    def _drop_moved(self, owned: list[OwnedSession]) -> list[Node | None]:
        """The node of each session. What another node than before serves may have lost what was read: it is loaded
        anew, not followed."""
        nodes = self._pipe.nodes_of([session.key for session in owned])
        for session, node in zip(owned, nodes, strict=True):
            if session.place.has_changed(node):
                self._owned.pop(session.name, None)
        return nodes

    def _idle(self) -> None:
        """Without a session: waits for one, unless there are leases whose sessions are to be loaded."""
        self._pace = Pace()
        block_ms = int(LOOK_S * 1_000) if self._leases.has_others else _IDLE_BLOCK_MS
        ask = self._leases.read_new(_MOST_NEW_A_TICK, None if self._leases.held or self._has_left else block_ms)
        new, *left = self._pipe.run([ask, *self._looks()])
        self._has_left = any(map(has_left, left))
        self._add_new(new)
        self._keep_house()
        if not self._owned and (self._leases.held or isinstance(new, ReplyError)):
            # Redis refuses for now: what is asked again at once is refused again at once.
            time.sleep(_RECONNECT_S)

    def _looks(self) -> list[Command]:
        return [self._leases.look_for_left()] if self._leases.has_others else []

    def _keep_house(self) -> None:
        """Once a second the leases and this process's record; always what is left, or held and not yet loaded."""
        now = time.monotonic()
        if now >= self._upkeep_due:
            self._upkeep_due = now + REFRESH_S
            counted = {"sessions": len(self._owned), "windows": self.windows, "windows_late": self.windows_late}
            self._standing.detail |= counted
            sweep = [sweep_consumers()] if now >= self._sweep_due else []
            self._sweep_due = now + SWEEP_S if sweep else self._sweep_due
            self._pipe.run([*self._standing.renew(), *sweep])
            self._refresh(_MOST_NEW_A_TICK if self._pace.keeps_up else _MOST_LEFT_WHEN_BUSY)
        elif self._has_left and self._pace.keeps_up:
            self._refresh(_MOST_NEW_A_TICK)
        self._own_more()

    def _refresh(self, take_over_most: int) -> None:
        """Renews the leases, lets go of what another has taken, and takes what is free."""
        (reply,) = self._pipe.run([self._leases.refresh(take_over_most)])
        if is_missing_group(reply):
            self._pipe.run(self._leases.create_group())
        lost, taken = self._leases.add_refresh(reply)
        if take_over_most:
            # As many as we asked for: there may be more, for the next tick.
            self._has_left = len(taken) == take_over_most
        for lease in lost:
            self._rested_until.pop(lease.session, None)
            if self._owned.pop(lease.session, None):
                self._log.warning("another aggregator took the session over", session=lease.session)

    def _add_new(self, reply: Any) -> None:
        if is_missing_group(reply):
            self._pipe.run(self._leases.create_group())
        self._leases.add_new(reply)

    def _own_more(self) -> None:
        """Loads sessions whose leases are held, but which are not in memory."""
        now = time.monotonic()
        waiting = [
            lease
            for lease in self._leases.held.values()
            if lease.session not in self._owned and self._rested_until.get(lease.session, 0.0) <= now
        ]
        for lease in waiting[:_MOST_NEW_A_TICK]:
            try:
                self._own(lease)
            except RedisRefuses as error:
                self._rest(lease.session, error)

    def _own(self, lease: Lease) -> None:
        place = Place(*self._pipe.nodes_of([keys.tokens(lease.session)]))
        (reply,) = self._pipe.run([take_over(lease.session)])
        try:
            found = taken(reply)
        except Malformed as error:
            self._end(lease, epoch_taken(reply), f"The session cannot be read: {error}.")
            return
        if found is None or found.status != "open":
            self._release(lease)
            return
        if lease.deliveries >= MOST_DELIVERIES:
            reason = f"{lease.deliveries} aggregators took this session and none could go on with it."
            self._end(lease, found.epoch, reason)
            return
        # Between the lease and the epoch another may have come: whoever holds the lease now goes on.
        self._refresh(0)
        if lease.entry_id in self._leases.held and (core := self._loaded(lease, found)):
            self._owned[lease.session] = OwnedSession(lease, core, found, place, time.monotonic() + BEAT_S)

    def _loaded(self, lease: Lease, found: Taken) -> Session | None:
        """None where a bug, brought out by this session, ends it. Raises RedisAway, RedisRefuses."""
        try:
            return load_session(self._pipe, found)
        except (RedisAway, RedisRefuses):
            raise
        except Exception as bug:  # noqa: BLE001
            self._end_by_bug(lease, found.epoch, bug)
            return None

    def _end_by_bug(self, lease: Lease, epoch: int, bug: Exception) -> None:
        """A bug that one session brings out must not end the others."""
        self._log.exception("a session cannot be computed", session=lease.session)
        self._end(lease, epoch, f"The aggregator failed on this session ({type(bug).__name__}).")

    def _end(self, lease: Lease, epoch: int, reason: str) -> None:
        (reply,) = self._pipe.run([end_session(lease.session, epoch, reason)])
        if isinstance(reply, ReplyError):
            self._rest(lease.session, reply)
        elif verdict(reply) == "STALE":
            # Another owner has it, who may know better; the next refresh tells that the lease is gone.
            self._owned.pop(lease.session, None)
        else:
            self._log.error("a session is ended", session=lease.session, reason=reason)
            self._release(lease)

    def _release(self, lease: Lease) -> None:
        self._owned.pop(lease.session, None)
        self._rested_until.pop(lease.session, None)
        self._pipe.run([self._leases.acknowledge(lease)])

    def _commit_due(self, timed: list[tuple[OwnedSession, int]]) -> None:
        """One round trip: every window that is due at its node's time, and whether there is more to serve."""
        now, room = time.monotonic(), _MOST_CAUGHT_UP_A_TICK
        commits = list[tuple[OwnedSession, Command]]()
        for session, now_ns in timed:
            if self._owned.get(session.name) is not session:
                continue
            most, beats = min(_MOST_WINDOWS_A_TICK, 1 + room), now >= session.beat_due_s
            closed = self._closed(session, now_ns // NS_PER_MS, most, beats)
            if beats and closed:
                # With a window that is closed: a tick that finds none due must not swallow it.
                session.beat_due_s = now + BEAT_S
            room -= max(0, len(closed) - 1)
            self.windows_late += len(closed) if session.due_ns <= now_ns else max(0, len(closed) - 1)
            commits += ((session, command) for command in closed)
        asks = [self._leases.read_new(_MOST_NEW_A_TICK)] if self._pace.asks_now() else []
        looks = self._looks() if now >= self._look_due and self._pace.keeps_up else []
        replies = self._pipe.run([*(command for _, command in commits), *asks, *looks], follows=False)
        for (session, _), reply in zip(commits, replies, strict=False):
            if self._owned.get(session.name) is session:
                self._add_commit(session, reply)
        for session, _ in timed:
            if session.core.record.ended and self._owned.get(session.name) is session:
                self._release(session.lease)
        if looks:
            self._look_due, self._has_left = now + LOOK_S, has_left(replies[-1])
        if asks:
            self._add_new(replies[len(commits)])

    def _closed(self, session: OwnedSession, now_ms: int, most: int, beat: bool) -> list[Command]:
        """The commits of the session's due windows."""
        try:
            return session.close_due(now_ms, most, beat)
        except Exception as bug:  # noqa: BLE001
            self._end_by_bug(session.lease, session.epoch, bug)
            return []

    def _add_commit(self, session: OwnedSession, reply: Any) -> None:
        match "MOVED" if is_moved(reply) else verdict(reply):
            case "OK":
                self.windows += 1
                session.committed += 1
                if session.committed == _WINDOWS_OF_PROOF:
                    self._leases.prove(session.lease)
                self._rested_until.pop(session.name, None)
            case "GONE":
                self._release(session.lease)
            case "STALE":
                self._owned.pop(session.name)
            case "ERROR":
                self._rest(session.name, reply)
            case _:
                self._owned.pop(session.name)

    def _rest(self, session: str, error: object) -> None:
        """Redis is out of memory, loading or read-only for now: the session is loaded again a little later."""
        if session not in self._rested_until:
            self._log.error("Redis refuses a session for now; trying again", session=session, error=str(error))
        self._rested_until[session] = time.monotonic() + _REST_S
        self._owned.pop(session, None)
