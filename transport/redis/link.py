"""A connection to one server: it writes any number of commands in one piece, and reads their replies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import redis.asyncio.connection as redis_asyncio
import redis.connection as redis_sync
from redis.exceptions import RedisError

from transport.redis.address import Node
from transport.redis.cluster import Command
from transport.redis.refusals import without_arguments
from transport.redis.replies import ReplyError
from transport.redis.scripts import SCRIPTS

LOAD_SCRIPTS: tuple[Command, ...] = tuple(("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values())


def pack(commands: Iterable[Command]) -> bytes:
    """The commands in Redis's protocol, in one piece. Raises TypeError for an argument that is not text or a number."""
    return b"".join(hiredis.pack_command(command) for command in commands)  # type: ignore[arg-type]  # its stub is wrong


class Link:
    """A connection for one thread. Methods that send or receive raise redis-py's errors, or OSError."""

    def __init__(self, connection: redis_sync.AbstractConnection) -> None:
        # redis-py leaves some of it untyped.
        self._connection: Any = connection

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    @property
    def node(self) -> Node:
        return _node_of(self._connection)

    def open(self, greeting: Sequence[Command]) -> list[Any]:
        """Connects, and returns the replies to the first commands."""
        self._connection.connect()
        return self.exchange(greeting)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """One reply for each command; an error that the server replies is a ReplyError in its place."""
        self.send(commands)
        return self.receive(len(commands))

    def send(self, commands: Iterable[Command]) -> None:
        self._connection.send_packed_command([pack(commands)], check_health=False)

    def receive(self, count: int) -> list[Any]:
        replies, read = list[Any](), self._connection.read_response
        while len(replies) < count:
            try:
                replies.append(read(disable_decoding=True))
            except ReplyError as error:
                replies.append(without_arguments(error))
        return replies

    def close(self) -> None:
        self._connection.disconnect()


class AsyncLink:
    """As Link, for one event loop. It has no time-out for reads: the caller has, because some reads block."""

    def __init__(self, connection: redis_asyncio.AbstractConnection) -> None:
        self._connection: Any = connection

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    @property
    def node(self) -> Node:
        return _node_of(self._connection)

    async def open(self, greeting: Sequence[Command]) -> list[Any]:
        await self._connection.connect()
        return await self.exchange(greeting)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self.send(pack(commands))
        return await self.receive(len(commands))

    async def send(self, packed: bytes) -> None:
        await self._connection.send_packed_command(packed, check_health=False)

    async def receive(self, count: int, replies: list[Any] | None = None) -> list[Any]:
        """`count` replies, of which `replies` are the first ones, where an earlier call was cancelled."""
        replies, read = [] if replies is None else replies, self._connection.read_response
        while len(replies) < count:
            try:
                replies.append(await read(disable_decoding=True, timeout=None, disconnect_on_error=False))
            except ReplyError as error:
                replies.append(without_arguments(error))
        return replies

    async def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)


def _node_of(connection: Any) -> Node:
    """The server's host and port. A Unix socket has neither, and no cluster is behind it."""
    return getattr(connection, "host", ""), getattr(connection, "port", 0)
