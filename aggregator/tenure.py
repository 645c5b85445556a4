"""Which sessions this process serves: taking them, keeping their leases, resting, and letting go of them.

    new, or left by another --refresh, add_new--> held --own_more--> owned --release, end, rest--> (gone, or later)

The loop asks for sessions and closes the windows of those that are owned.
"""

from __future__ import annotations

import time
from typing import Any

from aggregator.core.session import Session
from aggregator.owned import BEAT_S, OwnedSession, load_session
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import Malformed, RedisAway, RedisRefuses
from transport.commit import Taken, end_session, epoch_taken, take_over, taken, verdict
from transport.leases import MOST_DELIVERIES, Lease, Leases, is_missing_group
from transport.redis.cluster import SessionNode
from transport.redis.connection import Pipe, ReplyError, is_out_of_memory

# Taking a session costs some round trips: more in one tick would make the others late.
MOST_NEW_A_TICK = 2
_REST_S = 1.0


class Tenure:
    """The sessions of one consumer: `leases` are held, `owned` are in memory. `has_left`: another consumer may have
    left a session. Whatever talks to Redis raises RedisAway."""

    def __init__(self, pipe: Pipe, leases: Leases, presence: RedisPresence, log: Log) -> None:
        self._pipe, self.leases, self._presence, self._log = pipe, leases, presence, log
        self.owned: dict[str, OwnedSession] = {}
        self.has_left = False
        self._rested_until: dict[str, float] = {}

    def refresh(self, take_over_most: int) -> None:
        """Renews the leases, lets go of what another has taken, and takes what is free."""
        (reply,) = self._pipe.run([self.leases.refresh(take_over_most)])
        if is_missing_group(reply):
            self._pipe.run(self.leases.create_group())
        lost, taken = self.leases.add_refresh(reply)
        if take_over_most:
            # As many as we asked for: there may be more, for the next tick.
            self.has_left = len(taken) == take_over_most
        for lease in lost:
            self._rested_until.pop(lease.session, None)
            if self.owned.pop(lease.session, None):
                self._log.warning("another aggregator took the session over", session=lease.session)

    def add_new(self, reply: Any) -> None:
        if is_missing_group(reply):
            self._pipe.run(self.leases.create_group())
        self.leases.add_new(reply)

    def own_more(self) -> None:
        """Loads sessions whose leases are held, but which are not in memory."""
        now = time.monotonic()
        waiting = [
            lease
            for lease in self.leases.held.values()
            if lease.session not in self.owned and self._rested_until.get(lease.session, 0.0) <= now
        ]
        for lease in waiting[:MOST_NEW_A_TICK]:
            try:
                self._own(lease)
            except RedisRefuses as error:
                self.rest(lease.session, error)

    def _own(self, lease: Lease) -> None:
        session_node = SessionNode(*self._pipe.nodes_of([keys.tokens(lease.session)]))
        (reply,) = self._pipe.run([take_over(lease.session)])
        try:
            found = taken(reply)
        except Malformed as error:
            self.end(lease, epoch_taken(reply), f"The session cannot be read: {error}.")
            return
        is_shown_as_recorded = found is not None and found.opening.replay is not None and found.opening.replay.frames
        if found is None or found.status != "open" or is_shown_as_recorded:
            self.release(lease)
            return
        if lease.deliveries >= MOST_DELIVERIES:
            reason = f"{lease.deliveries} aggregators took this session and none could go on with it."
            self.end(lease, found.epoch, reason)
            return
        # Another aggregator may have taken the lease before this one took the epoch: only the lease's holder goes on.
        self.refresh(0)
        if lease.entry_id in self.leases.held and (core := self._loaded(lease, found)):
            self.owned[lease.session] = OwnedSession(lease, core, found, session_node, time.monotonic() + BEAT_S)

    def _loaded(self, lease: Lease, found: Taken) -> Session | None:
        """None where a bug, brought out by this session, ends it. Raises RedisAway, RedisRefuses."""
        try:
            return load_session(self._pipe, found)
        except (RedisAway, RedisRefuses):
            raise
        except Exception as bug:  # noqa: BLE001
            self.end_by_bug(lease, found.epoch, bug)
            return None

    def end_by_bug(self, lease: Lease, epoch: int, bug: Exception) -> None:
        """A bug that one session brings out must not end the others."""
        self._log.exception("a session cannot be computed", session=lease.session)
        self.end(lease, epoch, f"The aggregator failed on this session ({type(bug).__name__}).")

    def end(self, lease: Lease, epoch: int, reason: str) -> None:
        (reply,) = self._pipe.run([end_session(lease.session, epoch, reason)])
        if isinstance(reply, ReplyError):
            self.rest(lease.session, reply)
        elif verdict(reply) == "STALE":
            # Another owner has it, who may know better; the next refresh tells that the lease is gone.
            self.owned.pop(lease.session, None)
        else:
            self._log.error("a session is ended", session=lease.session, reason=reason)
            self.release(lease)

    def release(self, lease: Lease) -> None:
        self.owned.pop(lease.session, None)
        self._rested_until.pop(lease.session, None)
        self._pipe.run([self.leases.acknowledge(lease)])

    def rest(self, session: str, error: Exception) -> None:
        """Redis is out of memory, loading or read-only for now: the session is loaded again a little later."""
        if is_out_of_memory(error):
            self._presence.lose(error)
        elif session not in self._rested_until:
            self._log.error("Redis refuses a session for now; trying again", session=session, error=str(error))
        self._rested_until[session] = time.monotonic() + _REST_S
        self.owned.pop(session, None)

    def recover(self, session: str) -> None:
        """Redis takes the session's windows again."""
        self._rested_until.pop(session, None)
