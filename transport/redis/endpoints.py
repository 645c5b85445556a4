"""The servers behind one URL: where a pipe connects, and the slot map that it received. Both kinds of pipe use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from schemas.errors import RedisAway
from transport.redis.address import Address, Node, without_password
from transport.redis.cluster import Command, SlotMap
from transport.redis.link import LOAD_SCRIPTS
from transport.redis.namespace import named, named_key
from transport.redis.refusals import in_words, without_arguments
from transport.redis.replies import (
    IsReplica,
    ReplyError,
    errors_in,
    has_lost_script,
    hello_fields,
    is_loading,
    is_of_a_replica,
    is_refused_connection,
    serves_nothing,
)

# Every user may send HELLO, which replies what the server is; INFO is a right.
HELLO: Command = ("HELLO", 2)
# The first commands on a new connection.
GREETING: tuple[Command, ...] = (*LOAD_SCRIPTS, HELLO)
ASK_CLUSTER: tuple[Command, ...] = (("CLUSTER", "SLOTS"), ("CLUSTER", "MYID"))


class _KnownServers:
    """What the pipes of this process know of the servers behind one URL."""

    def __init__(self) -> None:
        # The nodes of a cluster: a new pipe finds them although the URL's own server is gone.
        self.nodes: list[Node] = []
        # The node to which a pipe connected last. A task that makes a new pipe after each failure would connect to the
        # URL's own server every time.
        self.last: Node | None = None
        # How often a pipe noticed that its server has become a replica.
        self.demotions = 0


class Endpoints:
    """`slots` is None unless the servers form a cluster."""

    _known_of_url: ClassVar[dict[str, _KnownServers]] = {}

    def __init__(self, url: str) -> None:
        self.address = Address(url)
        self._known = self._known_of_url.setdefault(url, _KnownServers())
        self._node: Node | None = None
        self._failures = self._demotions = 0
        self.slots: SlotMap | None = None

    @property
    def has_moved(self) -> bool:
        """True where another pipe of this process has found the server to be a replica since this one connected.

        A pipe that only reads would not notice it: a replica answers reads for ever, without what the new master has.
        """
        return self._demotions != self._known.demotions

    def next(self) -> Node | None:
        """The node to connect to: the one that worked last, or the next one after a failure. None is the URL's own
        server."""
        nodes: list[Node | None] = [None, *self.address.others, *self._known.nodes]
        first = nodes.index(self._known.last) if self._known.last in nodes else 0
        self._node = nodes[(first + self._failures) % len(nodes)]
        self._failures += 1
        return self._node

    def is_cluster(self, replies: Sequence[Any]) -> bool:
        """True where the replies to the first commands, of which HELLO is the last, come from a node of a cluster.

        Raises redis-py's errors: for a replica, and for a user who may not send these commands.
        """
        *loaded, hello = replies
        if refusal := next((reply for reply in loaded if isinstance(reply, ReplyError)), None):
            raise refusal
        server = hello_fields(hello)
        is_cluster = server.get("mode") == "cluster"
        # A replica would answer readers, and refuse the next writer. In a cluster the masters are looked up.
        if server.get("role") in ("replica", "slave") and not is_cluster:
            raise IsReplica("point the address at its master")
        self._known.last, self._failures, self._demotions = self._node, 0, self._known.demotions
        return is_cluster

    def learn(self, replies: Sequence[Any], asked: Node) -> SlotMap:
        """Stores the slot map in the replies of `asked` to ASK_CLUSTER. Raises ReplyError."""
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        self.slots = SlotMap(replies[0], asked)
        self._known.nodes = sorted(self.slots.nodes)
        return self.slots

    def named(self, commands: Sequence[Command]) -> Sequence[Command]:
        """The commands with the keys of this URL's council."""
        return named(commands, self.address.prefix)

    def nodes_of(self, keys: Sequence[str]) -> list[Node | None]:
        if not self.slots:
            return [None] * len(keys)
        return [self.slots.find(named_key(key, self.address.prefix)) for key in keys]

    def away(self, error: BaseException) -> RedisAway:
        """The error for the caller, with its cause in words."""
        if is_of_a_replica(error):
            does = "is a replica, which takes no writes"
        elif is_loading(error):
            does = "loads its data"
        else:
            does = "refuses the connection" if is_refused_connection(error) else "does not answer"
        return RedisAway(f"Redis at {without_password(self.address.url)} {does}: {in_words(without_arguments(error))}")

    def check(self, commands: Sequence[Command], replies: Sequence[Any]) -> bool:
        """False where Redis has lost the scripts, so that the connection is to be opened anew. Raises the ReplyError of
        a server that can serve no command."""
        has_scripts = True
        for index, reply in enumerate(replies):
            if isinstance(reply, ReplyError):
                has_scripts = self._check_error(reply) and has_scripts
            elif type(reply) is list and commands[index][0] == "EXEC":
                for error in errors_in(reply):
                    has_scripts = self._check_error(error) and has_scripts
        return has_scripts

    def _check_error(self, error: ReplyError) -> bool:
        if serves_nothing(error):
            # In a cluster the other pipes are redirected. Elsewhere the first pipe that notices is enough.
            if is_of_a_replica(error) and self.slots is None and not self.has_moved:
                self._known.demotions += 1
            raise error
        return not has_lost_script(error)
