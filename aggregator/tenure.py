"""Which sessions this process serves: taking them, renewing their leases, resting, and releasing them.

new, or left by another --refresh, add_new--> leased --own_more--> owned --release, end, rest--> (gone, or later)
"""

from __future__ import annotations

import time
from typing import Any

from aggregator.core.session import Session
from aggregator.owned import BEAT_S, OwnedSession, load_session
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.errors import Malformed, OtherVersion, RedisAway, RedisRefuses
from transport.commit import Taken, end_session, epoch_taken, take_over, taken, verdict
from transport.leases import MOST_DELIVERIES, Lease, Leases, is_missing_group
from transport.redis.cluster import SessionNode
from transport.redis.connection import Pipe, ReplyError
from transport.redis.refusals import in_words
from transport.redis.replies import refuses_writes

# Taking a session costs some round trips: more in one tick would delay the other sessions.
MOST_NEW_A_TICK = 2
_REST_S = 1.0


class Tenure:
    """The sessions of one consumer: `leases` has its leases, `owned` those sessions that are in memory. `has_left`:
    another consumer may have left a session. Every method that talks to Redis raises RedisAway."""

    def __init__(self, pipe: Pipe, leases: Leases, presence: RedisPresence, log: Log) -> None:
        self._pipe, self.leases, self._presence, self._log = pipe, leases, presence, log
        self.owned: dict[str, OwnedSession] = {}
        self.has_left = False
        self._rested_until: dict[str, float] = {}

    def owns(self, session: OwnedSession) -> bool:
        """False once the session was dropped, even where it has been loaded again since."""
        return self.owned.get(session.name) is session

    def refresh(self, take_over_most: int) -> None:
        """Renews the leases, drops the sessions that another consumer has taken, and takes free ones over."""
        (reply,) = self._pipe.run([self.leases.refresh(take_over_most)])
        self._note(reply)
        lost, taken = self.leases.add_refresh(reply)
        if take_over_most:
            # As many as were asked for: there may be more, for the next tick.
            self.has_left = len(taken) == take_over_most
        for lease in lost:
            self._rested_until.pop(lease.session, None)
            if self.owned.pop(lease.session, None):
                self._log.warning("another aggregator took the session over", session=lease.session)

    def add_new(self, reply: Any) -> None:
        """Takes in the reply to Leases.read_new."""
        self._note(reply)
        self.leases.add_new(reply)

    def _note(self, reply: Any) -> None:
        """Creates the group where the reply is that it is missing; another refusal is logged once."""
        if is_missing_group(reply):
            self._pipe.run(self.leases.create_group())
        elif isinstance(reply, ReplyError):
            self._presence.lose(reply)

    def own_more(self) -> None:
        """Loads sessions that are leased and not in memory."""
        now_s = time.monotonic()
        waiting = [
            lease
            for lease in self.leases.held.values()
            if lease.session not in self.owned and self._rested_until.get(lease.session, 0.0) <= now_s
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
        except OtherVersion as error:
            self._leave(lease, epoch_taken(reply), error)
            return
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
        # Another aggregator may have taken the lease before this one took the epoch: only the lease's owner goes on.
        self.refresh(0)
        if lease.entry_id in self.leases.held and (core := self._loaded(lease, found)):
            self.owned[lease.session] = OwnedSession(lease, core, found, session_node, time.monotonic() + BEAT_S)

    def _leave(self, lease: Lease, epoch: int, error: OtherVersion) -> None:
        """Leaves a session of another version of the council to other aggregators. One of an earlier version that none
        of them took is ended."""
        was_left = self.leases.was_left(lease)
        if was_left and error.is_older:
            self.end(lease, epoch, "An earlier version of the council began this session, and none runs: ask again.")
            return
        if not was_left:
            self._log.warning("a session is left to other aggregators", session=lease.session, error=str(error))
        self._pipe.run([self.leases.leave(lease)])

    def _loaded(self, lease: Lease, found: Taken) -> Session | None:
        """None where a bug, brought out by this session, ends it. Raises RedisAway, RedisRefuses."""
        try:
            return load_session(self._pipe, found)
        except (RedisAway, RedisRefuses):
            raise
        except Exception as bug:  # noqa: BLE001  # a bug that one session brings out must not end the others
            self.end_by_bug(lease, found.epoch, bug)
            return None

    def end_by_bug(self, lease: Lease, epoch: int, bug: Exception) -> None:
        """Ends a session on which the core raised an error. Called where that error is handled."""
        self._log.exception("a session cannot be computed", session=lease.session)
        self.end(lease, epoch, f"The aggregator failed on this session ({type(bug).__name__}).")

    def end(self, lease: Lease, epoch: int, reason: str) -> None:
        """Ends the session with a reason and without another frame."""
        (reply,) = self._pipe.run([end_session(lease.session, epoch, reason)])
        if isinstance(reply, ReplyError):
            self.rest(lease.session, reply)
        elif verdict(reply) == "STALE":
            # Another aggregator owns it and may be able to go on; the next refresh reports the lease as lost.
            self.owned.pop(lease.session, None)
        else:
            self._log.error("a session is ended", session=lease.session, reason=reason)
            self.release(lease)

    def release(self, lease: Lease) -> None:
        """The session needs no aggregator any more."""
        self.owned.pop(lease.session, None)
        self._rested_until.pop(lease.session, None)
        self._pipe.run([self.leases.acknowledge(lease)])

    def rest(self, session: str, error: Exception) -> None:
        """Redis is out of memory, loading or read-only for now: the session is loaded again a little later."""
        if refuses_writes(error):
            self._presence.lose(error)
        elif session not in self._rested_until:
            self._log.error("Redis refuses a session for now; trying again", session=session, error=in_words(error))
        self._rested_until[session] = time.monotonic() + _REST_S
        self.owned.pop(session, None)

    def recover(self, session: str) -> None:
        """Redis accepts the session's windows again."""
        self._rested_until.pop(session, None)
