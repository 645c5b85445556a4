"""The energy of the ensemble: the weighted mean of its members' energies, and the weights of that mean."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

from aggregator.numbers.energy import EnergyMeter, clamp
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


def ensemble_energy(energies: Sequence[float], shares: Sequence[float]) -> float:
    """E = min(1, sum(g_m E_m) / sum(g_m)), in [0, 1], where `shares` are g_m / sum(g): scaling all weights changes
    nothing. Where these are all 0, for the weights sum to 0, so is E."""
    return clamp(sum(map(mul, shares, energies), 0.0))


def energy_shares(weights: Sequence[float]) -> list[float]:
    """g_m / sum(g), which sum to 1; all 0 where the weights sum to 0."""
    return normalised(weights) if sum(weights) > 0.0 else [0.0] * len(weights)


def normalised(weights: Sequence[float]) -> list[float]:
    """w_m = g_m / sum(g); equal shares where the weights sum to 0."""
    total = sum(weights)
    if total <= 0.0:
        return [1.0 / len(weights)] * len(weights)
    return [weight / total for weight in weights]
