"""Merging for slow clients: one frame, or the events of one frame, in place of those that a client missed. Pure.

    frames   10 "The"   11 " sky"   12 ""   13 " is"        the newest frame, with the text of all:
    merged                                  13 "The sky is"

Numbers are the newest frame's; text is never lost; counts of a single window (tokens, late entries) are added up. Of a
council that writes one answer, decisions that touch and did not decide a parting are joined.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.events import (
    EnergyField,
    EnergyUpdate,
    ErrorEvent,
    Event,
    FieldType,
    InterferenceEvent,
    ResonanceEvent,
    TokenStream,
)
from schemas.frames import ConsensusFrame, Frame, MemberFrame, WindowCounts
from schemas.rules.partings import joined_decisions

# A merged packet keeps so many different errors; a client that is not slow receives all of them.
_MOST_ERRORS = 32


def merged_frame(frames: Sequence[Frame]) -> Frame:
    """The newest of the frames, given oldest first, with the text, the tokens and the counts of all of them."""
    if len(frames) == 1:
        return frames[0]
    newest = frames[-1]
    return msgspec.structs.replace(
        newest,
        members=tuple(
            _merged_member([frame.members[index] for frame in frames]) for index in range(len(newest.members))
        ),
        tokens=tuple(token for frame in frames for token in frame.tokens),
        counts=WindowCounts(
            late=sum(frame.counts.late for frame in frames),
            duplicates=sum(frame.counts.duplicates for frame in frames),
            dead_letters=sum(frame.counts.dead_letters for frame in frames),
            superseded=sum(frame.counts.superseded for frame in frames),
        ),
        consensus=_merged_consensus([frame.consensus for frame in frames]),
    )


def _merged_consensus(shown: Sequence[ConsensusFrame]) -> ConsensusFrame:
    newest = shown[-1]
    if newest.agreed is None:
        return newest
    agreed = "".join(one.agreed or "" for one in shown)
    decisions = joined_decisions([found for one in shown for found in one.decisions or ()])
    mixture = tuple([span for one in shown for span in one.mixture or ()])
    return ConsensusFrame(agreed, decisions, None if newest.mixture is None else mixture)


def _merged_member(shown: Sequence[MemberFrame]) -> MemberFrame:
    text = "".join(member.text for member in shown)
    thinking = "".join(member.thinking for member in shown)
    newest = shown[-1]
    if text == newest.text and thinking == newest.thinking:
        return newest
    return msgspec.structs.replace(newest, text=text, thinking=thinking)


def merged_events(events: Sequence[Event]) -> list[Event]:
    """The events of several frames, given in order, as those of the newest frame.

    These are: its energy with the tokens and the change of all frames, the last field, the last interference and
    resonance that have not ended, each member's text of all frames, and the errors, of equal ones the last.
    """
    merged = _Merged()
    for event in events:
        merged.add(event)
    return merged.as_events()


class _Merged:
    """The events that were added so far."""

    def __init__(self) -> None:
        self._energy: EnergyUpdate | None = None
        self._states: dict[type, EnergyField | InterferenceEvent | ResonanceEvent] = {}
        self._texts: dict[str, TokenStream] = {}
        self._errors: dict[tuple[str, str], ErrorEvent] = {}

    def add(self, event: Event) -> None:
        match event:
            case EnergyUpdate():
                self._energy = _added(self._energy, event)
            case EnergyField() | InterferenceEvent() | ResonanceEvent():
                self._states[type(event)] = event
                if isinstance(event, EnergyField):
                    self._end(event.payload.fieldType)
            case TokenStream():
                self._texts[event.payload.modelId] = _joined(self._texts.get(event.payload.modelId), event)
            case ErrorEvent():
                key = (event.payload.code, event.payload.message)
                self._errors.pop(key, None)
                self._errors[key] = event
                while len(self._errors) > _MOST_ERRORS:
                    del self._errors[next(iter(self._errors))]

    def _end(self, field_type: FieldType) -> None:
        """Leaves out the resonance, and the interference, that end with a field of this type."""
        if field_type != "resonance":
            self._states.pop(ResonanceEvent, None)
        interference = self._states.get(InterferenceEvent)
        if field_type not in ("resonance", "interference") and _interferes(interference):
            del self._states[InterferenceEvent]

    def as_events(self) -> list[Event]:
        states = [
            self._states[kind] for kind in (EnergyField, InterferenceEvent, ResonanceEvent) if kind in self._states
        ]
        if self._energy is None:
            return [*states, *self._texts.values(), *self._errors.values()]
        return [
            self._energy,
            *(stamped(state, self._energy) for state in states),
            *(msgspec.structs.replace(text, timestamp=self._energy.timestamp) for text in self._texts.values()),
            *self._errors.values(),
        ]


def _interferes(event: Event | None) -> bool:
    return isinstance(event, InterferenceEvent) and event.payload.patternType != "neutral"


def stamped(
    state: EnergyField | InterferenceEvent | ResonanceEvent, energy: EnergyUpdate
) -> EnergyField | InterferenceEvent | ResonanceEvent:
    """An event of an earlier frame that still holds, with this frame's time and number: frame numbers never fall."""
    return msgspec.structs.replace(state, timestamp=energy.timestamp, frameNumber=energy.frameNumber)


def _added(before: EnergyUpdate | None, event: EnergyUpdate) -> EnergyUpdate:
    if before is None:
        return event
    payload = msgspec.structs.replace(
        event.payload,
        deltaEnergy=round(before.payload.deltaEnergy + event.payload.deltaEnergy, 9),
        tokensGenerated=before.payload.tokensGenerated + event.payload.tokensGenerated,
    )
    return msgspec.structs.replace(event, payload=payload)


def _joined(before: TokenStream | None, event: TokenStream) -> TokenStream:
    if before is None:
        return event
    payload = msgspec.structs.replace(
        event.payload,
        tokens=before.payload.tokens + event.payload.tokens,
        isComplete=before.payload.isComplete or event.payload.isComplete,
    )
    return msgspec.structs.replace(event, payload=payload)
