"""Feeds: a session's frames, or its events, read from Redis once and encoded once, however many clients watch.

    frames --one XREAD--> Feed[FramePacket]  --> viewers: /frames
    events --one XREAD--> Feed[EventPacket]  --> viewers: /ws, Server-Sent Events

A feed keeps the last ten seconds. It starts with its first viewer, after the window that this viewer names, and stops
with its last one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic

from consumers.web.live.viewers import CloseReason, P, Viewer
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.errors import Malformed, RedisAway, RedisRefuses, SessionGone
from schemas.grid import FRAME_RATE_HZ
from transport.redis.connection import AsyncPipe, BlockingPipe

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


class Source(ABC, Generic[P]):
    """Reads the packets of one kind. Its methods raise SessionGone, Malformed, RedisAway, RedisRefuses; preparing a
    packet may raise Malformed."""

    @abstractmethod
    async def read(self, pipe: BlockingPipe, session: str, after: str, block_ms: int | None) -> tuple[list[P], str]:
        """The packets after the entry id `after`, and the id to read on from; waits up to block_ms for the first
        packet, or not at all (None)."""

    @abstractmethod
    async def find_end(self, pipe: AsyncPipe, session: str, after: str, packets: list[P]) -> CloseReason | None:
        """Why the feed ends after the id `after`, or None while more can follow. `packets` are those of the last read,
        prepared."""

    @abstractmethod
    def merge(self, packets: list[P]) -> P:
        """Several packets, oldest first, as one."""


class Feed(Generic[P]):
    """One session's packets of one kind after the window `begin`, and their viewers. `close_reason` is set when no
    packet will follow."""

    def __init__(
        self, url: str, session: str, source: Source[P], begin: int, presence: RedisPresence, log: Log
    ) -> None:
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
        pipe, after = BlockingPipe(self._url), f"{self.dropped_window + 1}-{_LAST}"
        # A session that has ended may have nothing to wait for.
        block_ms: int | None = None
        try:
            while self.close_reason is None:
                try:
                    after = await self._read_once(pipe, after, block_ms)
                    block_ms = _BLOCK_MS
                    self._presence.come_back()
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    await asyncio.sleep(_RETRY_S)
        except (SessionGone, Malformed) as error:
            self.close_reason = CloseReason(1011, str(error))
        except Exception:  # noqa: BLE001  # a bug of ours must close the sockets with a reason, not leave them silent
            self._log.exception("a feed failed")
            self.close_reason = CloseReason(1011, "The web server failed to read this session; its log has the reason.")
        finally:
            self.deliver()
            await pipe.close()

    async def _read_once(self, pipe: BlockingPipe, after: str, block_ms: int | None) -> str:
        """Adds the packets of one read; returns the id to read on from."""
        packets, after = await self._source.read(pipe, self._session, after, block_ms)
        for start in range(0, len(packets), _SLICE):
            for packet in packets[start : start + _SLICE]:
                packet.prepare()
                self._append(packet)
            self.deliver()
            await asyncio.sleep(0)
        self.close_reason = await self._source.find_end(pipe, self._session, after, packets)
        if not packets:
            # Notices clients that disconnected while no packet came.
            self.deliver()
        return after

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
