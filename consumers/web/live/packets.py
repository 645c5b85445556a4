"""Packets: what one window contains for its clients, encoded once, however many clients there are. Pure.

    frame           --> FramePacket --websocket--> the same bytes for every socket: a server's messages have no mask
    window's events --> EventPacket --websocket--> the same bytes for every socket
                                    --server_sent--> the same bytes for every Server-Sent Events client

Several packets that a client could not receive are merged into one, which counts for `count` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from consumers.web.live.merging import merged_events, merged_frame
from schemas.errors import Malformed
from schemas.events import (
    EnergyField,
    EnergyUpdate,
    Event,
    Heartbeat,
    InterferenceEvent,
    ResonanceEvent,
    StartupComplete,
    decode_event,
    encode_event,
    frame_number_of,
)
from schemas.frame_json import frame_json
from schemas.frames import Frame, decode_frame, encode_frame
from schemas.keys import entry_ms

_WHOLE_TEXT_MESSAGE = 0x81
_CLOSE = 0x88


class FramePacket:
    """A frame, or several that were merged, as bytes: thousands of structs would keep the garbage collector busy.

    `prepare` decodes the frame, once for all clients; `is_final` is set from then on.
    """

    __slots__ = ("_websocket", "count", "is_final", "raw", "window")

    def __init__(self, window: int, raw: bytes, count: int = 1) -> None:
        self.window, self.raw, self.count = window, raw, count
        self.is_final = False
        self._websocket: bytes | None = None

    @property
    def frame(self) -> Frame:
        """Decoded at each call. Raises Malformed."""
        return decode_frame(self.raw)

    def prepare(self) -> None:
        """Decodes the frame and encodes it for the clients. Raises Malformed."""
        frame = self.frame
        self.is_final = frame.final
        self._websocket = websocket_text(frame_json(frame))

    def websocket(self) -> bytes:
        """One WebSocket message. Raises Malformed."""
        if self._websocket is None:
            self.prepare()
        assert self._websocket is not None, "prepare() sets it"
        return self._websocket


class PackedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it was read. A client cannot continue from an event without an id, only from the one before it. The
    id is that for clients (transport/events.py)."""

    event_id: str | None
    type: str
    raw: bytes
    is_numbered: bool


class EventPacket:
    """The events of one window, or of several that were merged."""

    __slots__ = ("_encodings", "count", "events", "window")

    def __init__(self, window: int, events: Sequence[PackedEvent], count: int = 1) -> None:
        self.window, self.events, self.count = window, events, count
        self._encodings: dict[str, bytes] = {}

    def websocket(self) -> bytes:
        """A WebSocket message for each event, concatenated."""
        return self._once("websocket", lambda: b"".join([websocket_text(event.raw) for event in self.events]))

    def renumbered(self, added: int) -> bytes:
        """As `websocket`, with `added` added to all frame numbers."""
        return self._once(f"websocket {added}", lambda: renumbered(self.events, added))

    def unnumbered(self) -> bytes:
        """As `websocket`, without the events that have a frame number."""
        return b"".join([websocket_text(event.raw) for event in self.events if not event.is_numbered])

    def server_sent(self) -> bytes:
        """A Server-Sent Event for each event, concatenated."""
        return self._once("server_sent", lambda: server_sent(self.events))

    def chunk(self) -> bytes:
        """The same as one chunk of an HTTP response."""
        return self._once("chunk", lambda: http_chunk(self.server_sent()))

    def prepare(self) -> None:
        """Does nothing: event_packets() has checked the events."""

    def _once(self, name: str, encode: Callable[[], bytes]) -> bytes:
        if name not in self._encodings:
            self._encodings[name] = encode()
        return self._encodings[name]


def window_of_event(entry_id: str) -> int:
    """The window of an entry of the events stream, or of an event's id for clients."""
    return entry_ms(entry_id) - 1


def event_packets(entries: Iterable[tuple[str, bytes]]) -> tuple[list[EventPacket], int]:
    """The entries of an events stream, as (id for clients, JSON), grouped by window, and how many were left out because
    they are not valid events of the protocol."""
    packets, invalid = list[EventPacket](), 0
    for event_id, raw in entries:
        try:
            event = packed_event(event_id, composed_event(raw), raw)
        except Malformed:
            invalid += 1
            continue
        window = window_of_event(event_id)
        if packets and packets[-1].window == window:
            packets[-1].events = [*packets[-1].events, event]
        else:
            packets.append(EventPacket(window, [event]))
    return packets, invalid


def packed_event(event_id: str | None, event: Event, raw: bytes) -> PackedEvent:
    return PackedEvent(event_id, str(event.__struct_config__.tag), raw, frame_number_of(event) is not None)


def composed_event(raw: bytes) -> Event:
    """An event that DECIPHER composed. Raises Malformed for anything else."""
    event = decode_event(raw)
    if isinstance(event, Heartbeat | StartupComplete):
        raise Malformed("a stream of events contains a message that only a connection sends")
    return event


def merged_frame_packet(packets: Sequence[FramePacket]) -> FramePacket:
    """The packets, oldest first, as one."""
    merged = merged_frame([packet.frame for packet in packets])
    return FramePacket(merged.window_index, encode_frame(merged), sum(packet.count for packet in packets))


def merged_event_packet(packets: Sequence[EventPacket]) -> EventPacket:
    """The packets, oldest first, as one. Only its last event has an id, the last of the newest window: a client that
    continues from it has received all of the packets."""
    newest = packets[-1]
    merged = merged_events([composed_event(event.raw) for packet in packets for event in packet.events])
    events = [packed_event(None, event, encode_event(event)) for event in merged]
    events[-1] = msgspec.structs.replace(events[-1], event_id=newest.events[-1].event_id)
    return EventPacket(newest.window, events, sum(packet.count for packet in packets))


def websocket_close(code: int, reason: bytes) -> bytes:
    """A WebSocket close frame; the reason has at most 123 bytes."""
    return bytes((_CLOSE, 2 + len(reason))) + code.to_bytes(2, "big") + reason


def websocket_text(payload: bytes) -> bytes:
    """The payload as one WebSocket text message of a server (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_WHOLE_TEXT_MESSAGE, size)) + payload
    if size < 65_536:
        return bytes((_WHOLE_TEXT_MESSAGE, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_WHOLE_TEXT_MESSAGE, 127)) + size.to_bytes(8, "big") + payload


def renumbered(events: Iterable[PackedEvent], added: int) -> bytes:
    """A WebSocket message for each event, with `added` added to all frame numbers."""
    return b"".join(
        [
            websocket_text(
                encode_event(with_added_number(composed_event(event.raw), added)) if event.is_numbered else event.raw
            )
            for event in events
        ]
    )


def with_added_number(event: Event, added: int) -> Event:
    """The event with `added` added to its frame number, if it has one."""
    match event:
        case EnergyUpdate() | EnergyField() | InterferenceEvent() | ResonanceEvent():
            return msgspec.structs.replace(event, frameNumber=event.frameNumber + added)
        case _:
            return event


def server_sent(events: Iterable[PackedEvent]) -> bytes:
    """The events as Server-Sent Events: named by their types, and with the ids from which a client can continue."""
    lines = []
    for event in events:
        if event.event_id is not None:
            lines.append(b"id: %b\n" % event.event_id.encode())
        lines.append(b"event: %b\ndata: %b\n\n" % (event.type.encode(), event.raw))
    return b"".join(lines)


def http_chunk(data: bytes) -> bytes:
    """The data as one chunk of a chunked HTTP response (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
