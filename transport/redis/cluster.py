"""Which server of a Redis Cluster serves which command: a pure core; transport/redis/connection.py sends and receives.

    commands --parcels--> {node: commands} ==send to all, then read from all==> replies --take--> in the order asked
                  ^                                                                         |
                  +-------- again: MOVED, ASK and TRYAGAIN mean that nothing was done ------+

A cluster has 16,384 slots; a key's slot is CRC16 of its hash tag, and each slot is served by one master. What has one
key goes where its slot is; a transaction goes there whole; what has no key goes to the node of `council:sessions`.

A command that was answered MOVED, ASK or TRYAGAIN was not executed: to send it again repeats nothing. But MOVED may
also mean a failover that lost acknowledged entries: whoever writes what it computed from earlier replies must not
follow it. Such a run says `follows=False`, and MOVED comes back as it is; the next run goes where the slot is now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from transport.redis.address import Node

Command = tuple[str | bytes | int | float, ...]

# Once each for MOVED and ASK, and twice for a slot whose keys are on the way; what is refused then stays refused.
MOST_ROUNDS = 4
# MIGRATE moves a session's keys in milliseconds.
TRY_AGAIN_S = 0.02

_SLOTS = 16_384
# Commands without a key go to the node of this one: any would do, as long as it is always the same.
_HOME_KEY = "council:sessions"
_ASKING: Command = ("ASKING",)
# The session keys of a process that serves all it may, several times over.
_KEYS_REMEMBERED = 4_096
_WITHOUT_KEY = frozenset(
    ("CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "DEBUG", "EXEC", "FLUSHALL", "INFO", "KEYS", "MULTI", "PING", "ROLE",
     "SCRIPT", "SHUTDOWN", "TIME", "WAIT")
)  # fmt: skip
_KEY_IS_SECOND = frozenset(("XGROUP", "XINFO", "MEMORY", "OBJECT"))


class KeyedCommand(tuple[str | bytes | int | float, ...]):
    """A command without a key, for the node that serves `key`: its clock, its memory."""

    key: str

    def __new__(cls, key: str, command: Command) -> KeyedCommand:
        placed = super().__new__(cls, command)
        placed.key = key
        return placed


def with_block(command: Command, block_ms: int) -> Command:
    """The XREAD or XREADGROUP, waiting up to block_ms for the first entry. Only the wait methods of pipes send it."""
    at = command.index("STREAMS")
    return (*command[:at], "BLOCK", block_ms, *command[at:])


def atomically(*commands: Command) -> list[Command]:
    """The commands as one transaction: no other client sees a state in between. The last reply is the list of
    theirs."""
    return [("MULTI",), *commands, ("EXEC",)]


def is_moved(reply: Any) -> bool:
    """True where a command of a run that does not follow found that its key is served by another node now."""
    return isinstance(reply, MovedError)


class SessionNode:
    """Where a session is served, as one who works on it saw it last.

    Another node than before may be a replica that took over, without the end of what the former node had taken. Its
    MOVED may have been answered to somebody else on the same pipe: so whoever remembers what was read or written looks
    here before each run.
    """

    def __init__(self, node: Node | None = None) -> None:
        self._node = node

    def has_changed(self, node: Node | None) -> bool:
        """Takes in who serves it now (None: that is not known); True where that was another one."""
        before, self._node = self._node, node or self._node
        return before is not None and before != self._node


class SlotMap:
    """Which node serves which slot, as one node of the cluster told it."""

    def __init__(self, slots: Sequence[Any], told_by: Node) -> None:
        """`slots` is the reply of CLUSTER SLOTS. A node that does not know its own host is where it was asked."""
        self._nodes: list[Node | None] = [None] * _SLOTS
        self.node_of_id: dict[bytes, Node] = {}
        for first, last, master, *_replicas in slots:
            host, port, node_id = master[:3]
            known = host.decode() if host else ""
            node = (known if known not in ("", "?") else told_by[0], int(port))
            self.node_of_id[node_id] = node
            self._nodes[first : last + 1] = [node] * (last + 1 - first)

    @property
    def nodes(self) -> set[Node]:
        """The masters that serve something."""
        return set(self.node_of_id.values())

    def find(self, key: str | bytes) -> Node | None:
        """The node that serves the key; None where nobody does."""
        return self._nodes[slot_of(key)]

    def node_of(self, key: str | bytes) -> Node:
        """As find. Raises ClusterDownError where nobody serves the key."""
        node = self.find(key)
        if node is None:
            raise ClusterDownError(f"no node serves slot {slot_of(key)}")
        return node

    def add(self, moves: Mapping[int, Node]) -> None:
        """Where some slots are, by refusals: those know better than a node that tells of all slots."""
        for slot, node in moves.items():
            self._nodes[slot] = node


@lru_cache(_KEYS_REMEMBERED)
def slot_of(key: str | bytes) -> int:
    """The slot of a key, 0..16383."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def key_of(command: Command) -> str | bytes | None:
    """The first key of a command, which is in the same slot as its others; None where it has none."""
    if isinstance(command, KeyedCommand):
        return command.key
    name = command[0]
    if name in _WITHOUT_KEY or len(command) < 2:
        return None
    if name in ("EVALSHA", "EVAL"):
        key = command[3] if command[2] else None
    elif name in ("XREAD", "XREADGROUP"):
        key = command[command.index("STREAMS") + 1]
    else:
        key = command[2 if name in _KEY_IS_SECOND else 1]
    return str(key) if isinstance(key, int | float) else key


class Dispatch:
    """The commands of one run on their way. `replies` is complete once `has_left` is False."""

    def __init__(self, commands: Sequence[Command], follows: bool = True) -> None:
        self._commands, self._follows = commands, follows
        self.replies: list[Any] = [None] * len(commands)
        self._left = _units(commands)
        # Units whose slot is on the way to another node, by their first command.
        self._asked: dict[int, Node] = {}
        # Where slots are now, as refusals have told since the last round.
        self.moves: dict[int, Node] = {}
        self.waits = False

    @property
    def has_left(self) -> bool:
        """Whether something has to be sent (again)."""
        return bool(self._left)

    def parcels(self, slots: SlotMap) -> dict[Node, list[int]]:
        """What each node gets, as indexes for `command`. Raises ClusterDownError."""
        found: dict[Node, list[int]] = {}
        for unit in self._left:
            node = self._asked.pop(unit[0], None)
            if node is None:
                given = (key_of(self._commands[index]) for index in unit)
                key = next((key for key in given if key is not None), _HOME_KEY)
                found.setdefault(slots.node_of(key), []).extend(unit)
            else:
                found.setdefault(node, []).extend((-1, *unit))
        return found

    def command(self, index: int) -> Command:
        return _ASKING if index < 0 else self._commands[index]

    def take(self, indexes: Sequence[int], replies: Sequence[Any]) -> None:
        """Takes in one node's replies to its parcel."""
        for index, reply in zip(indexes, replies, strict=True):
            if index >= 0:
                self.replies[index] = reply

    def end_round(self) -> None:
        """Once all replies of a round are there: what has to be sent again, and where to."""
        units, self._left, self.moves, self.waits = self._left, [], {}, False
        for unit in units:
            refusal = next(
                (r for r in (self.replies[i] for i in unit) if isinstance(r, AskError | TryAgainError)), None
            )
            if refusal is None:
                continue
            if isinstance(refusal, MovedError):
                self.moves[refusal.slot_id] = refusal.node_addr
                if not self._follows:
                    continue
            elif isinstance(refusal, AskError):
                self._asked[unit[0]] = refusal.node_addr
            else:
                self.waits = True
            self._left.append(unit)


def _units(commands: Sequence[Command]) -> list[range]:
    """Single commands, and transactions from MULTI to EXEC."""
    units, at = [], 0
    while at < len(commands):
        end = at + 1
        if commands[at][0] == "MULTI":
            while commands[end - 1][0] != "EXEC":
                end += 1
        units.append(range(at, end))
        at = end
    return units
