"""How a producer process comes to its sessions: it keeps the leases it has, and takes new ones while it has room.

new sessions --take_new--> serve(lease)          once a second: renewed; lost to another --> give_up(lease)
left by another --keep_up--> serve(lease)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from runtime.presence import RedisPresence
from schemas.errors import RedisAway
from transport.leases import BLOCK_MS, LOOK_S, REFRESH_S, Lease, Leases, has_left, is_missing_group
from transport.redis.connection import AsyncPipe, BlockingPipe, ReplyError
from transport.register import ProcessRegistration

_RETRY_S = 0.25
# In one round trip: the others of the group have room as well.
_MOST_TAKEN_OVER, _MOST_NEW = 4, 8


class LeasedSessions:
    """The sessions of one consumer of one group, at most `most` at once. `facts` is called each second, for the
    process's record."""

    def __init__(
        self,
        url: str,
        group: str,
        registration: ProcessRegistration,
        presence: RedisPresence,
        most: int,
        *,
        serve: Callable[[Lease], None],
        give_up: Callable[[Lease], None],
        count: Callable[[], int],
        facts: Callable[[], Mapping[str, str | int | float | bool]] = dict,
    ) -> None:
        self.pipe, self._waiting_pipe = AsyncPipe(url), BlockingPipe(url)
        self.leases = Leases(group, registration.name)
        self._registration, self._presence, self._most = registration, presence, most
        self._serve, self._give_up, self._count, self._facts = serve, give_up, count, facts

    async def keep_up(self) -> None:
        """Until it is cancelled, once a second: the record, the leases, and what another has left."""
        while True:
            try:
                room = self._most - self._count()
                refresh = self.leases.refresh(min(room, _MOST_TAKEN_OVER))
                reply, *renewed = await self.pipe.run([refresh, *self._registration.renew()])
                self._presence.note(renewed)
                if is_missing_group(reply):
                    await self.pipe.run(self.leases.create_group())
                lost, taken = self.leases.add_refresh(reply)
                for lease in lost:
                    self._give_up(lease)
                for lease in taken:
                    self._serve(lease)
            except RedisAway as error:
                self._presence.lose(error)
            self._registration.detail |= {"sessions": self._count(), **self._facts()}
            await self._rest()

    async def _rest(self) -> None:
        """A second, or less where another process of the group has left a session: who took it is dropped when it has
        been silent for five."""
        if not self.leases.has_others:
            await asyncio.sleep(REFRESH_S)
            return
        until = time.monotonic() + REFRESH_S
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(RedisAway):
                (left,) = await self.pipe.run([self.leases.look_for_left()])
                if has_left(left):
                    return

    async def take_new(self) -> None:
        """Until it is cancelled: sessions that nobody of the group has served yet, while there is room."""
        while True:
            room = self._most - self._count()
            if room <= 0:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                reply = await self._waiting_pipe.wait(self.leases.read_new(min(room, _MOST_NEW)), BLOCK_MS)
                if is_missing_group(reply):
                    await self._waiting_pipe.run(self.leases.create_group())
                elif isinstance(reply, ReplyError):
                    await asyncio.sleep(_RETRY_S)
                for lease in self.leases.add_new(reply):
                    self._serve(lease)
            except RedisAway as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)

    async def acknowledge(self, lease: Lease) -> None:
        """The session needs no process of this group any more. Raises RedisAway."""
        await self.pipe.run([self.leases.acknowledge(lease)])

    async def hand_over(self) -> None:
        """What is held goes to the next process that looks, and the record away. Raises RedisAway."""
        await self.pipe.run([self.leases.hand_over(), *self._registration.leave()])

    async def close(self) -> None:
        await self.pipe.close()
        await self._waiting_pipe.close()
