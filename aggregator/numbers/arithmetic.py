"""Sums and bounds of floats, with the same bits on every Python."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

if sys.version_info >= (3, 12):

    def plain_sum(numbers: Iterable[float]) -> float:
        """The numbers added from left to right. sum() compensates for rounding since Python 3.12, which may change the
        last digit: frames would depend on the interpreter."""
        total = 0.0
        for number in numbers:
            total += number
        return total

else:

    def plain_sum(numbers: Iterable[float]) -> float:
        """The numbers added from left to right, as sum() does it here: in half the time of a loop."""
        return sum(numbers, 0.0)


def clamp(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """`value`, or the bound that it passes."""
    return low if value < low else high if value > high else value


def normalised(weights: Sequence[float]) -> list[float]:
    """w_m = g_m / sum(g); equal shares where the weights sum to 0."""
    total = plain_sum(weights)
    if total <= 0.0:
        return [1.0 / len(weights)] * len(weights)
    return [weight / total for weight in weights]
