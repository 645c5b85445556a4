"""Connections to Redis: one round trip for any number of commands.

    Pipe.run([("XADD", ...), ("TIME",)])  -->  [reply, reply]          (sync: the aggregator's loop)
    AsyncPipe.run([...])                  -->  [reply, reply]          (asyncio: producers and consumers)

redis-py's own connection does the work (its parser, TLS, ACL and URL forms); its client layer is left out, because it
costs four to five times a packed write and because its automatic retries write twice and lose reads. Nothing that may
have been executed is ever sent again here: a lost reply raises RedisAway, and the caller, who alone knows, decides. An
error that Redis answers is returned in its place as a ReplyError, so that it hides no other's reply. Every new
connection loads the scripts, so that EVALSHA finds them after a restart of Redis.

A server that belongs to a cluster is noticed at once: then each node has a connection, and a run is one round trip to
all nodes that it concerns (cluster.py). Behind Sentinels the master is looked up for each new connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from redis.exceptions import ClusterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from schemas.errors import RedisAway, RedisRefuses
from transport.redis.address import REPLY_TIMEOUT_S, Address, Node
from transport.redis.address import without_password as without_password
from transport.redis.cluster import MOST_ROUNDS, TRY_AGAIN_S, Dispatch, SlotMap
from transport.redis.cluster import Command as Command
from transport.redis.link import LOAD_SCRIPTS, AsyncLink, Link
from transport.redis.link import ReplyError as ReplyError
from transport.redis.link import pack as pack
from transport.redis.sentinel import find_master, find_master_async

# The errors of a server that became a replica: to a writer, and to a blocked reader. Redis 6.2 puts READONLY into the
# middle of an error of its own where a script wrote; where it comes first, redis-py makes it a type and removes it.
_NO_MASTER = ("READONLY", "UNBLOCKED")
_ASK_CLUSTER: tuple[Command, ...] = (("CLUSTER", "SLOTS"), ("CLUSTER", "MYID"))


class Endpoints:
    """Where a pipe may connect, and what it learnt there; the same for both kinds of pipe."""

    # A cluster's nodes, by its URL: a pipe that is made when the URL's own server is gone finds the others as well.
    _nodes: ClassVar[dict[str, list[Node]]] = {}

    def __init__(self, url: str) -> None:
        self.address = Address(url)
        self._turn = 0
        self.slots: SlotMap | None = None

    def next(self) -> Node | None:
        """The one to try now: the one that worked last, unless it has failed since."""
        doors: list[Node | None] = [None, *self.address.others, *self._nodes.get(self.address.url, ())]
        self._turn += 1
        return doors[(self._turn - 1) % len(doors)]

    def greeting(self) -> list[Command]:
        """What a new connection is told and asked."""
        return [*LOAD_SCRIPTS, ("INFO", "cluster"), ("INFO", "replication")]

    def is_cluster(self, replies: Sequence[Any]) -> bool:
        """By the answers to the greeting. Raises redis-py's errors: for a replica, and for who may not ask."""
        about = replies[len(LOAD_SCRIPTS) :]
        if refusal := next((reply for reply in about if isinstance(reply, ReplyError)), None):
            raise refusal
        cluster, replication = map(info_fields, about)
        is_cluster = cluster.get("cluster_enabled") == "1"
        # A replica would answer readers, and refuse the next writer. In a cluster the masters are looked up.
        if replication.get("role") == "slave" and not is_cluster:
            raise RedisConnectionError("this server is a replica, and takes no writes")
        self._turn -= 1
        return is_cluster

    def learn(self, replies: Sequence[Any], told_by: Node) -> SlotMap:
        """Takes in the answer to _ASK_CLUSTER. Raises ReplyError."""
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        self.slots = SlotMap(replies[0], told_by)
        self._nodes[self.address.url] = sorted(self.slots.nodes)
        return self.slots

    def nodes_of(self, keys: Sequence[str]) -> list[Node | None]:
        return [self.slots.find(key) for key in keys] if self.slots else [None] * len(keys)

    def away(self, error: Exception) -> RedisAway:
        return RedisAway(f"Redis at {without_password(self.address.url)} does not answer: {error}")

    def check(self, replies: Sequence[Any]) -> bool:
        """False where Redis forgot our scripts (SCRIPT FLUSH): a new connection brings them again. Raises the reply
        that says that this server cannot serve us at all: it became a replica, or its cluster is down."""
        knows_scripts = True
        for reply in replies:
            if isinstance(reply, ReplyError):
                knows_scripts = knows_scripts and not isinstance(reply, NoScriptError)
                if isinstance(reply, ClusterDownError | ReadOnlyError) or any(
                    word in str(reply) for word in _NO_MASTER
                ):
                    raise reply
        return knows_scripts


class Pipe:
    """A connection for one thread. Connects when it is first used, and again after it broke."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._endpoints = Endpoints(url)
        self._home = Link(self._endpoints.address.connection())
        self._links: dict[Node, Link] = {}

    def run(self, commands: Sequence[Command], *, follows: bool = True) -> list[Any]:
        """One reply for each command, in order; an error of Redis is returned as a ReplyError. Raises RedisAway.

        Without `follows`, what another node of a cluster serves now is answered by an error, is_moved.
        """
        try:
            if not self._home.is_open:
                self._open()
            replies = (
                self._home.exchange(commands) if self._endpoints.slots is None else self._spread(commands, follows)
            )
            knows_scripts = self._endpoints.check(replies)
        except (RedisError, OSError) as error:
            self.close()
            raise self._endpoints.away(error) from error
        if not knows_scripts:
            self.close()
        return replies

    def nodes_of(self, keys: Sequence[str]) -> list[Node | None]:
        """The nodes of a cluster that serve the keys; None where there is no cluster, or nobody that serves it."""
        return self._endpoints.nodes_of(keys)

    def _open(self) -> None:
        address = self._endpoints.address
        node = find_master(address) if address.sentinels else self._endpoints.next()
        self._home = Link(address.connection(node))
        if self._endpoints.is_cluster(self._home.open(self._endpoints.greeting())):
            told = self._home.exchange(_ASK_CLUSTER)
            if own := self._endpoints.learn(told, self._home.node).node_of_id.get(told[1]):
                self._links[own] = self._home

    def _spread(self, commands: Sequence[Command], follows: bool) -> list[Any]:
        """A round trip to all nodes at once, and more of them only for what has moved."""
        dispatch = Dispatch(commands, follows)
        for _ in range(MOST_ROUNDS):
            assert self._endpoints.slots
            parcels = [(self._link(node), part) for node, part in dispatch.parcels(self._endpoints.slots).items()]
            for link, part in parcels:
                link.send(map(dispatch.command, part))
            for link, part in parcels:
                dispatch.take(part, link.receive(len(part)))
            dispatch.end_round()
            if dispatch.moves:
                self._learn(dispatch.moves)
            if not dispatch.has_left:
                break
            if dispatch.waits:
                time.sleep(TRY_AGAIN_S)
        return dispatch.replies

    def _learn(self, moves: dict[int, Node]) -> None:
        """Asks a node that has something new where everything is now."""
        node = next(iter(moves.values()))
        slots = self._endpoints.learn(self._link(node).exchange(_ASK_CLUSTER), node)
        slots.add(moves)
        for gone in self._links.keys() - slots.nodes:
            self._links.pop(gone).close()

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(self._endpoints.address.connection(node))
            link.open(LOAD_SCRIPTS)
        return link

    def close(self) -> None:
        links, self._links, self._endpoints.slots = [self._home, *self._links.values()], {}, None
        for link in links:
            link.close()


class AsyncPipe:
    """A connection for one event loop. Calls queue up: one round trip is under way at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._endpoints = Endpoints(url)
        self._home = AsyncLink(self._endpoints.address.async_connection())
        self._links: dict[Node, AsyncLink] = {}
        self._turn = asyncio.Lock()
        # How often it has connected: a caller whose commands never failed learns by it of a break that another met.
        self.connections = 0

    async def run(self, commands: Sequence[Command], *, block_s: float = 0.0) -> list[Any]:
        """As Pipe.run; `block_s` is how long a BLOCK among the commands may hold the replies back. Raises RedisAway."""
        async with self._turn:
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S + block_s):
                    if not self._home.is_open:
                        await self._open()
                    exchange = self._home.exchange if self._endpoints.slots is None else self._spread
                    replies = await exchange(commands)
                knows_scripts = self._endpoints.check(replies)
            except (RedisError, OSError, TimeoutError) as error:
                await self.close()
                raise self._endpoints.away(error) from error
            except asyncio.CancelledError:
                # Replies of the abandoned commands must not be taken for those of the next ones.
                await self.close()
                raise
            if not knows_scripts:
                await self.close()
            return replies

    def node_of(self, key: str) -> Node | None:
        """As Pipe.nodes_of."""
        return self._endpoints.nodes_of([key])[0]

    async def one(self, *command: str | bytes | int | float) -> Any:
        """The reply of a single command. Raises RedisAway, and RedisRefuses for an error that Redis answers."""
        (reply,) = await self.run([command])
        return accepted(reply)

    async def _open(self) -> None:
        address = self._endpoints.address
        node = await find_master_async(address) if address.sentinels else self._endpoints.next()
        self._home = AsyncLink(address.async_connection(node))
        self.connections += 1
        if self._endpoints.is_cluster(await self._home.open(self._endpoints.greeting())):
            told = await self._home.exchange(_ASK_CLUSTER)
            if own := self._endpoints.learn(told, self._home.node).node_of_id.get(told[1]):
                self._links[own] = self._home

    async def _spread(self, commands: Sequence[Command]) -> list[Any]:
        """As Pipe's."""
        dispatch = Dispatch(commands)
        for _ in range(MOST_ROUNDS):
            assert self._endpoints.slots
            parcels = [(await self._link(node), part) for node, part in dispatch.parcels(self._endpoints.slots).items()]
            for link, part in parcels:
                await link.send(map(dispatch.command, part))
            for link, part in parcels:
                dispatch.take(part, await link.receive(len(part)))
            dispatch.end_round()
            if dispatch.moves:
                await self._learn(dispatch.moves)
            if not dispatch.has_left:
                break
            if dispatch.waits:
                await asyncio.sleep(TRY_AGAIN_S)
        return dispatch.replies

    async def _learn(self, moves: dict[int, Node]) -> None:
        """As Pipe's."""
        node = next(iter(moves.values()))
        slots = self._endpoints.learn(await (await self._link(node)).exchange(_ASK_CLUSTER), node)
        slots.add(moves)
        for gone in self._links.keys() - slots.nodes:
            await self._links.pop(gone).close()

    async def _link(self, node: Node) -> AsyncLink:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = AsyncLink(self._endpoints.address.async_connection(node))
            await link.open(LOAD_SCRIPTS)
        return link

    async def close(self) -> None:
        links, self._links, self._endpoints.slots = [self._home, *self._links.values()], {}, None
        for link in links:
            await link.close()


def is_out_of_memory(reply: Any) -> bool:
    """True where Redis refused to take more. Redis 6.2 says so of a script in a sentence of its own."""
    return isinstance(reply, OutOfMemoryError) or (isinstance(reply, ReplyError) and "OOM" in str(reply))


def accepted(reply: Any) -> Any:
    """The reply. Raises RedisRefuses where it is an error."""
    if isinstance(reply, ReplyError):
        raise RedisRefuses(f"Redis refuses: {reply}")
    return reply


def atomically(*commands: Command) -> list[Command]:
    """The commands as one transaction: nobody sees a moment in between. The last reply is the list of theirs."""
    return [("MULTI",), *commands, ("EXEC",)]


def info_fields(info: bytes) -> dict[str, str]:
    """The answer of INFO as a dictionary."""
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, separator, value in pairs if separator}


def redis_ns(time_reply: Any) -> int:
    """The nanoseconds of a TIME reply."""
    return int(time_reply[0]) * 1_000_000_000 + int(time_reply[1]) * 1_000
