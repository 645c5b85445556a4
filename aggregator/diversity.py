"""The diversity index: how far the council is from agreeing on one next piece.

    p_m(b)   member m's probability of the piece b: its top list, plus the sampled token where the list lacks it
    P(b)     sum of w_m p_m(b)
    DI       1 - max P(b), in [0, 1]

What a list leaves out is never renormalised away: DI is an upper bound of the true index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from schemas.entries import Token, unpack_top

# The spec's graceful fallback, where a member's logprobs were not measured.
FALLBACK = 0.5
_WHITE_SPACE = b" \t\n\r\x0b\x0c"


def leading_space_dropped(data: bytes) -> bytes:
    """`data` from its first byte that is not ASCII white space: positions in an answer count from there."""
    return data.lstrip(_WHITE_SPACE)


def piece_probabilities(token: Token, *, first: bool) -> dict[bytes, float]:
    """p_m: probability by piece, summing to at most 1. `first`: the token is at position 0, where leading space is
    dropped.

    Entries that map to one piece add up; a list that sums above 1 is divided by its sum.
    """
    probabilities: dict[bytes, float] = {}
    for piece, logprob in unpack_top(token.top):
        key = leading_space_dropped(piece) if first else piece
        probabilities[key] = probabilities.get(key, 0.0) + math.exp(min(logprob, 0.0))
    sampled = token.piece or token.text.encode()
    sampled = leading_space_dropped(sampled) if first else sampled
    if sampled not in probabilities and token.logprob is not None and not math.isnan(token.logprob):
        probabilities[sampled] = math.exp(min(token.logprob, 0.0))
    total = sum(probabilities.values())
    if total > 1.0:
        return {piece: p / total for piece, p in probabilities.items()}
    return probabilities


def diversity_index(distributions: Sequence[dict[bytes, float]], weights: Sequence[float]) -> float:
    """DI = 1 - max_b sum(w_m p_m(b)), in [0, 1]. The weights sum to 1, one for each distribution."""
    mixture: dict[bytes, float] = {}
    for distribution, weight in zip(distributions, weights, strict=True):
        for piece, p in distribution.items():
            mixture[piece] = mixture.get(piece, 0.0) + weight * p
    return min(1.0, max(0.0, 1.0 - max(mixture.values(), default=0.0)))
