"""A viewer: one client's position in a feed, and what it has still to receive.

    feed      [ 700 | 701 | … | 1298 | 1299 ]      the packets of the last ten seconds, shared by all clients
    live                                ^ next      receives each packet when it is read
    slow                      ^ next                its socket buffer is full: it is skipped, and later receives all
                                                    that it missed as one merged packet
    stalled   ^ next                                has received nothing for ten seconds: closed, with a reason

A client has no queue, only its transport's buffer (at most MOST_BUFFERED_BYTES and one packet), so a slow client costs
the others nothing. A packet that leaves the feed before a client received it is merged into the client's `_missed`.

Bytes are written to the kernel directly, or to the transport while that still buffers earlier bytes. aiohttp's own way,
with a coroutine and a header for each client and message, costs twice the bare write (`make bench`), and a server's
WebSocket message is the same bytes for all clients.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

# A third of a second of the largest frames. A client with more is behind: newer frames are merged for it.
MOST_BUFFERED_BYTES = 64 * 1024
# A client that is so many frames behind still receives them one by one: a jitter of 0.13 s leaves nothing out.
MOST_BEHIND = 8
# After such a pause a page can reconnect and start again faster than it could catch up.
STALL_S = 10.0


class CloseReason(msgspec.Struct, frozen=True):
    """Why a client's connection is closed: a WebSocket close code, and a sentence for its user."""

    code: int
    reason: str


CLIENT_GONE = CloseReason(1006, "The client disconnected.")
CLIENT_STALLED = CloseReason(1013, f"This client received nothing for {STALL_S:g} s: connect again to continue live.")


class AnyPacket(Protocol):
    """What a feed contains."""

    @property
    def window(self) -> int: ...
    @property
    def count(self) -> int: ...
    def prepare(self) -> object: ...


P = TypeVar("P", bound=AnyPacket)


class Packets(Protocol[P]):
    """What a viewer uses of its feed: the packets at the indexes from `first` up to `end`, and how the feed ended."""

    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def close_reason(self) -> CloseReason | None: ...
    def packet(self, index: int) -> P: ...
    def merge(self, packets: list[P]) -> P: ...
    def deliver(self) -> None: ...


class Viewer(Generic[P]):
    """One client of a feed. It receives what follows the window `after`, each window once; windows up to `replays_to`
    are never merged, however many they are. Nothing is sent before `start`."""

    def __init__(self, feed: Packets[P], after: int, replays_to: int = -1) -> None:
        loop = asyncio.get_running_loop()
        self._feed, self._after, self._replays_to = feed, after, replays_to
        self._transport: asyncio.WriteTransport | None = None
        self._fd = -1
        self._encode: Callable[[P], bytes] | None = None
        self._buffered, self._progress_at_s = 0, loop.time()
        self._is_slow = self._is_live = False
        self._missed: P | None = None
        # The index in the feed of the packet that the client receives next.
        self.next = feed.first
        # Frames that the client did not receive by themselves.
        self.frames_merged = 0
        self.done: asyncio.Future[CloseReason] = loop.create_future()

    def start(self, transport: asyncio.WriteTransport, encode: Callable[[P], bytes]) -> None:
        """Begins to send; `encode` returns the bytes of a packet for this client."""
        loop = asyncio.get_running_loop()
        self._transport, self._encode, self._progress_at_s = transport, encode, loop.time()
        connection = transport.get_extra_info("socket")
        self._fd = connection.fileno() if connection is not None else -1
        # In the loop's next turn: the handler must first reach the line where it waits.
        loop.call_soon(self._feed.deliver)

    def push(self, packet: P, now_s: float) -> bool:
        """Sends the newest packet to a client that has received all others; False where send_pending() must be called.

        A shortcut of send_pending() for live clients: with 500 of them it saves a fifth of all time.
        """
        transport, encode = self._transport, self._encode
        if not self._is_live or transport is None or encode is None or transport.is_closing():
            return False
        # A viewer may have joined at a window that its feed has not read yet.
        if transport.get_write_buffer_size() or packet.window <= self._after:
            return False
        data = encode(packet)
        try:
            sent = os.write(self._fd, data)
        except OSError:
            return False
        self.next += 1
        self._progress_at_s = now_s
        if sent < len(data):
            transport.write(data[sent:])
        return True

    def send_pending(self, now_s: float) -> bool:
        """Sends as much as the client's buffer takes; False while packets remain. `now_s` is the loop's time."""
        self._is_live = False
        feed, transport, encode = self._feed, self._transport, self._encode
        if transport is None or encode is None or self.done.done():
            return True
        if transport.is_closing():
            self.close(CLIENT_GONE)
            return True
        buffered = transport.get_write_buffer_size()
        if not buffered or buffered < self._buffered:
            self._progress_at_s = now_s
        elif now_s - self._progress_at_s >= STALL_S:
            self.close(CLIENT_STALLED)
        # Measured after a turn of the loop in which the client could read: a burst alone makes no client slow.
        self._is_slow |= buffered > MOST_BUFFERED_BYTES
        while self.next < feed.end:
            if buffered > MOST_BUFFERED_BYTES:
                self._buffered = buffered
                return False
            if (packet := self._next_packet()) is not None:
                self.frames_merged += packet.count - 1
                buffered = self._write(transport, encode(packet), buffered)
        self._buffered, self._is_slow = buffered, False
        self._is_live = not buffered and self._fd >= 0 and self._missed is None
        if feed.close_reason is not None:
            self.close(feed.close_reason)
        return True

    def _write(self, transport: asyncio.WriteTransport, data: bytes, buffered: int) -> int:
        """Writes, and returns how many bytes the transport then buffers.

        With an empty buffer it writes to the kernel: through the transport it costs as much again. The descriptor is
        open: the transport closes it only after is_closing() is true, which was checked just before.
        """
        if not buffered and self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except OSError:
                # A full kernel buffer (BlockingIOError), or an error that the transport meets and reports itself.
                sent = 0
            if sent == len(data):
                return 0
            data = data[sent:]
        transport.write(data)
        return transport.get_write_buffer_size()

    def _next_packet(self) -> P | None:
        """The next packet, for a slow client merged with all that follow; None for a window before `after`."""
        feed = self._feed
        packet = feed.packet(self.next)
        self.next += 1
        if packet.window <= self._after:
            return None
        if self._is_slow and feed.end - self.next >= MOST_BEHIND and packet.window > self._replays_to:
            packet = feed.merge([packet, *(feed.packet(index) for index in range(self.next, feed.end))])
            self.next = feed.end
        if self._missed is not None:
            packet, self._missed = feed.merge([self._missed, packet]), None
        return packet

    def keep_missed(self, packet: P) -> None:
        """Keeps the packet that the client would receive next, because it leaves the feed now."""
        self.next += 1
        if packet.window > self._after and not self.done.done():
            self._missed = packet if self._missed is None else self._feed.merge([self._missed, packet])

    def close(self, reason: CloseReason) -> None:
        """Ends the viewer; a later reason changes nothing."""
        self._is_live = False
        if not self.done.done():
            self.done.set_result(reason)
