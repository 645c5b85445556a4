"""Interference, from numbers as frames show them: the slow way, from all earlier windows.

    a, of each window --shown_agreement()--> a --kind_of()--> shown for 18 windows --> interference
    energies --wave_of()--> amplified, dampened --and constructive for 48 windows--> resonance

Histories are lists with one item for each window; the last item is the window that is closed now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.frames import Compares, InterferenceKind

# In windows of 1/60 s: 500, 300 and 800 ms.
MEAN_WINDOWS = 30
KIND_WINDOWS = 18
RESONANCE_WINDOWS = 48


@dataclass(frozen=True)
class Wave:
    wave: float
    amplified: bool
    dampened: bool


def shown_agreement(measured: Sequence[tuple[float | None, Compares | None]]) -> float | None:
    """From each window's measured agreement and what it compares, up to now: rounded, as a frame shows it."""
    agreement, compares = measured[-1]
    if agreement is None or compares != "place":
        return None if agreement is None else round(agreement, 9)
    run: list[float] = []
    for earlier, compared in reversed(measured[-MEAN_WINDOWS:]):
        if earlier is None or compared != "place":
            break
        run.append(earlier)
    return round(math.fsum(run) / len(run), 9)


def wave_of(energy: float, energies: Sequence[float], agreement: float | None) -> Wave:
    """E (1 + k (2a - 1)), k = 0.5. `energies` are those of which E is the mean; every number is as shown."""
    if not energies:
        return Wave(0.0, False, False)
    raw = energy if agreement is None else round(energy * (1.0 + 0.5 * (2.0 * agreement - 1.0)), 9)
    plain_mean = math.fsum(energies) / len(energies)
    # With equal weights E is the mean: only more than ten roundings of a frame's numbers make a difference.
    return Wave(min(1.0, max(0.0, raw)), raw > max(energies) + 1e-8, raw < plain_mean - 1e-8)


def kind_of(agreement: float) -> InterferenceKind:
    if agreement >= 0.6:
        return "constructive"
    return "destructive" if agreement <= 0.4 else "neutral"


def shown_interference(before: InterferenceKind, agreements: Sequence[float | None]) -> InterferenceKind:
    """From what the window before shows ("neutral" for the first), and the agreement that each window up to now
    shows."""
    if agreements[-1] is None:
        return "neutral"
    kinds = [None if agreement is None else kind_of(agreement) for agreement in agreements[-KIND_WINDOWS:]]
    return kind_of(agreements[-1]) if kinds == [kinds[-1]] * KIND_WINDOWS else before


def resonates(shown: Sequence[tuple[InterferenceKind, bool]]) -> bool:
    """From the interference that each window up to now shows, and whether it is amplified."""
    recent = shown[-RESONANCE_WINDOWS:]
    return len(recent) == RESONANCE_WINDOWS and all(one == ("constructive", True) for one in recent)
