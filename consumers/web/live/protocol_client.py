"""One client of the protocol: what its connection says of itself, and the order of the frames that it sees.

    seen 700   a replay at rate 4: its numbers run ahead of the clock     … 940
    then       the next live session is at 760 by the clock               ROUND + 760, ROUND + 761, …

Frame numbers only rise. A session whose numbers are behind what the client has seen of another session is told in the
next *round*: with numbers that are larger by ROUND. The remainder of such a number by ROUND is the window's own number,
so `after` of a client that comes back is understood, although nothing is remembered of it.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import secrets
import time
from collections.abc import Iterable

from consumers.web.live.packets import EventPacket, raised, websocket_text
from consumers.web.live.viewers import MOST_WAITING_BYTES
from schemas.events import (
    ENSEMBLE,
    PROTOCOL_FRAME_RATE,
    Capability,
    Event,
    Heartbeat,
    HeartbeatPayload,
    ProtocolMessage,
    ProtocolTier,
    StartupComplete,
    StartupPayload,
    encode_event,
    frame_number_of,
)
from schemas.grid import FRAME_RATE_HZ

# "At least every second": a timer that fires late must not make it more.
_HEARTBEAT_S = 0.9
# The council's, as the package says it: x.y.z.
VERSION = importlib.metadata.version("turbo-ensemble")
# More windows than pass until the year 2550, and few enough for a thousand rounds in 15 digits.
ROUND = 2**40
# Sessions that run at once are less apart. Behind by more than this, the next number that rises is too far away.
_MOST_BEHIND = FRAME_RATE_HZ
_CAPABILITIES: tuple[Capability, ...] = ("council", "turbo", "visualization")


class ProtocolClient:
    """A connection that has been upgraded. `seen` is the largest frame number that was sent, or that the client says it
    has seen (-1: none); nothing with a number that is not larger is sent."""

    def __init__(self, transport: asyncio.WriteTransport, seen: int) -> None:
        self._transport, self.seen = transport, seen
        self._id, self._beats = secrets.token_hex(6), 0
        # Of the session that is told: the number of its window 0, and of that what the round adds.
        self._first_number = self._added = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, tier: ProtocolTier) -> None:
        """The first message; from now on the heart beats."""
        startup = StartupPayload(ENSEMBLE, tier, VERSION, PROTOCOL_FRAME_RATE, _CAPABILITIES)
        self._say([StartupComplete(_now_ms(), startup)])
        self._wait_for_beat()

    def enter(self, first_number: int, window: int, now: Iterable[Event], *, is_known: bool) -> None:
        """From here on a session is told whose window 0 has this frame number; first what is true of it `now`, at the
        end of a window. `is_known`: what the client has seen was of this session."""
        self._added = self.seen // ROUND * ROUND if self.seen >= 0 else 0
        if not is_known and self._added + first_number + window < self.seen - _MOST_BEHIND:
            self._added += ROUND
        self._first_number = self._added + first_number
        now = [raised(event, self._added) for event in now]
        news = [event for event in now if (number := frame_number_of(event)) is None or number > self.seen]
        self.seen = max(self.seen, *(frame_number_of(event) or -1 for event in news), -1)
        self._say(news)

    def wire(self, packet: EventPacket) -> bytes:
        """A packet of that session, as this client may see it."""
        number = self._first_number + packet.window
        if number <= self.seen:
            return packet.unnumbered()
        self.seen = number
        return packet.renumbered(self._added) if self._added else packet.websocket()

    def end(self) -> None:
        """No further heartbeat."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait_for_beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        """Says that the connection lives; a client that takes nothing learns of that by itself."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() <= MOST_WAITING_BYTES:
            now_ms = _now_ms()
            payload = HeartbeatPayload(self._beats, now_ms, PROTOCOL_FRAME_RATE, self._id)
            self._say([Heartbeat(now_ms, payload)])
            self._beats += 1
        self._wait_for_beat()

    def _say(self, messages: Iterable[ProtocolMessage]) -> None:
        self._transport.write(b"".join([websocket_text(encode_event(message)) for message in messages]))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
