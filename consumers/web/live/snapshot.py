"""What is true of a session now, as protocol messages: for a client of `/ws` that comes, or comes back. Pure.

standing     what DECIPHER last said of energy, field, interference and resonance, as of the newest composed frame
texts        each member's whole text so far; for one that comes back, what was released since the frame it knows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from consumers.web.live.merging import stamped
from consumers.web.live.packets import composed_event
from schemas.events import (
    EnergyField,
    EnergyUpdate,
    Event,
    InterferenceEvent,
    ResonanceEvent,
    TokenStream,
    TokenStreamPayload,
    protocol_model_ids,
)
from schemas.frames import Frame
from schemas.grid import NS_PER_MS


def standing_events(standing: Mapping[str, bytes]) -> list[Event]:
    """The events that stand, as the newest energy_update's frame would say them. Raises Malformed."""
    events = [composed_event(raw) for raw in standing.values()]
    energy = next((event for event in events if isinstance(event, EnergyUpdate)), None)
    if energy is None:
        return []
    # What a change is told of was told already: nothing was generated since.
    energy = msgspec.structs.replace(
        energy, payload=msgspec.structs.replace(energy.payload, deltaEnergy=0.0, tokensGenerated=0)
    )
    states = {type(e): e for e in events if isinstance(e, EnergyField | InterferenceEvent | ResonanceEvent)}
    order = (EnergyField, InterferenceEvent, ResonanceEvent)
    return [energy, *(stamped(states[kind], energy) for kind in order if kind in states)]


def text_events(
    frame: Frame,
    origin_ns: int,
    texts: Sequence[str],
    known: Frame | None = None,
    known_texts: Sequence[str] = (),
) -> list[Event]:
    """What the members have said up to the frame: less what a client has who knows all up to the frame `known`."""
    timestamp = (origin_ns + frame.end_ns) // NS_PER_MS
    names = protocol_model_ids(tuple(member.display_name for member in frame.members))
    events: list[Event] = []
    for index, member in enumerate(frame.members):
        text = texts[index][len(known_texts[index]) :] if known else texts[index]
        is_complete = member.ended
        is_news = is_complete and not (known and known.members[index].ended)
        if text or is_news:
            tokens = (text,) if text else ()
            events.append(TokenStream(timestamp, TokenStreamPayload(tokens, is_complete, frame.session, names[index])))
    return events
