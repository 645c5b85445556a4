"""A viewer: one client's place in a feed, and what it is owed.

    feed      [ 700 | 701 | … | 1298 | 1299 ]      the last ten seconds of packets, the same for everybody
    live                                  at ^      gets each packet in the moment it comes
    slow                       at ^                 its socket takes no more: it is passed over, and gets all that it
                                                    missed as one merged packet when it does again
    asleep    at                                    ten seconds without taking anything: closed, with a reason

Nothing is queued for a client but what its transport holds (at most MOST_WAITING_BYTES and one packet), so a slow one
costs nobody anything. What falls out of the feed before a client has got it is merged into what it carries.

Bytes go straight to the kernel, or to the transport where it has not taken all before them: aiohttp's own way, a
coroutine and a header for each client and message, costs twice the bare write (`make bench`), and a server's WebSocket
message is the same bytes for all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

# A third of a second of the largest frames. Beyond it a client is behind, and newer frames replace older ones.
MOST_WAITING_BYTES = 64 * 1024
# Frames that a client may be behind and still get one by one: a jitter of 0.13 s leaves nothing out.
MOST_BEHIND = 8
# A page that is asleep for so long starts anew in less time than it would take to catch up.
PATIENCE_S = 10.0


class Goodbye(msgspec.Struct, frozen=True):
    """How a client is sent away: a WebSocket close code, and a sentence for whoever watches."""

    code: int
    reason: str


GONE = Goodbye(1006, "The client went.")
TAKES_NOTHING = Goodbye(1013, f"This client took nothing for {PATIENCE_S:g} s: connect again to go on from now.")


class AnyPacket(Protocol):
    """What a feed holds."""

    @property
    def window(self) -> int: ...
    @property
    def count(self) -> int: ...
    def prepare(self) -> object: ...


P = TypeVar("P", bound=AnyPacket)


class Packets(Protocol[P]):
    """What a viewer sees of its feed: the packets at the places from `first` up to `end`, and how it ends."""

    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def goodbye(self) -> Goodbye | None: ...
    def packet(self, place: int) -> P: ...
    def merge(self, packets: list[P]) -> P: ...
    def tell(self) -> None: ...


class Viewer(Generic[P]):
    """One client of a feed. It gets what comes after the window `after`, each once; of windows up to `replays_to` one
    by one, however many they are. It waits until it is started."""

    def __init__(self, feed: Packets[P], after: int, replays_to: int = -1) -> None:
        loop = asyncio.get_running_loop()
        self._feed, self._after, self._replays_to = feed, after, replays_to
        self._transport: asyncio.WriteTransport | None = None
        self._fd = -1
        self._wire: Callable[[P], bytes] | None = None
        self._waiting, self._took_at_s = 0, loop.time()
        self._is_slow = self._is_live = False
        self._carried: P | None = None
        # The place in the feed of the packet that it gets next.
        self.at = feed.first
        # Frames that it did not get by themselves.
        self.skipped = 0
        self.done: asyncio.Future[Goodbye] = loop.create_future()

    def start(self, transport: asyncio.WriteTransport, wire: Callable[[P], bytes]) -> None:
        """From now on bytes go to the transport; `wire` makes them of a packet."""
        loop = asyncio.get_running_loop()
        self._transport, self._wire, self._took_at_s = transport, wire, loop.time()
        connection = transport.get_extra_info("socket")
        self._fd = connection.fileno() if connection is not None else -1
        # In the loop's next turn, for the handler to get to where it waits.
        loop.call_soon(self._feed.tell)

    def push(self, packet: P, now_s: float) -> bool:
        """Gives the client the packet that it would get next, the newest; False where that is not all there is to it.
        What pump() does, for the many who live from frame to frame: with 500 of them a fifth less in all."""
        transport, wire = self._transport, self._wire
        if not self._is_live or transport is None or wire is None or transport.is_closing():
            return False
        # A viewer may have joined ahead of what its feed has read.
        if transport.get_write_buffer_size() or packet.window <= self._after:
            return False
        data = wire(packet)
        try:
            sent = os.write(self._fd, data)
        except OSError:
            return False
        self.at += 1
        self._took_at_s = now_s
        if sent < len(data):
            transport.write(data[sent:])
        return True

    def pump(self, now_s: float) -> bool:
        """Gives the client what it takes; False while it is owed more. `now_s` is the loop's time."""
        self._is_live = False
        feed, transport, wire = self._feed, self._transport, self._wire
        if transport is None or wire is None or self.done.done():
            return True
        if transport.is_closing():
            self.dismiss(GONE)
            return True
        waiting = transport.get_write_buffer_size()
        if not waiting or waiting < self._waiting:
            self._took_at_s = now_s
        elif now_s - self._took_at_s >= PATIENCE_S:
            self.dismiss(TAKES_NOTHING)
        # It had a turn of the loop to take what it was given: a burst alone makes nobody slow.
        self._is_slow |= waiting > MOST_WAITING_BYTES
        while self.at < feed.end:
            if waiting > MOST_WAITING_BYTES:
                self._waiting = waiting
                return False
            if (packet := self._next()) is not None:
                self.skipped += packet.count - 1
                waiting = self._write(transport, wire(packet), waiting)
        self._waiting, self._is_slow = waiting, False
        self._is_live = not waiting and self._fd >= 0 and self._carried is None
        if feed.goodbye is not None:
            self.dismiss(feed.goodbye)
        return True

    def _write(self, transport: asyncio.WriteTransport, data: bytes, waiting: int) -> int:
        """How much waits after it. Where nothing waits the kernel is asked at once: the transport's way there costs as
        much again. It closes the descriptor only after it says that it is closing, which has just been asked."""
        if not waiting and self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The transport finds out by itself, and tells everybody whom it concerns.
                sent = 0
            if sent == len(data):
                return 0
            data = data[sent:]
        transport.write(data)
        return transport.get_write_buffer_size()

    def _next(self) -> P | None:
        """The next packet, or all that are there as one where there are too many; None for one from before."""
        feed = self._feed
        packet = feed.packet(self.at)
        self.at += 1
        if packet.window <= self._after:
            return None
        if self._is_slow and feed.end - self.at >= MOST_BEHIND and packet.window > self._replays_to:
            packet = feed.merge([packet, *(feed.packet(place) for place in range(self.at, feed.end))])
            self.at = feed.end
        if self._carried is not None:
            packet, self._carried = feed.merge([self._carried, packet]), None
        return packet

    def lose(self, packet: P) -> None:
        """The packet that it would get next falls out of the feed: it is carried along."""
        self.at += 1
        if packet.window > self._after and not self.done.done():
            self._carried = packet if self._carried is None else self._feed.merge([self._carried, packet])

    def dismiss(self, goodbye: Goodbye) -> None:
        """Ends its watching, wherever it stands."""
        self._is_live = False
        if not self.done.done():
            self.done.set_result(goodbye)
