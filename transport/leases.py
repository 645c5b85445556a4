"""Who serves which session: a consumer group on the sessions stream, whose pending entries are the leases.

    new ----read_new----> held --refresh each second--> held
                            |  lost to another          |  finished: acknowledge
                            v                           v
                     dropped at once              gone from the group

An owner that says nothing for `takeover_idle_ms` loses its sessions to whoever asks next. This module makes the
commands and takes in the replies; the aggregator sends them through a Pipe, producers through an AsyncPipe.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import keys
from transport.redis.connection import Command, ReplyError, atomically
from transport.redis.scripts import SCRIPTS

_LEASE = SCRIPTS["lease"]
_SWEEP = SCRIPTS["sweep"]

TAKEOVER_IDLE_MS = 3_000
REFRESH_S = 1.0
# How often a consumer that could take more looks whether another has left something: a hand-over is a gap of a few
# frames. A consumer without others in its group has nothing to look for.
LOOK_S = 0.1
# The longest that a consumer waits for new sessions in one command.
BLOCK_MS = 2_000
# A consumer is seen at each refresh. One that was not seen for as long as a process's record lives, and holds nothing,
# has ended.
_PRESENT_MS = 5_000
SWEEP_S = 60.0
# Longer than any pause of a process that comes back; one that comes back later is made again when it first asks.
_GONE_IDLE_MS = 3_600_000
# A session whose owners died ten times kills its owners: it is ended with an error, not handed on.
MOST_DELIVERIES = 10
# Longer than any idle limit, so that the next one who looks may take the session at once.
_HANDED_OVER_IDLE_MS = 86_400_000


class Lease(msgspec.Struct, frozen=True):
    """A session that is ours to serve. `entry_id` is its entry in the sessions stream; `deliveries` counts its
    owners."""

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
    ) -> None:
        self.group = group
        self.consumer_name = consumer_name
        self.takeover_idle_ms, self._present_ms = takeover_idle_ms, present_ms
        self.held: dict[str, Lease] = {}
        # Whether the latest refresh found another consumer that may leave a session.
        self.has_others = False
        self._proven: set[str] = set()

    def create_group(self) -> list[Command]:
        """Makes the group and its stream where they are missing; an existing group answers BUSYGROUP, which is no
        failure."""
        return atomically(
            ("XGROUP", "CREATE", keys.SESSIONS, self.group, "0", "MKSTREAM"),
            ("EXPIRE", keys.SESSIONS, keys.SESSIONS_TTL_S),
        )

    def read_new(self, most: int) -> Command:
        """Asks for sessions that no consumer of the group has served yet."""
        reader = ("GROUP", self.group, self.consumer_name)
        return ("XREADGROUP", *reader, "COUNT", most, "STREAMS", keys.SESSIONS, ">")

    def add_new(self, reply: Any) -> list[Lease]:
        """The leases in the reply of read_new; they are held from now on."""
        if not reply or isinstance(reply, ReplyError):
            return []
        return self._hold([Lease(entry[0].decode(), keys.session_named(entry[1][1])) for entry in reply[0][1]])

    def refresh(self, take_over_most: int) -> Command:
        """Renews what is held, and asks for up to `take_over_most` sessions whose owners are silent."""
        limits = (self.takeover_idle_ms, take_over_most, 0, self._present_ms)
        return _LEASE.call([keys.SESSIONS], [self.group, self.consumer_name, *limits, *self._each_held()])

    def look_for_left(self) -> Command:
        """Asks, at the cost of a read, whether there is anything to take over."""
        return ("XPENDING", keys.SESSIONS, self.group, "IDLE", self.takeover_idle_ms, "-", "+", 1)

    def add_refresh(self, reply: Any) -> tuple[list[Lease], list[Lease]]:
        """(lost, taken over) by the reply of refresh; notes whether there are other consumers.

        A group that is gone with its stream loses everything. Any other error tells nothing of the leases: what another
        has taken meanwhile shows at the next refresh.
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

    def hand_over(self) -> Command:
        """Lets the next consumer that looks take everything over at once. Who lived until then counts for no death."""
        return _LEASE.call(
            [keys.SESSIONS],
            [self.group, self.consumer_name, self.takeover_idle_ms, 0, _HANDED_OVER_IDLE_MS, 0, *self._each_held()],
        )

    def prove(self, lease: Lease) -> None:
        """The session goes on well under this owner: what ended its owners before was no fault of its own."""
        self._proven.add(lease.entry_id)

    def _each_held(self) -> list[str | int]:
        """Each entry, and whether its session is proven."""
        self._proven &= self.held.keys()
        return [part for entry_id in self.held for part in (entry_id, int(entry_id in self._proven))]

    def acknowledge(self, lease: Lease) -> Command:
        """The session needs no owner of this group any more."""
        self.held.pop(lease.entry_id, None)
        return ("XACK", keys.SESSIONS, self.group, lease.entry_id)

    def _hold(self, leases: list[Lease]) -> list[Lease]:
        self.held |= {lease.entry_id: lease for lease in leases}
        return leases


def has_left(reply: Any) -> bool:
    """True where look_for_left found a session whose owner is silent, or said goodbye."""
    return bool(reply) and not isinstance(reply, ReplyError)


def sweep_consumers(idle_ms: int = _GONE_IDLE_MS) -> Command:
    """Forgets the consumers of every group that hold nothing and have not asked for so long; answers how many.

    Consumer names are unique per process start: without this each start would leave one for ever.
    """
    return _SWEEP.call([keys.SESSIONS], [idle_ms])


def is_missing_group(reply: Any) -> bool:
    """True where the group vanished: Redis was restarted without persistence, or the stream expired."""
    # Redis 6.2 puts an error inside a script into a sentence of its own.
    return isinstance(reply, ReplyError) and "NOGROUP" in str(reply)
