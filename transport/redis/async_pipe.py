"""The connections of asyncio roles: one for any number of callers, and one that may wait for new entries.

A blocking read holds its connection until an entry comes or the block ends; an idle Redis 6.2 ends BLOCK 1 after
100 ms. So AsyncPipe, which callers share, has no way to send one. BlockingPipe has: it belongs to one task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from transport.redis.address import REPLY_TIMEOUT_S, Node
from transport.redis.cluster import MOST_ROUNDS, TRY_AGAIN_S, Command, Dispatch, with_block
from transport.redis.endpoints import ASK_CLUSTER, HELLO, Endpoints
from transport.redis.link import LOAD_SCRIPTS, AsyncLink, pack
from transport.redis.replies import accepted
from transport.redis.sentinel import find_master_async

# The most commands of several callers in one write. More save nothing: a call costs 15 us of CPU alone, 7 with seven
# others, 3.5 with 63 and with 199 others. And Redis keeps the replies to all of them, some of which are pages of 0.5
# MB.
_MOST_TOGETHER = 64


class _Call:
    """The commands of one caller and the replies that have come, all of which are in `done` at the end."""

    __slots__ = ("commands", "done", "due_s", "packed", "replies")

    def __init__(self, commands: Sequence[Command], due_s: float, done: asyncio.Future[list[Any]]) -> None:
        # Packed here, so that a command that cannot be packed is an error of its caller alone.
        self.commands, self.packed = commands, pack(commands)
        self.due_s, self.done = due_s, done
        self.replies: list[Any] = []


class AsyncPipe:
    """A connection for one event loop and any number of callers. Connects as Pipe does.

    One round trip is under way at a time. The commands of the callers that wait meanwhile go out together in the next
    write. A caller that is cancelled changes nothing for the others.
    """

    # What is loaded on each new connection.
    _scripts: Sequence[Command] = LOAD_SCRIPTS

    def __init__(self, url: str) -> None:
        self.url = url
        self._endpoints = Endpoints(url)
        self._home = AsyncLink(self._endpoints.address.async_connection())
        self._links: dict[Node, AsyncLink] = {}
        self._waiting, self._batch = deque[_Call](), list[_Call]()
        # Round trips are made by the first caller, or by a task.
        self._has_first = False
        self._serving: asyncio.Task[None] | None = None
        # Rises with each connection, before its first command is sent. A caller whose own commands never failed notices
        # by it a break that another caller met, or that no caller met while the connection was idle.
        self.connections = 0

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """As Pipe.run; it follows the moves of a cluster. Raises RedisAway within REPLY_TIMEOUT_S of the call."""
        loop = asyncio.get_running_loop()
        call = _Call(self._endpoints.named(commands), loop.time() + REPLY_TIMEOUT_S, loop.create_future())
        self._waiting.append(call)
        if not self._has_first and (self._serving is None or self._serving.done()):
            if self._endpoints.slots is None and self._home.is_fresh and not self._endpoints.has_moved:
                await self._serve_first()
            else:
                self._serving = loop.create_task(self._serve())
        return await call.done

    async def one(self, *command: str | bytes | int | float) -> Any:
        """The reply of a single command. Raises RedisAway, and RedisRefuses for an error that Redis replies."""
        (reply,) = await self.run([command])
        return accepted(reply)

    def node_of(self, key: str) -> Node | None:
        """As Pipe.nodes_of."""
        return self._endpoints.nodes_of([key])[0]

    async def _serve_first(self) -> None:
        """Makes a round trip in the task of its only caller, because a task for it costs a fifth more CPU."""
        self._has_first = self._take_batch()
        try:
            await self._round_trip(is_usable=True)
            self._batch = []
        except asyncio.CancelledError:
            # Its replies may be on the way: a task reads them for no caller, and the connection stays usable.
            for call in self._batch:
                call.done.cancel()
            raise
        finally:
            self._has_first = False
            if self._batch or self._waiting:
                self._serving = asyncio.create_task(self._serve(is_sent=bool(self._batch)))

    async def _serve(self, *, is_sent: bool = False) -> None:
        """Makes round trips as long as callers wait; begins with the replies to a batch that `is_sent`."""
        while is_sent or self._take_batch():
            await self._round_trip(is_sent=is_sent)
            is_sent = False

    def _take_batch(self) -> bool:
        """The next calls, less those whose callers were cancelled. False where there are none."""
        self._batch, count = [], 0
        while self._waiting:
            count += len(self._waiting[0].commands)
            if self._batch and count > _MOST_TOGETHER:
                break
            call = self._waiting.popleft()
            if not call.done.done():
                self._batch.append(call)
        return bool(self._batch)

    async def _round_trip(self, *, is_sent: bool = False, is_usable: bool = False) -> None:
        """Ends every call of the batch, with its replies or an error. `is_usable`: the connection was checked.

        The calls are in the order of their deadlines. So a round trip that ends at the deadline of its first call lets
        no caller wait longer than its own deadline, neither in this batch nor behind it.
        """
        try:
            async with asyncio.timeout_at(self._batch[0].due_s):
                if not is_sent:
                    if not is_usable:
                        await self._make_usable()
                    if self._endpoints.slots is not None:
                        await self._exchange_in_cluster()
                        return
                    await self._home.send(b"".join([call.packed for call in self._batch]))
                has_scripts = True
                for call in self._batch:
                    await self._home.receive(len(call.commands), call.replies)
                    has_scripts &= self._finish(call)
            if not has_scripts:
                await self._disconnect()
        except Exception as error:  # noqa: BLE001  # the callers get it, a bug of ours as well
            await self._fail(error)

    async def _exchange_in_cluster(self) -> None:
        replies = iter(await self._spread([command for call in self._batch for command in call.commands]))
        for call in self._batch:
            call.replies = list(islice(replies, len(call.commands)))
            self._finish(call)

    def _finish(self, call: _Call) -> bool:
        """False where Redis has lost the scripts. Raises the ReplyError of a server that can serve no command."""
        has_scripts = self._endpoints.check(call.commands, call.replies)
        if not call.done.done():
            call.done.set_result(call.replies)
        return has_scripts

    async def _fail(self, error: Exception) -> None:
        """Disconnects, and ends the calls of the batch with the error."""
        await self._disconnect()
        for call in self._batch:
            if not call.done.done():
                failure = self._endpoints.away(error) if isinstance(error, RedisError | OSError) else error
                failure.__cause__ = error
                call.done.set_exception(failure)
        self._batch = []

    async def _make_usable(self) -> None:
        """Connects, unless it is connected to a server that has not closed the connection meanwhile."""
        if not self._endpoints.has_moved and (self._home.is_fresh or await self._home.is_usable()):
            return
        if self._home.is_open:
            await self._replace(self._home)
        await self._disconnect()
        await self._open()

    async def _replace(self, link: AsyncLink) -> None:
        """Called before an open connection, which the server has closed or left, is made anew."""
        await link.close()

    async def _open(self) -> None:
        address = self._endpoints.address
        node = await find_master_async(address) if address.sentinels else self._endpoints.next()
        self._home = AsyncLink(address.async_connection(node))
        if self._endpoints.is_cluster(await self._home.open((*self._scripts, HELLO))):
            found = await self._home.exchange(ASK_CLUSTER)
            if own := self._endpoints.learn(found, self._home.node).node_of_id.get(found[1]):
                self._links[own] = self._home
        # After the greeting: each caller that was served before the break has gone on by now, and has seen the number
        # of its own connection.
        self.connections += 1

    async def _spread(self, commands: Sequence[Command]) -> list[Any]:
        """As Pipe's."""
        dispatch = Dispatch(commands)
        for _ in range(MOST_ROUNDS):
            assert self._endpoints.slots
            parcels = [(await self._link(node), part) for node, part in dispatch.parcels(self._endpoints.slots).items()]
            for link, part in parcels:
                await link.send(pack(map(dispatch.command, part)))
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
        slots = self._endpoints.learn(await (await self._link(node)).exchange(ASK_CLUSTER), node)
        slots.add(moves)
        for gone in self._links.keys() - slots.nodes:
            await self._links.pop(gone).close()

    async def _link(self, node: Node) -> AsyncLink:
        link = self._links.get(node)
        if link is not None and not (link.is_fresh or await link.is_usable()):
            await self._replace(link)
            link = None
            self.connections += 1
        if link is None:
            link = self._links[node] = AsyncLink(self._endpoints.address.async_connection(node))
            await link.open(self._scripts)
        return link

    async def _disconnect(self) -> None:
        links, self._links, self._endpoints.slots = [self._home, *self._links.values()], {}, None
        for link in links:
            await link.close()

    async def close(self) -> None:
        """Ends the calls that are under way or wait, with RedisAway."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        self._batch += self._waiting
        self._waiting.clear()
        await self._fail(ConnectionError("the connection was closed"))


class BlockingPipe(AsyncPipe):
    """A connection of one task alone, which may wait on it for new entries. A call while another one is under way is a
    bug, and raises RuntimeError. As AsyncPipe otherwise, but a connection that the server has closed raises RedisAway:
    the task goes on from what it has read, of which Redis may have lost the end."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._is_busy = False

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        return await self._run_alone(commands, REPLY_TIMEOUT_S)

    async def wait(self, command: Command, block_ms: int) -> Any:
        """The reply to an XREAD or XREADGROUP that waits up to block_ms for the first entry. Raises RedisAway."""
        (reply,) = await self.wait_and_run(command, block_ms)
        return reply

    async def wait_and_run(self, command: Command, block_ms: int, *also: Command) -> list[Any]:
        """As wait, with other commands that are executed after it, in the same round trip. The replies to all."""
        return await self._run_alone([with_block(command, block_ms), *also], REPLY_TIMEOUT_S + block_ms / 1000)

    async def _run_alone(self, commands: Sequence[Command], within_s: float) -> list[Any]:
        if self._is_busy:
            raise RuntimeError("a BlockingPipe belongs to one task: another one needs a pipe of its own")
        self._is_busy, has_scripts = True, False
        commands = self._endpoints.named(commands)
        try:
            async with asyncio.timeout(within_s):
                await self._make_usable()
                exchange = self._home.exchange if self._endpoints.slots is None else self._spread
                replies = await exchange(commands)
            has_scripts = self._endpoints.check(commands, replies)
            return replies
        except (RedisError, OSError) as error:
            raise self._endpoints.away(error) from error
        finally:
            # Also where the task was cancelled: the replies to its commands are not those to the next ones.
            if not has_scripts:
                await self._disconnect()
            self._is_busy = False

    async def _replace(self, link: AsyncLink) -> None:
        raise RedisConnectionError("the server has closed the connection, or has become a replica")

    async def close(self) -> None:
        await self._disconnect()


class ReadingPipe(BlockingPipe):
    """As BlockingPipe, for a task that only reads: it runs no script, and loads none when it connects. That saves a
    client that waits for its first token a millisecond."""

    _scripts = ()
