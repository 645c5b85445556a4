"""The energy of the ensemble: the weighted mean of its members' energies, and the weights of that mean."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

from aggregator.energy import EnergyMeter, clamp
from schemas.sessions import Opening

# What a member's certainty counts as a weight before it was ever measured.
_UNKNOWN_CERTAINTY = 0.5


def confidence_weights(opening: Opening, meters: Sequence[EnergyMeter]) -> list[float]:
    """g_m >= 0: the session's weights, or with `weighting: certainty` those times the members' smoothed certainty."""
    weights = [member.weight for member in opening.members]
    if opening.weighting == "fixed":
        return weights
    certainties = (meter.smoothed_certainty for meter in meters)
    return [g * (_UNKNOWN_CERTAINTY if c is None else c) for g, c in zip(weights, certainties, strict=True)]


def ensemble_energy(energies: Sequence[float], weights: Sequence[float]) -> float:
    """E = min(1, sum(g_m E_m) / sum(g_m)), in [0, 1]; 0 where the weights sum to 0. Scaling all weights changes
    nothing."""
    total = sum(weights)
    if total <= 0.0:
        return 0.0
    # Divided first: the product of the smallest weight and an energy would be 0.
    return clamp(sum(map(mul, [weight / total for weight in weights], energies)))


def normalised(weights: Sequence[float]) -> list[float]:
    """w_m = g_m / sum(g); equal shares where the weights sum to 0."""
    total = sum(weights)
    if total <= 0.0:
        return [1.0 / len(weights)] * len(weights)
    return [weight / total for weight in weights]
