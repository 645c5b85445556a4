"""Feeds: a session's frames, or its events, read from Redis once and encoded once, however many clients watch.

    frames --one XREAD--> Feed[FramePacket]  --> viewers: /frames
    events --one XREAD--> Feed[EventPacket]  --> viewers: /ws, Server-Sent Events

A feed keeps the last ten seconds. It starts with its first viewer, after the window that this viewer names, and stops
with its last one. Each read proves that Redis still has what was read before (transport/following.py). Where it does
not, the feed ends and its clients start again: their texts may differ from what Redis has now.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic

from consumers.web.live.viewers import CloseReason, P, Viewer
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.errors import Malformed, RedisAway, RedisRefuses, SessionGone, SetBack
from schemas.grid import FRAME_RATE_HZ
from transport.following import StreamEntry, StreamReader
from transport.redis.connection import AsyncPipe, BlockingPipe, ReadingPipe

# Ten seconds: what a new client receives of the past, and how long a client can be slow before packets leave the feed.
RECENT_WINDOWS = 10 * FRAME_RATE_HZ
_BLOCK_MS = 1_000
_RETRY_S = 0.25
# Between slices of a replay the event loop serves other clients: 64 frames take some milliseconds.
_SLICE = 64
_TICK_S = 1 / FRAME_RATE_HZ
# Larger than the second part of any entry id.
_LAST = 2**64 - 1

SERVER_STOPPING = CloseReason(1001, "The web server stops: connect again in a moment.")
SET_BACK = CloseReason(1013, "Redis lost the newest data of this session: forget its text and connect from the start.")


class Source(ABC, Generic[P]):
    """Packets of one kind, and the stream that they come from."""

    @abstractmethod
    def reader(self, pipe: AsyncPipe, session: str, after: str, last: StreamEntry | None) -> StreamReader:
        """Reads that stream after the entry id `after`, where `last` stands, if it is known."""

    @abstractmethod
    def packets(self, entries: Sequence[StreamEntry]) -> list[P]:
        """The entries as packets; preparing one may raise Malformed."""

    @abstractmethod
    async def find_end(self, pipe: AsyncPipe, session: str, packets: list[P]) -> CloseReason | None:
        """Why nothing follows the packets of the last read, which are prepared; None while more can follow. What is
        written before it returns may still be unread. Raises SessionGone, Malformed, RedisAway, RedisRefuses."""

    @abstractmethod
    def merge(self, packets: list[P]) -> P:
        """Several packets, oldest first, as one."""


class Feed(Generic[P]):
    """One session's packets of one kind after the window `begin`, and their viewers. `close_reason` is set when no
    packet will follow."""

    def __init__(
        self,
        url: str,
        session: str,
        source: Source[P],
        begin: int,
        last: StreamEntry | None,
        presence: RedisPresence,
        log: Log,
    ) -> None:
        self._last = last
        self._url, self._session, self._source, self._presence = url, session, source, presence
        self._log = log.bind(session=session)
        self._packets: deque[P] = deque()
        # Windows up to this one are not in the feed: they came before its begin, or were dropped.
        self.dropped_window = begin
        self.first = 0
        self.viewers: set[Viewer[P]] = set()
        self.close_reason: CloseReason | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.reading = asyncio.create_task(self._read())

    @property
    def end(self) -> int:
        """The index of the next packet."""
        return self.first + len(self._packets)

    def packet(self, index: int) -> P:
        """The packet at an index from `first` up to `end`."""
        return self._packets[index - self.first]

    def merge(self, packets: list[P]) -> P:
        """Several packets as one."""
        return self._source.merge(packets)

    async def _read(self) -> None:
        pipe = ReadingPipe(self._url)
        reader = self._source.reader(pipe, self._session, f"{self.dropped_window + 1}-{_LAST}", self._last)
        # A session that has ended may have nothing to wait for.
        block_ms: int | None = None
        try:
            while self.close_reason is None:
                try:
                    await self._read_once(pipe, reader, block_ms)
                    block_ms = _BLOCK_MS
                    self._presence.come_back()
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    await asyncio.sleep(_RETRY_S)
        except SetBack:
            self.close_reason = SET_BACK
        except (SessionGone, Malformed) as error:
            self.close_reason = CloseReason(1011, str(error))
        except Exception:  # noqa: BLE001  # a bug of ours must close the sockets with a reason, not leave them silent
            self._log.exception("a feed failed")
            self.close_reason = CloseReason(1011, "The web server failed to read this session; its log has the reason.")
        finally:
            self.deliver()
            await pipe.close()

    async def _read_once(self, pipe: BlockingPipe, reader: StreamReader, block_ms: int | None) -> None:
        """Adds the packets of one read, and finds out whether more can follow."""
        packets = await self._add_packets(reader, block_ms)
        end = await self._source.find_end(pipe, self._session, packets)
        # Packets that were written between the two reads are read now; the end is found again after them.
        if end is not None and not await self._add_packets(reader, None):
            self.close_reason = end
        if not packets:
            # Notices clients that disconnected while no packet came.
            self.deliver()

    async def _add_packets(self, reader: StreamReader, block_ms: int | None) -> list[P]:
        packets = self._source.packets(await reader.read(block_ms))
        for start in range(0, len(packets), _SLICE):
            for packet in packets[start : start + _SLICE]:
                packet.prepare()
                self._append(packet)
            self.deliver()
            await asyncio.sleep(0)
        return packets

    def _append(self, packet: P) -> None:
        if len(self._packets) == RECENT_WINDOWS:
            dropped = self._packets.popleft()
            for viewer in self.viewers:
                if viewer.next == self.first:
                    viewer.keep_missed(dropped)
            self.first += 1
            self.dropped_window = dropped.window
        self._packets.append(packet)

    def deliver(self) -> None:
        """Sends to every viewer what it takes, and calls itself in a moment while some could not take all."""
        now_s = asyncio.get_running_loop().time()
        newest_index, is_pending = self.end - 1, False
        newest = self._packets[-1] if self._packets and self.close_reason is None else None
        for viewer in self.viewers:
            if newest is None or viewer.next != newest_index or not viewer.push(newest, now_s):
                is_pending |= not viewer.send_pending(now_s)
        if is_pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._deliver_again)

    def _deliver_again(self) -> None:
        self._timer = None
        self.deliver()

    def stop(self) -> None:
        """Stops reading: the last viewer has left."""
        self.reading.cancel()
        if self._timer is not None:
            self._timer.cancel()
