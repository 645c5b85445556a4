"""The current state of a session as protocol messages, for a client of `/ws` that connects or reconnects. Pure.

current_events   DECIPHER's last energy, field, interference and resonance, as of the newest composed frame
error_events     the session's errors, or those after the client's last frame
text_events      each member's whole text, or that of the council; for a client that reconnects, the text released since
                 its last frame
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from consumers.web.live.merging import stamped
from consumers.web.live.packets import composed_event
from schemas.events import (
    ENSEMBLE,
    EnergyField,
    EnergyUpdate,
    Event,
    InterferenceEvent,
    ResonanceEvent,
    SentError,
    TokenStream,
    TokenStreamPayload,
    protocol_model_ids,
)
from schemas.frames import Frame
from schemas.grid import NS_PER_MS


def current_events(standing: Mapping[str, bytes]) -> list[Event]:
    """The events that still hold, as events of the newest energy_update's frame. Raises Malformed."""
    events = [composed_event(raw) for raw in standing.values()]
    energy = next((event for event in events if isinstance(event, EnergyUpdate)), None)
    if energy is None:
        return []
    # The change and the tokens of that frame were sent before: nothing was generated since.
    energy = msgspec.structs.replace(
        energy, payload=msgspec.structs.replace(energy.payload, deltaEnergy=0.0, tokensGenerated=0)
    )
    states = {type(e): e for e in events if isinstance(e, EnergyField | InterferenceEvent | ResonanceEvent)}
    order = (EnergyField, InterferenceEvent, ResonanceEvent)
    return [energy, *(stamped(states[kind], energy) for kind in order if kind in states)]


def error_events(errors: Iterable[SentError], known: int) -> list[Event]:
    """The errors of windows after `known`, with the times at which they were first sent. Raises Malformed."""
    return [composed_event(error.raw) for error in errors if error.window > known]


def text_events(
    frame: Frame,
    origin_ns: int,
    texts: Sequence[str],
    known: Frame | None = None,
    known_texts: Sequence[str] = (),
) -> list[Event]:
    """The members' texts up to the frame, for a client that has the text up to the frame `known` without that. Of a
    council that writes one answer, its text and the members' ends."""
    timestamp = (origin_ns + frame.end_ns) // NS_PER_MS
    names = protocol_model_ids(tuple(member.display_name for member in frame.members))
    ended = [member.ended for member in frame.members]
    had_ended = [member.ended for member in known.members] if known else [False] * len(ended)
    had = list(known_texts) if known else [""] * len(ended)
    parts = [(name, text[len(before) :]) for name, text, before in zip(names, texts, had, strict=True)]
    if frame.consensus.agreed is not None:
        parts = [(ENSEMBLE, max(texts, key=len)[len(max(had, key=len)) :]), *((name, "") for name in names)]
        ended, had_ended = [frame.final, *ended], [known is not None and known.final, *had_ended]
    return [
        TokenStream(timestamp, TokenStreamPayload((text,) if text else (), now, frame.session, name))
        for (name, text), now, before in zip(parts, ended, had_ended, strict=True)
        if text or (now and not before)
    ]
