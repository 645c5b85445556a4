"""The leases of a process, which shares the sessions with the other processes of its group.

new sessions --take_new--> serve(lease)          once a second: renewed; lost to another --> give_up(lease)
left by another --keep_up--> serve(lease)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.errors import OtherVersion, RedisAway, RedisRefuses
from transport.leases import BLOCK_MS, LOOK_S, REFRESH_S, Lease, Leases, group_refusal, is_missing_group
from transport.redis.connection import AsyncPipe, BlockingPipe, ReplyError
from transport.register import ProcessRegistration

_RETRY_S = 0.25
# A Redis that runs replies at once.
_HAND_OVER_S = 2.0
# In one round trip: other processes of the group have room too.
_MOST_TAKEN_OVER, _MOST_NEW = 4, 8


class LeasedSessions:
    """Renews and takes the leases of one consumer of one group, at most `most` at once, and none after stop_taking().
    `facts` is called each second, for the process record."""

    def __init__(
        self,
        url: str,
        group: str,
        registration: ProcessRegistration,
        presence: RedisPresence,
        log: Log,
        most: int,
        *,
        serve: Callable[[Lease], None],
        give_up: Callable[[Lease], None],
        count: Callable[[], int],
        facts: Callable[[], Mapping[str, str | int | float | bool]] = dict,
    ) -> None:
        self.pipe, self._waiting_pipe = AsyncPipe(url), BlockingPipe(url)
        self.leases = Leases(group, registration.name)
        self._registration, self._presence, self._log, self._most = registration, presence, log, most
        self._serve, self._give_up, self._count, self._facts = serve, give_up, count, facts
        self._takes = True

    def stop_taking(self) -> None:
        """From now on it only renews its leases. take_new() is to be cancelled."""
        self._takes = False

    @property
    def _room(self) -> int:
        """How many sessions it may take. None while Redis refuses its writes: it could not serve them."""
        return max(0, self._most - self._count()) if self._takes and self._presence.refusal is None else 0

    async def keep_up(self) -> None:
        """Once a second renews the process record and the leases, and takes over what others have left. Runs until it
        is cancelled."""
        while True:
            self._registration.detail |= {"sessions": self._count(), **self._facts()}
            try:
                refresh = self.leases.refresh(min(self._room, _MOST_TAKEN_OVER))
                reply, *renewed = await self.pipe.run([refresh, *self._registration.renew()])
                self._presence.note(renewed)
                if is_missing_group(reply):
                    await self.pipe.run(self.leases.create_group())
                elif isinstance(reply, ReplyError):
                    self._presence.lose(reply)
                lost, taken = self.leases.add_refresh(reply)
                for lease in lost:
                    self._give_up(lease)
                for lease in taken:
                    self._serve(lease)
            except RedisAway as error:
                self._presence.lose(error)
            await self._rest()

    async def _rest(self) -> None:
        """A second, or less where another process of the group has left a session: a member without an entry of its
        producer for five seconds is dropped."""
        if not self.leases.has_others or not self._room:
            await asyncio.sleep(REFRESH_S)
            return
        until = time.monotonic() + REFRESH_S
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            try:
                (left,) = await self.pipe.run([self.leases.look_for_left()])
            except RedisAway as error:
                self._presence.lose(error)
                await asyncio.sleep(until - time.monotonic())
                return
            if self.leases.has_left(left):
                return

    async def take_new(self) -> None:
        """Until it is cancelled: takes sessions that no process of the group has served yet, while there is room."""
        while True:
            if not self._room:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                reply = await self._waiting_pipe.wait(self.leases.read_new(min(self._room, _MOST_NEW)), BLOCK_MS)
                refusal = reply if isinstance(reply, ReplyError) else None
                if is_missing_group(reply):
                    refusal = group_refusal(await self._waiting_pipe.run(self.leases.create_group()))
                if refusal is not None:
                    self._presence.lose(refusal)
                    await asyncio.sleep(_RETRY_S)
                new = self.leases.add_new(reply)
                if self._presence.refusal is not None:
                    # It was noticed while this read waited.
                    await self.hand_over(new)
                    continue
                for lease in new:
                    self._serve(lease)
            except RedisAway as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)

    async def acknowledge(self, lease: Lease) -> None:
        """Ends the lease: the session needs no process of this group any more. Does nothing where another process has
        it. Raises RedisAway."""
        if lease.entry_id in self.leases.held:
            await self.pipe.run([self.leases.acknowledge(lease)])

    async def leave(self, lease: Lease, error: OtherVersion) -> None:
        """Gives a session of another version of the council free for the other processes of the group."""
        if not self.leases.was_left(lease):
            self._log.warning("a session is left to other processes", session=lease.session, error=str(error))
        with contextlib.suppress(RedisAway):
            await self.pipe.run([self.leases.leave(lease)])

    async def hand_over(self, leases: Sequence[Lease]) -> None:
        """Gives the leases free for the next process that looks. Raises RedisAway."""
        if not leases:
            return
        await self.pipe.run([self.leases.hand_over(leases)])

    async def leave_group(self) -> None:
        """Gives all leases free, and deletes the process record. Raises RedisAway."""
        await self.pipe.run([self.leases.hand_over(), *self._registration.leave()])

    async def close(self) -> None:
        await self.pipe.close()
        await self._waiting_pipe.close()


class LeasedTasks:
    """Runs a task for each leased session, until it ends, which ends the lease too, or until another process has the
    lease.

    `serve` is called again after it has raised RedisAway or RedisRefuses. A session on which it raises OtherVersion is
    left to other processes.
    """

    def __init__(
        self,
        url: str,
        group: str,
        registration: ProcessRegistration,
        presence: RedisPresence,
        log: Log,
        most: int,
        serve: Callable[[Lease], Coroutine[Any, Any, None]],
        facts: Callable[[], Mapping[str, str | int | float | bool]] = dict,
    ) -> None:
        self._registration, self._presence, self._serve = registration, presence, serve
        self._tasks: dict[str, tuple[Lease, asyncio.Task[None]]] = {}
        self.leased = LeasedSessions(
            url, group, registration, presence, log, most, serve=self._start, give_up=self._give_up,
            count=lambda: len(self._tasks), facts=facts,
        )  # fmt: skip

    async def run(self, stopping: asyncio.Event) -> None:
        """Serves sessions until `stopping` is set, then hands them over. Raises the exception of a bug in its own
        tasks."""
        self._registration.ready = True
        work = [asyncio.create_task(part()) for part in (self.leased.keep_up, self.leased.take_new)]
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
        tasks = [*work, stopped, *(task for _, task in self._tasks.values())]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        # While Redis is away the leases expire by themselves.
        with contextlib.suppress(RedisAway, TimeoutError):
            async with asyncio.timeout(_HAND_OVER_S):
                await self.leased.leave_group()
        await self.leased.close()
        for result in results[: len(work)]:
            if isinstance(result, Exception):
                raise result

    def _start(self, lease: Lease) -> None:
        if lease.entry_id not in self._tasks:
            self._tasks[lease.entry_id] = lease, asyncio.create_task(self._serve_to_the_end(lease))

    def _give_up(self, lease: Lease) -> None:
        if found := self._tasks.pop(lease.entry_id, None):
            found[1].cancel()

    async def _serve_to_the_end(self, lease: Lease) -> None:
        while True:
            try:
                await self._serve(lease)
                await self.leased.acknowledge(lease)
                break
            except OtherVersion as error:
                await self.leased.leave(lease, error)
                break
            except (RedisAway, RedisRefuses) as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)
        self._tasks.pop(lease.entry_id, None)
