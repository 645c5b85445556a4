"""The payloads of events about several members: the field, the interference, the resonance. Pure.

frame --> field_payload           the kind of field, its intensity, each member's coordinates
      --> interference_payload    None where no members are compared
      --> Advances                how often the frontier moves: the frequency of a resonance
"""

from __future__ import annotations

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

# Smaller changes are not visible, and an energy that fades would be sent 60 times a second for twenty seconds.
_VISIBLE = 0.01
# A resonance begins in the last of so many windows of constructive and amplified interference (docs/maths.md).
_QUALIFYING_WINDOWS = 48


def field_payload(frame: Frame) -> FieldPayload:
    """The members' energies, with x by their order. The type is resonance or interference where there is one, else
    stream while several members run, else lightning."""
    kind, intensity = _field_type(frame)
    last = max(1, len(frame.members) - 1)
    coordinates = tuple(
        Coordinate(round(index / last, 9), member.energy, member.energy) for index, member in enumerate(frame.members)
    )
    return FieldPayload(kind, _clamped(intensity), coordinates, ENSEMBLE)


def _field_type(frame: Frame) -> tuple[FieldType, float]:
    if frame.interference.resonance:
        return "resonance", frame.interference.wave
    if frame.interference.kind != "neutral" and frame.measures.agreement is not None:
        return "interference", _intensity(frame.measures.agreement)
    running = sum(not member.ended for member in frame.members)
    return "stream" if running > 1 else "lightning", frame.energy


def has_changed(before: FieldPayload | None, now: FieldPayload) -> bool:
    """True where the change is visible."""
    if before is None or before.fieldType != now.fieldType or len(before.coordinates) != len(now.coordinates):
        return True
    pairs = [(one.y, other.y) for one, other in zip(before.coordinates, now.coordinates, strict=True)]
    return any(abs(one - other) >= _VISIBLE for one, other in [(before.intensity, now.intensity), *pairs])


def participants(frame: Frame, names: tuple[str, ...]) -> tuple[str, ...]:
    """The protocol's ids of the members that are compared: those that write and have text past the frontier."""
    x = frame.alignment.frontier_bytes
    if x is None:
        return ()
    return tuple(
        name
        for name, member in zip(names, frame.members, strict=True)
        if member.state in ("answering", "held") and member.position_bytes > x
    )


def interference_payload(frame: Frame, models: tuple[str, ...]) -> InterferencePayload | None:
    """How the members interfere; None where fewer than two are compared."""
    agreement = frame.measures.agreement
    if agreement is None or len(models) < 2:
        return None
    return InterferencePayload(frame.interference.kind, models, _intensity(agreement), agreement)


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
