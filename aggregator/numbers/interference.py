"""Interference: agreement raises the wave above the members' energies, disagreement lowers it below them.

    wave        E (1 + k (2a - 1)), k = 0.5     E the ensemble's energy, a the agreement; for drawing
    amplified   wave > max E_m                  the spec's amplification; E is a mean and cannot exceed every E_m
    dampened    wave < mean E_m                 the spec's dampening
    kind        constructive a >= 0.6, destructive a <= 0.4, else neutral

    kind now     n n c c c n c c c ... c c c c d d ... d d
    shown        n n n n n n n n n ... n c c c c c ... c d        a new kind is shown in its 18th window without a break
    resonance                                ^ from the 48th window of constructive and amplified, until either ends

All of it is computed from numbers as a frame shows them, so that it can be checked from the frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.numbers.arithmetic import clamp, plain_sum
from schemas.frames import Compares, InterferenceFrame, InterferenceKind
from schemas.rules.interference import kind_of

GAIN = 0.5
# Ten times the rounding of a frame's numbers: with equal weights E is the mean of all E_m, and not less.
_NOTICEABLE = 1e-8
# 300 ms: a kind that lasts for single tokens only is noise.
KIND_WINDOWS = 18
# 800 ms.
RESONANCE_WINDOWS = 48
# 500 ms: after members parted, single tokens agree by chance.
MEAN_WINDOWS = 30


class Interference(msgspec.Struct, array_like=True):
    """What the next windows depend on. `agreements` are those of the windows over which the mean is taken."""

    shown: InterferenceKind = "neutral"
    rising: InterferenceKind = "neutral"
    rising_windows: int = 0
    resonant_windows: int = 0
    agreements: list[float] = []

    def shown_agreement(self, agreement: float | None, compares: Compares | None) -> float | None:
        """The agreement in [0, 1] that this window shows: the measured one, or after the members parted its mean over
        the last 500 ms. None where it was not measured."""
        if agreement is None or compares != "place":
            self.agreements.clear()
            return None if agreement is None else round(agreement, 9)
        recent = self.agreements
        recent.append(agreement)
        if len(recent) > MEAN_WINDOWS:
            del recent[0]
        return round(plain_sum(recent) / len(recent), 9)

    def step(self, energy: float, energies: Sequence[float], agreement: float | None) -> InterferenceFrame:
        """Takes in a window: the ensemble's energy, the energies that it is the mean of, and the agreement, all as
        frames show them. The wave is compared before it is clamped."""
        height = wave_of(energy, agreement)
        amplified = bool(energies) and height > max(energies) + _NOTICEABLE
        dampened = bool(energies) and height < plain_sum(energies) / len(energies) - _NOTICEABLE
        self._take(kind_of(agreement))
        is_resonant = self.shown == "constructive" and amplified
        self.resonant_windows = min(self.resonant_windows + 1, RESONANCE_WINDOWS) if is_resonant else 0
        resonance = self.resonant_windows == RESONANCE_WINDOWS
        return InterferenceFrame(clamp(height), amplified, dampened, self.shown, resonance)

    def _take(self, kind: InterferenceKind | None) -> None:
        if kind is None or kind == self.shown:
            self.shown, self.rising_windows = kind or "neutral", 0
            return
        self.rising_windows = self.rising_windows + 1 if kind == self.rising else 1
        self.rising = kind
        if self.rising_windows == KIND_WINDOWS:
            self.shown, self.rising_windows = kind, 0


def wave_of(energy: float, agreement: float | None) -> float:
    """E (1 + k (2a - 1)), in [0, 1.5], rounded as in frames; E without an agreement."""
    return energy if agreement is None else round(energy * (1.0 + GAIN * (2.0 * agreement - 1.0)), 9)
