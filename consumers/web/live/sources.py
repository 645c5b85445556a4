"""Where packets come from: a session's frames, and the events that DECIPHER composed of them."""

from __future__ import annotations

from consumers.web.live.feeds import Reading, Source
from consumers.web.live.packets import (
    EventPacket,
    FramePacket,
    event_packets,
    merged_event_packet,
    merged_frame_packet,
)
from consumers.web.live.viewers import Goodbye
from schemas.keys import entry_order
from transport.events import find_composed, read_events, wait_for_events
from transport.frames import read_frames, wait_for_frames
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import find_session

_IS_COMPLETE = b'"isComplete":true'
ENDED = Goodbye(1000, "The session has ended.")


class Frames(Source[FramePacket]):
    """The frames stream: it ends with the final frame."""

    async def read(self, pipe: BlockingPipe, session: str, after: str, block_ms: int | None) -> Reading[FramePacket]:
        reading = wait_for_frames(pipe, session, after, block_ms) if block_ms else read_frames(pipe, session, after)
        found = await reading
        packets = [FramePacket(entry_order(entry_id)[0] - 1, raw) for entry_id, raw in found]
        is_over = bool(packets) and packets[-1].frame.final
        return Reading(packets, found[-1][0] if found else after, ENDED if is_over else None)

    async def look(self, pipe: AsyncPipe, session: str, after: str) -> Goodbye | None:
        """A session that could not be computed ends in its state only."""
        state = await find_session(pipe, session)
        if state.status == "open" or await read_frames(pipe, session, after):
            # What came between the read and the look is read next.
            return None
        return Goodbye(1011, state.reason) if state.reason else ENDED

    def merge(self, packets: list[FramePacket]) -> FramePacket:
        return merged_frame_packet(packets)


class Events(Source[EventPacket]):
    """The events stream: it ends when all is composed. `strange` counts entries that are no events."""

    strange = 0

    async def read(self, pipe: BlockingPipe, session: str, after: str, block_ms: int | None) -> Reading[EventPacket]:
        events = wait_for_events(pipe, session, after, block_ms) if block_ms else read_events(pipe, session, after)
        found = await events
        packets, strange = event_packets(found)
        self.strange += strange
        reading = Reading(packets, found[-1][0] if found else after)
        if any(_may_be_the_last(packet) for packet in packets):
            reading.goodbye = await self.look(pipe, session, reading.after)
        return reading

    async def look(self, pipe: AsyncPipe, session: str, after: str) -> Goodbye | None:
        composed = await find_composed(pipe, session)
        if not composed.is_over or await read_events(pipe, session, after):
            return None
        return ENDED

    def merge(self, packets: list[EventPacket]) -> EventPacket:
        return merged_event_packet(packets)


def _may_be_the_last(packet: EventPacket) -> bool:
    """After a member's last words it is worth a look whether that was all."""
    return any(one.type == "token_stream" and _IS_COMPLETE in one.raw for one in packet.said)
