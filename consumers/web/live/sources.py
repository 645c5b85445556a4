"""Sources of packets: a session's frames, and the events that DECIPHER composed of them."""

from __future__ import annotations

from collections.abc import Sequence

from consumers.web.live.feeds import Source
from consumers.web.live.packets import (
    EventPacket,
    FramePacket,
    event_packets,
    merged_event_packet,
    merged_frame_packet,
)
from consumers.web.live.viewers import CloseReason
from schemas.keys import entry_order
from transport.events import event_id, events_after, find_composed
from transport.following import StreamEntry, StreamReader
from transport.frames import frames_after
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

_IS_COMPLETE = b'"isComplete":true'
SESSION_ENDED = CloseReason(1000, "The session has ended.")


class FrameSource(Source[FramePacket]):
    """The frames stream: it ends with the final frame."""

    def reader(self, pipe: AsyncPipe, session: str, after: str, last: StreamEntry | None) -> StreamReader:
        return frames_after(pipe, session, after, last)

    def packets(self, entries: Sequence[StreamEntry]) -> list[FramePacket]:
        return [FramePacket(entry_order(entry.entry_id)[0] - 1, entry.raw) for entry in entries]

    async def find_end(self, pipe: AsyncPipe, session: str, packets: list[FramePacket]) -> CloseReason | None:
        if packets:
            return SESSION_ENDED if packets[-1].is_final else None
        # A session whose frames could not be computed ends without a final frame: only its state contains the end.
        state = await find_session(pipe, session)
        if state.status == "open":
            return None
        return CloseReason(1011, state.reason) if state.reason else SESSION_ENDED

    def merge(self, packets: list[FramePacket]) -> FramePacket:
        return merged_frame_packet(packets)


class EventSource(Source[EventPacket]):
    """The events stream: it ends when all is composed. `invalid` counts entries that are not events of the protocol."""

    invalid = 0

    def reader(self, pipe: AsyncPipe, session: str, after: str, last: StreamEntry | None) -> StreamReader:
        return events_after(pipe, session, after, last)

    def packets(self, entries: Sequence[StreamEntry]) -> list[EventPacket]:
        packets, invalid = event_packets([(event_id(entry), entry.raw) for entry in entries])
        self.invalid += invalid
        return packets

    async def find_end(self, pipe: AsyncPipe, session: str, packets: list[EventPacket]) -> CloseReason | None:
        # While text comes, the state is read only after a member's last text.
        if packets and not any(_completes_member(packet) for packet in packets):
            return None
        return SESSION_ENDED if (await find_composed(pipe, session)).is_over else None

    def merge(self, packets: list[EventPacket]) -> EventPacket:
        return merged_event_packet(packets)


def _completes_member(packet: EventPacket) -> bool:
    return any(event.type == "token_stream" and _IS_COMPLETE in event.raw for event in packet.events)
