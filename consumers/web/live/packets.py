"""Packets: what one window has for whoever watches, put into bytes once, however many clients there are. Pure.

    frame           --> FramePacket --websocket--> one piece of bytes for every socket, for servers use no mask
    window's events --> EventPacket --websocket--> one piece for every socket
                                    --server_sent--> one piece for every curl

Several packets that a client could not take are merged into one, which stands for `count` frames.
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
from schemas.frames import Frame, decode_frame, encode_frame, frame_json
from schemas.keys import entry_order

_WHOLE_TEXT_MESSAGE = 0x81
_CLOSE = 0x88


class FramePacket:
    """A frame, or several that were merged, packed as it came: thousands of structs that stay would keep the garbage
    collector busy."""

    __slots__ = ("_wire", "count", "raw", "window")

    def __init__(self, window: int, raw: bytes, count: int = 1) -> None:
        self.window, self.raw, self.count = window, raw, count
        self._wire: bytes | None = None

    @property
    def frame(self) -> Frame:
        """Unpacked each time. Raises Malformed."""
        return decode_frame(self.raw)

    def websocket(self) -> bytes:
        """One WebSocket message. Raises Malformed."""
        if self._wire is None:
            self._wire = websocket_text(frame_json(self.frame))
        return self._wire

    prepare = websocket


class Said(msgspec.Struct, frozen=True, gc=False):
    """An event as it came. One without an id is no place to come back from: the one before it is."""

    entry_id: str | None
    type: str
    raw: bytes
    is_numbered: bool


class EventPacket:
    """The events of one window, or of several that were merged."""

    __slots__ = ("_wires", "count", "said", "window")

    def __init__(self, window: int, said: Sequence[Said], count: int = 1) -> None:
        self.window, self.said, self.count = window, said, count
        self._wires: dict[str, bytes] = {}

    def websocket(self) -> bytes:
        """A WebSocket message for each event, all in one piece."""
        return self._once("websocket", lambda: b"".join([websocket_text(one.raw) for one in self.said]))

    def renumbered(self, added: int) -> bytes:
        """As `websocket`, with all frame numbers larger by so much."""
        return self._once(f"websocket {added}", lambda: renumbered(self.said, added))

    def unnumbered(self) -> bytes:
        """As `websocket`, less the events that carry a frame number."""
        return b"".join([websocket_text(one.raw) for one in self.said if not one.is_numbered])

    def server_sent(self) -> bytes:
        """A Server-Sent Event for each, all in one piece."""
        return self._once("server_sent", lambda: server_sent(self.said))

    def chunk(self) -> bytes:
        """The same as a chunk of an HTTP answer."""
        return self._once("chunk", lambda: http_chunk(self.server_sent()))

    def prepare(self) -> None:
        """It was looked at when it came."""

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        if name not in self._wires:
            self._wires[name] = make()
        return self._wires[name]


def window_of_event(entry_id: str) -> int:
    """The window that an entry of the events stream belongs to."""
    return entry_order(entry_id)[0] - 1


def event_packets(entries: Iterable[tuple[str, bytes]]) -> tuple[list[EventPacket], int]:
    """The entries of an events stream by their windows, and how many were left out because they are no events of the
    protocol."""
    packets, strange = list[EventPacket](), 0
    for entry_id, raw in entries:
        try:
            said = said_of(entry_id, composed_event(raw), raw)
        except Malformed:
            strange += 1
            continue
        window = window_of_event(entry_id)
        if packets and packets[-1].window == window:
            packets[-1].said = [*packets[-1].said, said]
        else:
            packets.append(EventPacket(window, [said]))
    return packets, strange


def said_of(entry_id: str | None, event: Event, raw: bytes) -> Said:
    return Said(entry_id, str(event.__struct_config__.tag), raw, frame_number_of(event) is not None)


def composed_event(raw: bytes) -> Event:
    """What DECIPHER composed. Raises Malformed for all else."""
    event = decode_event(raw)
    if isinstance(event, Heartbeat | StartupComplete):
        raise Malformed("a connection's own message in a stream of events")
    return event


def merged_frame_packet(packets: Sequence[FramePacket]) -> FramePacket:
    """Oldest first."""
    merged = merged_frame([packet.frame for packet in packets])
    return FramePacket(merged.window_index, encode_frame(merged), sum(packet.count for packet in packets))


def merged_event_packet(packets: Sequence[EventPacket]) -> EventPacket:
    """Oldest first. Only the last event has an id, the newest window's last: whoever comes back from it has all of
    this."""
    newest = packets[-1]
    events = merged_events([composed_event(one.raw) for packet in packets for one in packet.said])
    said = [said_of(None, event, encode_event(event)) for event in events]
    said[-1] = msgspec.structs.replace(said[-1], entry_id=newest.said[-1].entry_id)
    return EventPacket(newest.window, said, sum(packet.count for packet in packets))


def websocket_close(code: int, reason: bytes) -> bytes:
    """A close frame; of the reason at most 123 bytes."""
    return bytes((_CLOSE, 2 + len(reason))) + code.to_bytes(2, "big") + reason


def websocket_text(payload: bytes) -> bytes:
    """The payload as one whole WebSocket text message of a server (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_WHOLE_TEXT_MESSAGE, size)) + payload
    if size < 65_536:
        return bytes((_WHOLE_TEXT_MESSAGE, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_WHOLE_TEXT_MESSAGE, 127)) + size.to_bytes(8, "big") + payload


def renumbered(said: Iterable[Said], added: int) -> bytes:
    """A WebSocket message for each event, with all frame numbers larger by so much."""
    return b"".join(
        [
            websocket_text(encode_event(raised(composed_event(one.raw), added)) if one.is_numbered else one.raw)
            for one in said
        ]
    )


def raised(event: Event, added: int) -> Event:
    """The event with a frame number that is larger by so much, where it has one."""
    match event:
        case EnergyUpdate() | EnergyField() | InterferenceEvent() | ResonanceEvent():
            return msgspec.structs.replace(event, frameNumber=event.frameNumber + added)
        case _:
            return event


def server_sent(said: Iterable[Said]) -> bytes:
    """The events as Server-Sent Events: named by their types, and with their ids, from which a client goes on."""
    lines = []
    for one in said:
        if one.entry_id is not None:
            lines.append(b"id: %b\n" % one.entry_id.encode())
        lines.append(b"event: %b\ndata: %b\n\n" % (one.type.encode(), one.raw))
    return b"".join(lines)


def http_chunk(data: bytes) -> bytes:
    """The data as one chunk of a chunked answer (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
