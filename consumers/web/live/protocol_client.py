"""One client of the protocol: its connection's own messages, and the order of the frame numbers that it receives.

    last number 700   a replay at rate 4: its numbers are ahead of the clock     … 940
    then              the next live session is at 760 by the clock               ROUND + 760, ROUND + 761, …

Frame numbers only rise. If a session's numbers are not larger than those that the client has received of another
session, that one is sent in the next *round*: with ROUND added to its numbers. The remainder of such a number by ROUND
is the window's own number, so the `after` of a client that reconnects is understood without any memory of the client.
Sessions that run at once are a few frames apart: the client waits so long, and stays in its round.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import secrets
import time
from collections.abc import Iterable

from consumers.web.live.packets import EventPacket, websocket_text, with_added_number
from consumers.web.live.viewers import MOST_BUFFERED_BYTES
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

# The protocol requires one "at least every second"; a timer may fire late.
_HEARTBEAT_S = 0.9
# The largest frame rate of a heartbeat, in Hz. Messages of more frames in a second are those of a replay at full speed.
_MOST_HZ = 10_000.0
# The council's version, as its package has it: x.y.z.
VERSION = importlib.metadata.version("turbo-ensemble")
# More windows than pass until the year 2550, and few enough for a thousand rounds in 15 digits.
ROUND = 2**40
# Numbers of sessions that run at once differ by less. A client does not wait for a session that is further behind.
_MOST_BEHIND = FRAME_RATE_HZ
_CAPABILITIES: tuple[Capability, ...] = ("council", "turbo", "visualization")


class ProtocolClient:
    """A connection after the upgrade. `last_number` is the largest frame number that was sent, or that the client named
    as received (-1: none); no message with a number that is not larger is sent."""

    def __init__(self, transport: asyncio.WriteTransport, last_number: int) -> None:
        self._transport, self.last_number = transport, last_number
        self._id, self._heartbeats = secrets.token_hex(6), 0
        # Of the current session: the number of its window 0, and the part of that number that its round adds.
        self._first_number = self._added = 0
        self._timer: asyncio.TimerHandle | None = None
        # The frames that were sent since the last heartbeat, and its time on the loop's clock.
        self._frames, self._counted_from_s = 0, asyncio.get_running_loop().time()

    def start(self, tier: ProtocolTier) -> None:
        """Sends the first message, and heartbeats from now on."""
        startup = StartupPayload(ENSEMBLE, tier, VERSION, PROTOCOL_FRAME_RATE, _CAPABILITIES)
        self._send([StartupComplete(_now_ms(), startup)])
        self._schedule_heartbeat()

    def frames_behind(self, number: int) -> int:
        """How many frames a session, now at the frame `number`, needs until its numbers are larger than those that the
        client has received; 0 where they are, or where the session is too far behind to wait for it."""
        behind = self.last_number + 1 - self._round() - number
        return behind if 0 < behind <= _MOST_BEHIND else 0

    def start_session(self, first_number: int, window: int, current: Iterable[Event], *, is_known: bool) -> None:
        """Begins a session whose window 0 has the number `first_number`, with its `current` events as of `window`.
        `is_known`: the numbers that the client has received were of this session."""
        self._added = self._round()
        if not is_known and self._added + first_number + max(window, 0) <= self.last_number:
            self._added += ROUND
        self._first_number = self._added + first_number
        numbered = [with_added_number(event, self._added) for event in current]
        new = [event for event in numbered if (number := frame_number_of(event)) is None or number > self.last_number]
        self.last_number = max(self.last_number, *(frame_number_of(event) or -1 for event in new), -1)
        self._send(new)

    def encode(self, packet: EventPacket) -> bytes:
        """The bytes of a packet of that session for this client."""
        number = self._first_number + packet.window
        if number <= self.last_number:
            return packet.unnumbered()
        self.last_number = number
        self._frames += 1
        return packet.renumbered(self._added) if self._added else packet.websocket()

    def stop(self) -> None:
        """Sends no further heartbeat."""
        if self._timer is not None:
            self._timer.cancel()

    def _round(self) -> int:
        """What the round of the last number adds to a window's own number."""
        return self.last_number // ROUND * ROUND if self.last_number >= 0 else 0

    def _schedule_heartbeat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_HEARTBEAT_S, self._heartbeat)

    def _heartbeat(self) -> None:
        """Sends a heartbeat, unless the client's buffer is full: it then notices the silence by itself."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() <= MOST_BUFFERED_BYTES:
            now_ms = _now_ms()
            payload = HeartbeatPayload(self._heartbeats, now_ms, self._frame_rate(), self._id)
            self._send([Heartbeat(now_ms, payload)])
            self._heartbeats += 1
        self._schedule_heartbeat()

    def _frame_rate(self) -> float:
        """The frames in a second that were sent since the last call, in Hz; 0 while no session is sent."""
        now_s = asyncio.get_running_loop().time()
        rate = self._frames / (now_s - self._counted_from_s)
        self._frames, self._counted_from_s = 0, now_s
        return min(round(rate, 1), _MOST_HZ)

    def _send(self, messages: Iterable[ProtocolMessage]) -> None:
        self._transport.write(b"".join([websocket_text(encode_event(message)) for message in messages]))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
