"""The energy of the ensemble: the weighted mean of its members' energies."""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.energy import clamp
from schemas.frames import MemberFrame


def ensemble_energy(energies: Sequence[float], weights: Sequence[float]) -> float:
    """E = min(1, sum(g_m E_m) / sum(g_m)), in [0, 1]; 0 where the weights sum to 0. Scaling all weights changes
    nothing."""
    total = sum(weights)
    if total <= 0.0:
        return 0.0
    return clamp(sum(weight * energy for weight, energy in zip(weights, energies, strict=True)) / total)


def energy_of_members(members: Sequence[MemberFrame], weights: Sequence[float]) -> float:
    """E over the running members; once none runs, over those that finished."""
    running = [i for i, member in enumerate(members) if member.state not in ("finished", "dropped")]
    counted = running or [i for i, member in enumerate(members) if member.state == "finished"]
    return ensemble_energy([members[i].energy for i in counted], [weights[i] for i in counted])


def normalised(weights: Sequence[float]) -> list[float]:
    """w_m = g_m / sum(g); equal shares where the weights sum to 0."""
    total = sum(weights)
    if total <= 0.0:
        return [1.0 / len(weights)] * len(weights)
    return [weight / total for weight in weights]
