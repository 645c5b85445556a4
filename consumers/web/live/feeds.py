"""Feeds: a session's frames, or its events, read from Redis once and made bytes once, however many clients there are.

    frames --one XREAD--> Feed[FramePacket]  --> viewers: /frames
    events --one XREAD--> Feed[EventPacket]  --> viewers: /ws, Server-Sent Events

A feed keeps the last ten seconds. It begins where its first viewer wants to, and ends with its last one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic

import msgspec

from consumers.web.live.viewers import Goodbye, P, Viewer
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.errors import Malformed, RedisAway, RedisRefuses, SessionGone
from schemas.grid import FRAME_RATE_HZ
from transport.redis.connection import AsyncPipe, BlockingPipe

# Ten seconds: what a client that comes is shown of the past, and what one that is away may miss and still be owed.
RECENT_WINDOWS = 10 * FRAME_RATE_HZ
_BLOCK_MS = 1_000
_RETRY_S = 0.25
# Between slices of a replay the clients of other sessions have their turn: 64 frames take some milliseconds.
_SLICE = 64
_TICK_S = 1 / FRAME_RATE_HZ


STOPPING = Goodbye(1001, "The web server stops: connect again in a moment.")
# Larger than the second part of any entry id.
_LAST = 2**64 - 1


class Reading(msgspec.Struct, Generic[P]):
    """What one read brought: packets in order, the id to read on from, and how it ends where nothing will follow."""

    packets: list[P]
    after: str
    goodbye: Goodbye | None = None


class Source(ABC, Generic[P]):
    """Where packets of one kind come from. Whatever reads raises SessionGone, Malformed, RedisAway, RedisRefuses; a
    packet may raise Malformed when it is prepared."""

    @abstractmethod
    async def read(self, pipe: BlockingPipe, session: str, after: str, block_ms: int | None) -> Reading[P]:
        """What comes after the id `after`; waits up to block_ms for the first entry, or not at all (None)."""

    @abstractmethod
    async def look(self, pipe: AsyncPipe, session: str, after: str) -> Goodbye | None:
        """How it ends, where nothing follows the id `after` any more."""

    @abstractmethod
    def merge(self, packets: list[P]) -> P:
        """Several packets, oldest first, as one."""


class Feed(Generic[P]):
    """One session's packets of one kind after the window `begin`, and those who watch. `goodbye` is set when none will
    follow."""

    def __init__(
        self, url: str, session: str, source: Source[P], begin: int, presence: RedisPresence, log: Log
    ) -> None:
        self._url, self._session, self._source, self._presence = url, session, source, presence
        self._log = log.bind(session=session)
        self._packets: deque[P] = deque()
        # Windows up to this one are not here: they were before the beginning, or have been forgotten.
        self.forgotten_window = begin
        self.first = 0
        self.viewers: set[Viewer[P]] = set()
        self.goodbye: Goodbye | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.reading = asyncio.create_task(self._read())

    @property
    def end(self) -> int:
        """The place of the next packet."""
        return self.first + len(self._packets)

    def packet(self, place: int) -> P:
        """The packet at a place from `first` up to `end`."""
        return self._packets[place - self.first]

    def merge(self, packets: list[P]) -> P:
        """Several packets as one."""
        return self._source.merge(packets)

    async def _read(self) -> None:
        pipe, after = BlockingPipe(self._url), f"{self.forgotten_window + 1}-{_LAST}"
        # Of a session that has ended there may be nothing to wait for.
        block_ms: int | None = None
        try:
            while self.goodbye is None:
                try:
                    after = await self._read_once(pipe, after, block_ms)
                    block_ms = _BLOCK_MS
                    self._presence.come_back()
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    await asyncio.sleep(_RETRY_S)
        except (SessionGone, Malformed) as error:
            self.goodbye = Goodbye(1011, str(error))
        except Exception:  # noqa: BLE001  # a bug of ours must end the sockets with a reason, not with silence
            self._log.exception("a feed broke")
            self.goodbye = Goodbye(1011, "The web server failed to read this session; its log says why.")
        finally:
            self.tell()
            await pipe.close()

    async def _read_once(self, pipe: BlockingPipe, after: str, block_ms: int | None) -> str:
        """Takes in what comes next; the id to go on from."""
        reading = await self._source.read(pipe, self._session, after, block_ms)
        for start in range(0, len(reading.packets), _SLICE):
            for packet in reading.packets[start : start + _SLICE]:
                packet.prepare()
                self._append(packet)
            self.tell()
            await asyncio.sleep(0)
        self.goodbye = reading.goodbye
        if not reading.packets:
            self.goodbye = await self._source.look(pipe, self._session, reading.after)
            # Who went while nothing came is noticed now.
            self.tell()
        return reading.after

    def _append(self, packet: P) -> None:
        if len(self._packets) == RECENT_WINDOWS:
            lost = self._packets.popleft()
            for viewer in self.viewers:
                if viewer.at == self.first:
                    viewer.lose(lost)
            self.first += 1
            self.forgotten_window = lost.window
        self._packets.append(packet)

    def tell(self) -> None:
        """Lets every viewer take what it can, and comes back in a moment for those who could not take all."""
        now_s = asyncio.get_running_loop().time()
        place, is_owed = self.end - 1, False
        newest = self._packets[-1] if self._packets and self.goodbye is None else None
        for viewer in self.viewers:
            if newest is None or viewer.at != place or not viewer.push(newest, now_s):
                is_owed |= not viewer.pump(now_s)
        if is_owed and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tell_again)

    def _tell_again(self) -> None:
        self._timer = None
        self.tell()

    def stop(self) -> None:
        """Ends the reading: nobody watches any more."""
        self.reading.cancel()
        if self._timer is not None:
            self._timer.cancel()
