"""Sources of packets: a session's frames, and the events that DECIPHER composed of them."""

from __future__ import annotations

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
from transport.events import find_composed, read_events, wait_for_events
from transport.frames import read_frames, wait_for_frames
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import find_session

_IS_COMPLETE = b'"isComplete":true'
SESSION_ENDED = CloseReason(1000, "The session has ended.")


class FrameSource(Source[FramePacket]):
    """The frames stream: it ends with the final frame."""

    async def read(
        self, pipe: BlockingPipe, session: str, after: str, block_ms: int | None
    ) -> tuple[list[FramePacket], str]:
        reading = wait_for_frames(pipe, session, after, block_ms) if block_ms else read_frames(pipe, session, after)
        found = await reading
        packets = [FramePacket(entry_order(entry_id)[0] - 1, raw) for entry_id, raw in found]
        return packets, found[-1][0] if found else after

    async def find_end(
        self, pipe: AsyncPipe, session: str, after: str, packets: list[FramePacket]
    ) -> CloseReason | None:
        if packets:
            return SESSION_ENDED if packets[-1].is_final else None
        # A session whose frames could not be computed ends without a final frame: only its state contains the end.
        state = await find_session(pipe, session)
        if state.status == "open" or await read_frames(pipe, session, after):
            # Frames that were written between the two reads are read next.
            return None
        return CloseReason(1011, state.reason) if state.reason else SESSION_ENDED

    def merge(self, packets: list[FramePacket]) -> FramePacket:
        return merged_frame_packet(packets)


class EventSource(Source[EventPacket]):
    """The events stream: it ends when all is composed. `invalid` counts entries that are not events of the protocol."""

    invalid = 0

    async def read(
        self, pipe: BlockingPipe, session: str, after: str, block_ms: int | None
    ) -> tuple[list[EventPacket], str]:
        reading = wait_for_events(pipe, session, after, block_ms) if block_ms else read_events(pipe, session, after)
        found = await reading
        packets, invalid = event_packets(found)
        self.invalid += invalid
        return packets, found[-1][0] if found else after

    async def find_end(
        self, pipe: AsyncPipe, session: str, after: str, packets: list[EventPacket]
    ) -> CloseReason | None:
        # While text comes, the state is read only after a member's last text.
        if packets and not any(_completes_member(packet) for packet in packets):
            return None
        composed = await find_composed(pipe, session)
        if not composed.is_over or await read_events(pipe, session, after):
            return None
        return SESSION_ENDED

    def merge(self, packets: list[EventPacket]) -> EventPacket:
        return merged_event_packet(packets)


def _completes_member(packet: EventPacket) -> bool:
    return any(event.type == "token_stream" and _IS_COMPLETE in event.raw for event in packet.events)
