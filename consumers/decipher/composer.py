"""The composer: one frame in, its events out. Pure: what a frame cannot tell is not said.

    frame --> energy_update (the ensemble, always), token_stream for each member that said something or is complete

Only the frame before is remembered, for the change of energy, and only to tell what has just ended.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from schemas.events import (
    EnergyPayload,
    EnergyUpdate,
    Event,
    TokenStream,
    TokenStreamPayload,
    protocol_model_ids,
)
from schemas.frames import Frame
from schemas.grid import NS_PER_MS, window_index_at

ENSEMBLE = "ensemble"
_FRAME_MS = 16.67


class Composer:
    """The events of one session, frame by frame. `previous` is the last frame that was composed before, if any."""

    def __init__(self, origin_ns: int, previous: Frame | None = None) -> None:
        self._origin_ns = origin_ns
        self._previous = previous

    def compose(self, frame: Frame, elapsed_ms: Callable[[], float]) -> list[Event]:
        """The frame's events in order; `elapsed_ms` tells what the frame has taken so far, shown clamped to its
        budget."""
        at_ns = self._origin_ns + frame.end_ns
        timestamp = at_ns // NS_PER_MS
        before = self._previous.energy if self._previous else 0.0
        events: list[Event] = []
        names = protocol_model_ids(tuple(member.model for member in frame.members))
        for index, member in enumerate(frame.members):
            is_complete = member.state in ("finished", "dropped")
            was_complete = self._previous is not None and self._previous.members[index].state in ("finished", "dropped")
            if member.text or (is_complete and not was_complete):
                texts = (member.text,) if member.text else ()
                payload = TokenStreamPayload(texts, is_complete, frame.session, names[index])
                events.append(TokenStream(timestamp, payload))
        self._previous = frame
        energy = EnergyPayload(
            totalEnergy=frame.energy,
            deltaEnergy=round(frame.energy - before, 9),
            tokensGenerated=len(frame.tokens),
            processingTime=round(min(max(elapsed_ms(), 0.0), _FRAME_MS), 3),
            modelId=ENSEMBLE,
        )
        number = window_index_at(self._origin_ns + frame.start_ns)
        return [EnergyUpdate(timestamp, number, energy), *events]


def encode_event(event: Event) -> bytes:
    """The event as one JSON object."""
    return msgspec.json.encode(event)
