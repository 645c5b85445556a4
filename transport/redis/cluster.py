"""Which node of a Redis Cluster serves which command. Pure: the pipes send and receive.

    commands --parcels--> {node: commands} ==send to all, then read from all==> replies --take--> in the order sent
                  ^                                                                         |
                  +-------- again: MOVED, ASK and TRYAGAIN mean that nothing was executed --+

A cluster has 16,384 slots; a key's slot is CRC16 of its hash tag, and each slot is served by one master. A command goes
to the node of its key, a transaction as a whole to the node of its first key, and a command without a key to the node
of `council:sessions`.

A command that is answered MOVED, ASK or TRYAGAIN was not executed, so it can be sent again. But MOVED may also mean a
failover that lost acknowledged entries: a caller that writes what it computed from earlier replies must not follow it.
Such a run has `follows=False`: the caller gets MOVED as the reply, and the next run goes to the node that has the slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from transport.redis.address import Node

Command = tuple[str | bytes | int | float, ...]

# One round each for MOVED and ASK, and two for a slot whose keys are being moved; then the refusal is the reply.
MOST_ROUNDS = 4
# MIGRATE moves a session's keys in milliseconds.
TRY_AGAIN_S = 0.02

_SLOTS = 16_384
# Commands without a key go to the node of this key: any node will do, as long as it is always the same.
_HOME_KEY = "council:sessions"
_ASKING: Command = ("ASKING",)
# Several times the session keys of a process at its limit.
_KEYS_REMEMBERED = 4_096
_WITHOUT_KEY = frozenset(
    ("CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "DEBUG", "EXEC", "FLUSHALL", "HELLO", "INFO", "KEYS", "MULTI", "PING",
     "ROLE", "SCRIPT", "SHUTDOWN", "TIME", "WAIT")
)  # fmt: skip
_KEY_IS_SECOND = frozenset(("XGROUP", "XINFO", "MEMORY", "OBJECT"))
_ALL_ARE_KEYS = frozenset(("DEL", "EXISTS", "UNLINK"))


class KeyedCommand(tuple[str | bytes | int | float, ...]):
    """A command without a key, for the node that serves `key`: for that node's clock or memory."""

    key: str

    def __new__(cls, key: str, command: Command) -> KeyedCommand:
        keyed = super().__new__(cls, command)
        keyed.key = key
        return keyed


def with_block(command: Command, block_ms: int) -> Command:
    """The XREAD or XREADGROUP, waiting up to block_ms for the first entry. Only the wait methods of pipes send it."""
    at = command.index("STREAMS")
    return (*command[:at], "BLOCK", block_ms, *command[at:])


def atomically(*commands: Command) -> list[Command]:
    """The commands as one transaction: no other client sees a state in between. The last reply is the list of
    theirs."""
    return [("MULTI",), *commands, ("EXEC",)]


def is_moved(reply: Any) -> bool:
    """True where a run that does not follow met a key that another node serves now."""
    return isinstance(reply, MovedError)


class SessionNode:
    """The node that serves a session, as a process that works on the session saw it last.

    A new node may be a replica that took over and lacks the last entries of the former node. Another caller of the same
    pipe may have received its MOVED: so a process that remembers what it read or wrote checks this before each run.
    """

    def __init__(self, node: Node | None = None) -> None:
        self._node = node

    def has_changed(self, node: Node | None) -> bool:
        """Stores the node that serves the session now (None: not known). True where it was another one before."""
        before, self._node = self._node, node or self._node
        return before is not None and before != self._node


class SlotMap:
    """Which node serves which slot, by the reply of one node of the cluster."""

    def __init__(self, slots: Sequence[Any], asked: Node) -> None:
        """`slots` is the reply of `asked` to CLUSTER SLOTS. A node that does not know its own host is `asked`."""
        self._nodes: list[Node | None] = [None] * _SLOTS
        self.node_of_id: dict[bytes, Node] = {}
        for first, last, master, *_replicas in slots:
            host, port, node_id = master[:3]
            known = host.decode() if host else ""
            node = (known if known not in ("", "?") else asked[0], int(port))
            self.node_of_id[node_id] = node
            self._nodes[first : last + 1] = [node] * (last + 1 - first)

    @property
    def nodes(self) -> set[Node]:
        """The masters that serve slots."""
        return set(self.node_of_id.values())

    def find(self, key: str | bytes) -> Node | None:
        """The node that serves the key; None where no node does."""
        return self._nodes[slot_of(key)]

    def node_of(self, key: str | bytes) -> Node:
        """As find. Raises ClusterDownError where no node serves the key."""
        node = self.find(key)
        if node is None:
            raise ClusterDownError(f"no node serves slot {slot_of(key)}")
        return node

    def add(self, moves: Mapping[int, Node]) -> None:
        """Stores the nodes that MOVED named. They are newer than the reply of one node about all slots."""
        for slot, node in moves.items():
            self._nodes[slot] = node


@lru_cache(_KEYS_REMEMBERED)
def slot_of(key: str | bytes) -> int:
    """The slot of a key, 0..16383."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def key_of(command: Command) -> str | bytes | None:
    """The first key of a command, which is in the same slot as its other keys; None where it has no key."""
    if isinstance(command, KeyedCommand):
        return command.key
    at = key_positions(command)
    key = command[at.start] if at else None
    return str(key) if isinstance(key, int | float) else key


def key_positions(command: Command) -> range:
    """Where a command has its keys."""
    name = command[0]
    if name in _WITHOUT_KEY or len(command) < 2:
        return range(0)
    if name in ("EVALSHA", "EVAL"):
        return range(3, 3 + int(command[2]))
    if name in ("XREAD", "XREADGROUP"):
        first = command.index("STREAMS") + 1
        return range(first, (first + len(command)) // 2)
    if name in _ALL_ARE_KEYS:
        return range(1, len(command))
    at = 2 if name in _KEY_IS_SECOND else 1
    return range(at, at + 1)


class Dispatch:
    """The commands of one run while they are sent. `replies` is complete once `has_left` is False."""

    def __init__(self, commands: Sequence[Command], follows: bool = True) -> None:
        self._commands, self._follows = commands, follows
        self.replies: list[Any] = [None] * len(commands)
        self._left = _units(commands)
        # Units whose slot is being moved to another node, by the index of their first command.
        self._asked: dict[int, Node] = {}
        # The nodes of slots that MOVED named in the last round.
        self.moves: dict[int, Node] = {}
        self.waits = False

    @property
    def has_left(self) -> bool:
        """True while commands are to be sent, or sent again."""
        return bool(self._left)

    def parcels(self, slots: SlotMap) -> dict[Node, list[int]]:
        """The indexes for `command()` of what each node gets. Raises ClusterDownError."""
        found: dict[Node, list[int]] = {}
        for unit in self._left:
            node = self._asked.pop(unit[0], None)
            if node is None:
                all_keys = (key_of(self._commands[index]) for index in unit)
                key = next((key for key in all_keys if key is not None), _HOME_KEY)
                found.setdefault(slots.node_of(key), []).extend(unit)
            else:
                found.setdefault(node, []).extend((-1, *unit))
        return found

    def command(self, index: int) -> Command:
        return _ASKING if index < 0 else self._commands[index]

    def take(self, indexes: Sequence[int], replies: Sequence[Any]) -> None:
        """Stores one node's replies to its parcel."""
        for index, reply in zip(indexes, replies, strict=True):
            if index >= 0:
                self.replies[index] = reply

    def end_round(self) -> None:
        """After all replies of a round: sets what is to be sent again, and to which node."""
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
