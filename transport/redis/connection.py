"""Connections to Redis: one round trip for any number of commands.

    Pipe.run([("XADD", ...), ("TIME",)])  -->  [reply, reply]     (sync: the aggregator's loop)
    AsyncPipe.run([...])                  -->  [reply, reply]     (asyncio: shared by any number of callers)
    BlockingPipe.wait(command, 1_000)     -->  reply              (asyncio: one task, which waits for new entries)
    ReadingPipe                                                   (the same, for a task that runs no script)

redis-py's own connection does the work (its parser, TLS, ACL and URL forms). Its client layer is left out, because it
costs four to five times a packed write and because its automatic retries write twice and lose reads. Nothing that may
have been executed is ever sent again here: a lost reply raises RedisAway, and the caller, which alone has the facts,
decides. A connection that the server has closed while it was idle is replaced before anything is sent on it; where its
end comes later, the run raises RedisAway, for reads as well. An error that Redis replies is returned in its place as a
ReplyError, so that it hides no other reply. Every new connection loads the scripts, so that EVALSHA finds them after a
restart of Redis.

A server that belongs to a cluster is noticed at once: then each node has a connection, and a run is one round trip to
all nodes that it concerns (cluster.py). Behind Sentinels the master is looked up for each new connection.

A blocking read holds its connection until an entry comes or the block ends, on an idle Redis 6.2 for 100 ms even with
BLOCK 1. So only the wait methods send BLOCK: Pipe's, which has one thread, and BlockingPipe's, which has one task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from transport.redis.address import Node
from transport.redis.address import without_password as without_password
from transport.redis.async_pipe import AsyncPipe as AsyncPipe
from transport.redis.async_pipe import BlockingPipe as BlockingPipe
from transport.redis.async_pipe import ReadingPipe as ReadingPipe
from transport.redis.cluster import MOST_ROUNDS, TRY_AGAIN_S, Dispatch, with_block
from transport.redis.cluster import Command as Command
from transport.redis.cluster import atomically as atomically
from transport.redis.endpoints import ASK_CLUSTER, GREETING, Endpoints
from transport.redis.link import LOAD_SCRIPTS, Link
from transport.redis.link import pack as pack
from transport.redis.replies import ReplyError as ReplyError
from transport.redis.replies import accepted as accepted
from transport.redis.replies import info_fields as info_fields
from transport.redis.replies import is_out_of_memory as is_out_of_memory
from transport.redis.replies import redis_ns as redis_ns
from transport.redis.sentinel import find_master


class Pipe:
    """A connection for one thread. Connects when it is first used, and again after it broke."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._endpoints = Endpoints(url)
        self._home = Link(self._endpoints.address.connection())
        self._links: dict[Node, Link] = {}
        # Rises with each connection. A caller that writes what it computed from earlier replies compares it.
        self.connections = 0

    def run(self, commands: Sequence[Command], *, follows: bool = True) -> list[Any]:
        """One reply for each command, in order; an error that Redis replies is a ReplyError. Raises RedisAway.

        Without `follows`, a key that another node of a cluster serves now is answered by an error, is_moved, and a
        connection that the server has closed raises RedisAway.
        """
        commands = self._endpoints.named(commands)
        try:
            is_usable = self._home.is_usable and not self._endpoints.has_moved if follows else self._home.is_open
            if not is_usable:
                self.close()
                self._open()
            replies = (
                self._home.exchange(commands) if self._endpoints.slots is None else self._spread(commands, follows)
            )
            has_scripts = self._endpoints.check(commands, replies)
        except (RedisError, OSError) as error:
            self.close()
            raise self._endpoints.away(error) from error
        if not has_scripts:
            self.close()
        return replies

    def wait(self, command: Command, block_ms: int, *also: Command) -> list[Any]:
        """As run, for an XREAD or XREADGROUP that waits up to block_ms for the first entry, and other commands that are
        executed after it."""
        return self.run([with_block(command, block_ms), *also])

    def nodes_of(self, keys: Sequence[str]) -> list[Node | None]:
        """The nodes of a cluster that serve the keys; None without a cluster, or where no node is known to."""
        return self._endpoints.nodes_of(keys)

    def _open(self) -> None:
        address = self._endpoints.address
        node = find_master(address) if address.sentinels else self._endpoints.next()
        self._home = Link(address.connection(node))
        if self._endpoints.is_cluster(self._home.open(GREETING)):
            found = self._home.exchange(ASK_CLUSTER)
            if own := self._endpoints.learn(found, self._home.node).node_of_id.get(found[1]):
                self._links[own] = self._home
        self.connections += 1

    def _spread(self, commands: Sequence[Command], follows: bool) -> list[Any]:
        """One round trip to all nodes at once, and further ones only for keys that have moved."""
        dispatch = Dispatch(commands, follows)
        for _ in range(MOST_ROUNDS):
            assert self._endpoints.slots
            found = dispatch.parcels(self._endpoints.slots)
            parcels = [(self._link(node, follows), part) for node, part in found.items()]
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
        """Asks a node that has received a slot where every slot is now."""
        node = next(iter(moves.values()))
        slots = self._endpoints.learn(self._link(node).exchange(ASK_CLUSTER), node)
        slots.add(moves)
        for gone in self._links.keys() - slots.nodes:
            self._links.pop(gone).close()

    def _link(self, node: Node, follows: bool = True) -> Link:
        link = self._links.get(node)
        if link is not None and follows and not link.is_usable:
            link.close()
            link = None
            self.connections += 1
        if link is None:
            link = self._links[node] = Link(self._endpoints.address.connection(node))
            link.open(LOAD_SCRIPTS)
        return link

    def close(self) -> None:
        links, self._links, self._endpoints.slots = [self._home, *self._links.values()], {}, None
        for link in links:
            link.close()
