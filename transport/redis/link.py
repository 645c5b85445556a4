"""A connection to one server: it writes any number of commands in one piece, and reads their replies."""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis
import redis.asyncio.connection as redis_asyncio
import redis.connection as redis_sync
from redis.exceptions import RedisError

from schemas.errors import Refused
from transport.redis.address import Node
from transport.redis.cluster import Command
from transport.redis.refusals import without_arguments
from transport.redis.replies import ReplyError
from transport.redis.scripts import SCRIPTS

# After this rest a thread asks the kernel whether the server has closed the connection; the aggregator uses its own
# sixty times a second. asyncio's connections are asked each time, which costs a fortieth of a round trip.
_CHECKED_AFTER_S = 0.05
# Turns in which an event loop has read what has arrived.
_TURNS_TO_READ = 2
# After this rest the server is asked for a reply: a router between may have forgotten the connection, and reports
# nothing until it is used.
_ASKED_AFTER_S = 10.0
# A server that replies to nothing for so long is connected to anew, which leaves time for the caller's own commands.
_ASKED_FOR_S = 1.0
_ASK: tuple[Command, ...] = (("TIME",),)
LOAD_SCRIPTS: tuple[Command, ...] = tuple(("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values())


def pack(commands: Iterable[Command]) -> bytes:
    """The commands in Redis's protocol, in one piece. Raises TypeError for an argument that is not text or a number,
    Refused for half of a surrogate pair in a text, such as the id of a session that a user wrote."""
    try:
        return b"".join(hiredis.pack_command(command) for command in commands)  # type: ignore[arg-type]  # wrong stub
    except UnicodeEncodeError as error:
        sentence = f"The name {error.object!r} contains characters that are not valid Unicode: correct it."
        raise Refused("bad_text", sentence) from None


class Link:
    """A connection for one thread. Methods that send or receive raise redis-py's errors, or OSError."""

    def __init__(self, connection: redis_sync.AbstractConnection) -> None:
        # redis-py leaves some of it untyped.
        self._connection: Any = connection
        self._used_s = 0.0

    @property
    def is_open(self) -> bool:
        """True until close(), or until a command or its reply could not be transferred."""
        return bool(self._connection.is_connected)

    @property
    def is_usable(self) -> bool:
        """False where the server has closed the connection since it was used. What is sent on it would be lost, and the
        caller could not know that."""
        if time.monotonic() - self._used_s < _CHECKED_AFTER_S:
            return bool(self._connection.is_connected)
        try:
            # No reply is expected: what can be read is the end.
            return self.is_open and not self._connection.can_read(0)
        except (RedisError, OSError):
            return False

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
        self._used_s = time.monotonic()
        return replies

    def close(self) -> None:
        self._connection.disconnect()


class AsyncLink:
    """As Link, for one event loop. It has no time-out for reads: the caller has, because some reads block."""

    def __init__(self, connection: redis_asyncio.AbstractConnection) -> None:
        self._connection: Any = connection
        self._used_s = 0.0
        # Of the transport, and of its socket.
        self._is_closing: Callable[[], bool] = lambda: True
        self._can_read: Callable[[int], object] = bool

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    @property
    def is_fresh(self) -> bool:
        """True where the next commands can be sent as they are. Otherwise is_usable decides."""
        # No reply is expected: what can be read is the end.
        return not (self._is_closing() or self._can_read(0) or time.monotonic() - self._used_s > _ASKED_AFTER_S)

    async def is_usable(self) -> bool:
        """Of one that is not fresh, as Link's. After a long rest it asks the server."""
        for _ in range(_TURNS_TO_READ):
            await asyncio.sleep(0)
        if self._is_at_end or time.monotonic() - self._used_s <= _ASKED_AFTER_S:
            return not self._is_at_end
        try:
            async with asyncio.timeout(_ASKED_FOR_S):
                await self.exchange(_ASK)
        except (RedisError, OSError):
            return False
        return True

    @property
    def _is_at_end(self) -> bool:
        """True where it is not open, or where the event loop has read its end or a reset."""
        reader: asyncio.StreamReader | None = self._connection._reader
        return reader is None or reader.at_eof() or reader.exception() is not None

    @property
    def node(self) -> Node:
        return _node_of(self._connection)

    async def open(self, greeting: Sequence[Command]) -> list[Any]:
        await self._connection.connect()
        writer: asyncio.StreamWriter = self._connection._writer
        poll = select.poll()
        poll.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
        self._is_closing, self._can_read = writer.transport.is_closing, poll.poll
        return await self.exchange(greeting)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        await self.send(pack(commands))
        return await self.receive(len(commands))

    async def send(self, packed: bytes) -> None:
        self._used_s = time.monotonic()
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
