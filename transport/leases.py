"""Leases on sessions: the pending entries of a consumer group on the sessions stream.

    new ----read_new----> held --refresh each second--> held
                            |  lost to another          |  finished: acknowledge
                            v                           v
                     dropped at once            removed from the group

An owner that does not refresh its leases for `takeover_idle_ms` loses them to the next consumer that asks. This module
makes the commands and reads the replies; the aggregator sends them through a Pipe, other roles through an AsyncPipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from schemas import keys
from transport.redis.connection import Command, ReplyError, atomically
from transport.redis.replies import errors_in
from transport.redis.scripts import SCRIPTS

_LEASE = SCRIPTS["lease"]
_SWEEP = SCRIPTS["sweep"]

TAKEOVER_IDLE_MS = 3_000
REFRESH_S = 1.0
# How often a consumer with room looks for leases that another consumer has left: a hand-over delays a few frames. It
# does not look while it is alone in its group.
LOOK_S = 0.1
# The longest that a consumer waits for new sessions in one command.
BLOCK_MS = 2_000
# A consumer is seen at each refresh. One without leases that was not seen for as long as a process record lives has
# ended.
_PRESENT_MS = 5_000
SWEEP_S = 60.0
# Longer than any pause of a process that continues; the group has a later one again as soon as it asks.
_GONE_IDLE_MS = 3_600_000
# A session whose owners died ten times makes its owners crash: it is ended with an error instead of taken over.
MOST_DELIVERIES = 10
# Longer than any idle limit, so that the next consumer that looks takes the session at once.
_HANDED_OVER_IDLE_MS = 86_400_000
# For how long a consumer does not take a session again that it has left to others. They look ten times a second; a
# process of another version that starts needs some seconds.
_LEFT_S = 10.0
# Only sessions of another version are left: those that are open while the council is updated.
_MOST_LEFT = 1_000


class Lease(msgspec.Struct, frozen=True):
    """The right to serve a session. `entry_id` is its entry in the sessions stream; `deliveries` counts its owners."""

    entry_id: str
    session: str
    deliveries: int = 1


class Leases:
    """The leases of one consumer of one group."""

    def __init__(
        self,
        group: str,
        consumer_name: str,
        takeover_idle_ms: int = TAKEOVER_IDLE_MS,
        present_ms: int = _PRESENT_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.group = group
        self.consumer_name = consumer_name
        self.takeover_idle_ms, self._present_ms = takeover_idle_ms, present_ms
        self.held: dict[str, Lease] = {}
        # True where the latest refresh found another consumer in the group.
        self.has_others = False
        self._proven: set[str] = set()
        # When each session was left, by its entry, in that order.
        self._left: dict[str, float] = {}
        self._clock = clock

    def create_group(self) -> list[Command]:
        """Creates the group and its stream where they are missing. The reply for an existing group is BUSYGROUP, which
        is not a failure."""
        return atomically(
            ("XGROUP", "CREATE", keys.SESSIONS, self.group, "0", "MKSTREAM"),
            ("EXPIRE", keys.SESSIONS, keys.SESSIONS_TTL_S),
        )

    def read_new(self, most: int) -> Command:
        """The command for sessions that no consumer of the group has served yet."""
        reader = ("GROUP", self.group, self.consumer_name)
        return ("XREADGROUP", *reader, "COUNT", most, "STREAMS", keys.SESSIONS, ">")

    def add_new(self, reply: Any) -> list[Lease]:
        """The leases in the reply to read_new; they are held from now on."""
        if not reply or isinstance(reply, ReplyError):
            return []
        return self._hold([Lease(entry[0].decode(), keys.session_named(entry[1][1])) for entry in reply[0][1]])

    def refresh(self, take_over_most: int) -> Command:
        """The command that renews what is held, and takes over up to `take_over_most` sessions of silent owners."""
        limits = (self.takeover_idle_ms, take_over_most, 0, self._present_ms)
        return self._lease(*limits, left=self._left_alone(), held=self.held)

    def look_for_left(self) -> Command:
        """The command that finds whether there is a session to take over, at the cost of a read."""
        most = 1 + len(self._left_alone())
        return ("XPENDING", keys.SESSIONS, self.group, "IDLE", self.takeover_idle_ms, "-", "+", most)

    def has_left(self, reply: Any) -> bool:
        """True where look_for_left found a session whose owner is silent, or handed it over, and that this consumer has
        not left itself."""
        if isinstance(reply, ReplyError):
            return False
        alone = set(self._left_alone())
        return any(pending[0].decode() not in alone for pending in reply or ())

    def add_refresh(self, reply: Any) -> tuple[list[Lease], list[Lease]]:
        """(lost, taken over) by the reply to refresh; sets `has_others`.

        Where the group is missing, every lease is lost. Any other error contains nothing about the leases: those that
        another consumer has taken are lost by the next refresh.
        """
        if is_missing_group(reply):
            lost, self.held = list(self.held.values()), {}
            return lost, []
        if isinstance(reply, ReplyError):
            return [], []
        still, self.has_others = {entry_id.decode() for entry_id in reply[0]}, reply[2] == 1
        lost = [lease for entry_id, lease in self.held.items() if entry_id not in still]
        for lease in lost:
            del self.held[lease.entry_id]
        return lost, self._hold(
            [Lease(entry[0].decode(), keys.session_named(entry[1]), int(entry[2])) for entry in reply[1]]
        )

    def hand_over(self, leases: Iterable[Lease] | None = None) -> Command:
        """The command that gives these leases (by default all) free for the next consumer that looks; they are no
        longer held. It is not counted as a failed delivery."""
        entry_ids = list(self.held) if leases is None else [lease.entry_id for lease in leases]
        command = self._lease(self.takeover_idle_ms, 0, _HANDED_OVER_IDLE_MS, 0, held=entry_ids)
        for entry_id in entry_ids:
            self.held.pop(entry_id, None)
        return command

    def leave(self, lease: Lease) -> Command:
        """The command that gives one session free, as hand_over does: this consumer cannot read it, and does not take
        it for ten seconds."""
        self.held.pop(lease.entry_id, None)
        self._left.pop(lease.entry_id, None)
        self._left[lease.entry_id] = self._clock()
        if len(self._left) > _MOST_LEFT:
            del self._left[next(iter(self._left))]
        return self._lease(self.takeover_idle_ms, 0, _HANDED_OVER_IDLE_MS, 0, held=[lease.entry_id])

    def was_left(self, lease: Lease) -> bool:
        """True where this consumer has left the session before: no other one could read it in that time."""
        return lease.entry_id in self._left

    def _left_alone(self) -> list[str]:
        """The entries of the sessions that it has left, and does not take for now."""
        since_s = self._clock() - _LEFT_S
        return [entry_id for entry_id, left_s in self._left.items() if left_s > since_s]

    def prove(self, lease: Lease) -> None:
        """Counts the session's deliveries from one again: it runs well here, so it is not what ended earlier owners."""
        self._proven.add(lease.entry_id)

    def _lease(self, *limits: int, held: Iterable[str], left: Sequence[str] = ()) -> Command:
        """The script's call, with each entry of `held`, and 1 where its session is proven."""
        self._proven &= self.held.keys()
        each = [part for entry_id in held for part in (entry_id, int(entry_id in self._proven))]
        return _LEASE.call([keys.SESSIONS], [self.group, self.consumer_name, *limits, len(left), *left, *each])

    def acknowledge(self, lease: Lease) -> Command:
        """The command for a session that needs no consumer of this group any more; its lease is no longer held."""
        self.held.pop(lease.entry_id, None)
        self._left.pop(lease.entry_id, None)
        return ("XACK", keys.SESSIONS, self.group, lease.entry_id)

    def _hold(self, leases: list[Lease]) -> list[Lease]:
        self.held |= {lease.entry_id: lease for lease in leases}
        return leases


def sweep_consumers(idle_ms: int = _GONE_IDLE_MS) -> Command:
    """The command that deletes the consumers of every group that hold no lease and were idle for so long; the reply is
    their number.

    Consumer names are unique per process start: otherwise each start would leave one for ever.
    """
    return _SWEEP.call([keys.SESSIONS], [idle_ms])


def group_refusal(replies: Sequence[Any]) -> ReplyError | None:
    """The error for which create_group has not created the group; None where the group exists now."""
    return next((error for error in errors_in(replies) if not str(error).startswith("BUSYGROUP")), None)


def is_missing_group(reply: Any) -> bool:
    """True where the group is missing: Redis was restarted without its data, or the stream expired."""
    # Redis 6.2 puts an error inside a script into the middle of its own error text.
    return isinstance(reply, ReplyError) and "NOGROUP" in str(reply)
