"""The payloads of events about several members: the field, the interference, the resonance. Pure.

frame --> interference_payload    the interference that stands; None where no members are compared
      --> Advances                how often the frontier moves: the frequency of a resonance
      --> field_payload           the kind of field, from the two above; its intensity, each member's coordinates
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.events import (
    ENSEMBLE,
    Coordinate,
    FieldPayload,
    FieldType,
    InterferencePayload,
    ResonancePayload,
)
from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ
from schemas.rules.interference import kind_of

# Smaller changes are not visible, and an energy that fades would be sent 60 times a second for twenty seconds.
_VISIBLE = 0.01
# A smaller move of the coherence is noise of single tokens: it would be sent with nearly every one.
_COHERENCE_STEP = 0.05
# A resonance begins in the last of so many windows of constructive and amplified interference (docs/maths.md).
_QUALIFYING_WINDOWS = 48


def field_payload(frame: Frame, interference: InterferencePayload | None, *, resonates: bool) -> FieldPayload:
    """The members' energies, in the members' order. The type is resonance or interference where that stands, else
    stream while several members run, else lightning."""
    kind, intensity = _field_type(frame, interference, resonates=resonates)
    return FieldPayload(kind, _clamped(intensity), _coordinates([m.energy for m in frame.members]), ENSEMBLE)


def last_field(members: int) -> FieldPayload:
    """The field after a session's end: no member runs, and all energies have decayed."""
    return FieldPayload("lightning", 0.0, _coordinates([0.0] * members), ENSEMBLE)


def _coordinates(energies: Sequence[float]) -> tuple[Coordinate, ...]:
    last = max(1, len(energies) - 1)
    return tuple(Coordinate(round(index / last, 9), energy, energy) for index, energy in enumerate(energies))


def _field_type(frame: Frame, interference: InterferencePayload | None, *, resonates: bool) -> tuple[FieldType, float]:
    if resonates:
        return "resonance", frame.interference.wave
    if interference is not None and interference.patternType != "neutral" and frame.measures.agreement is not None:
        return "interference", _intensity(frame.measures.agreement)
    running = sum(not member.ended for member in frame.members)
    return "stream" if running > 1 else "lightning", frame.energy


def has_changed(before: FieldPayload, now: FieldPayload) -> bool:
    """True where the change is visible."""
    if before.fieldType != now.fieldType or len(before.coordinates) != len(now.coordinates):
        return True
    pairs = [(one.y, other.y) for one, other in zip(before.coordinates, now.coordinates, strict=True)]
    return any(_distance(one, other) >= _VISIBLE for one, other in [(before.intensity, now.intensity), *pairs])


def _distance(one: float, other: float) -> float:
    """Rounded as the numbers of a frame: 0.29 is 0.01 above 0.28, and not less."""
    return round(abs(one - other), 9)


def participants(frame: Frame, names: tuple[str, ...]) -> tuple[str, ...]:
    """The protocol's ids of the members that are compared: those that write and have text past the frontier, which in a
    council that writes one answer may be a draft. In the final frame there are none."""
    x = frame.alignment.frontier_bytes
    if x is None or frame.final:
        return ()
    has_drafts = frame.consensus.agreed is not None
    return tuple(
        name
        for name, member in zip(names, frame.members, strict=True)
        if member.state in ("answering", "held")
        and (member.position_bytes > x or (has_drafts and member.buffered_tokens > 0))
    )


def interference_payload(
    frame: Frame, models: tuple[str, ...], before: InterferencePayload | None
) -> InterferencePayload | None:
    """How the members interfere: `before`, which was sent last, where that still holds, else a payload to send; None
    where fewer than two members are compared.

    A frame shows a kind for 300 ms longer than the agreement has it, and no number of such a frame is sent: pattern,
    intensity and coherence of a payload are those of one frame, whose agreement has the pattern that it shows.
    """
    agreement, kind = frame.measures.agreement, frame.interference.kind
    if agreement is None or len(models) < 2:
        return None
    if kind_of(agreement) != kind:
        return before if before is not None and before.patternType == kind else None
    now = InterferencePayload(kind, models, _intensity(agreement), agreement)
    return before if before is not None and _is_alike(before, now) else now


def _is_alike(before: InterferencePayload, now: InterferencePayload) -> bool:
    """A neutral pattern is the same whichever models are compared."""
    if before.patternType != now.patternType or (now.patternType != "neutral" and before.models != now.models):
        return False
    return _distance(before.coherenceScore, now.coherenceScore) < _COHERENCE_STEP


def _intensity(agreement: float) -> float:
    return _clamped(round(abs(2 * agreement - 1), 9))


def _clamped(share: float) -> float:
    return min(1.0, max(0.0, share))


class Advances(msgspec.Struct, array_like=True):
    """When the frontier moved: in which recent windows, and how often since the resonance began to build up."""

    frontier: int | None = None
    recent: list[int] = []
    since_window: int | None = None
    count: int = 0

    def add(self, frame: Frame) -> None:
        """The next frame."""
        window, x = frame.window_index, frame.alignment.frontier_bytes
        has_moved = x is not None and (self.frontier is None or x > self.frontier)
        self.frontier = x if x is not None else self.frontier
        first = window - _QUALIFYING_WINDOWS + 1
        self.recent = [at for at in self.recent if at >= first]
        if has_moved:
            self.recent.append(window)
        if not frame.interference.resonance:
            self.since_window = None
        elif self.since_window is None:
            self.since_window, self.count = max(0, first), len(self.recent)
        else:
            self.count += has_moved

    def resonance_payload(self, frame: Frame, models: tuple[str, ...]) -> ResonancePayload | None:
        """The resonance at the frame, which was added last; None without a resonance."""
        if self.since_window is None or len(models) < 2:
            return None
        seconds = (frame.window_index - self.since_window + 1) / FRAME_RATE_HZ
        amplitude = _clamped(frame.interference.wave)
        return ResonancePayload("fundamental", round(self.count / seconds, 9), amplitude, models)
