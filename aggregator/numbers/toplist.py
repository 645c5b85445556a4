"""Reading a token's list of the most probable pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import mul

import msgspec

from aggregator.numbers.arithmetic import plain_sum
from schemas.entries import unpack_sent, unpack_top


class TopList(msgspec.Struct, frozen=True, gc=False):
    """The probability in [0, 1] of each listed piece, as it was sent; `total` is their sum, which may be above 1.

    Entries of one piece have been added up where it `has_doubles`. `entropy_terms` is sum p ln p over the pieces.
    """

    probabilities: dict[bytes, float]
    total: float = 0.0
    entropy_terms: float = 0.0
    has_doubles: bool = False


NOTHING_LISTED = TopList({})


def read_top(top: msgspec.Raw) -> TopList:
    """Reads a packed list, without the entries whose logprob is not a number. A logprob above 0 is a server's rounding
    and counts as 0."""
    pairs = unpack_sent(top)
    if not pairs:
        return NOTHING_LISTED
    pieces, logprobs = zip(*pairs, strict=True)
    try:
        if max(logprobs) <= 0.0:
            probabilities = list(map(math.exp, logprobs))
            terms = plain_sum(map(mul, probabilities, logprobs))
            listed = dict(zip(pieces, probabilities, strict=True))
            # NaN and minus infinity both make the sum of the terms NaN.
            if terms == terms and len(listed) == len(pieces):
                return TopList(listed, plain_sum(probabilities), terms)
    except TypeError:  # a logprob is None
        pass
    return _odd_list(unpack_top(top))


def _odd_list(pairs: list[tuple[bytes, float]]) -> TopList:
    """A list with doubles, or with numbers that are not valid logprobs."""
    listed = added_up((piece, math.exp(min(logprob, 0.0))) for piece, logprob in pairs)
    terms = plain_sum([p * math.log(p) for p in listed.values() if p])
    return TopList(listed, plain_sum(listed.values()), terms, len(listed) < len(pairs))


def added_up(entries: Iterable[tuple[bytes, float]]) -> dict[bytes, float]:
    """Each piece with the sum of its probabilities."""
    added: dict[bytes, float] = {}
    for piece, p in entries:
        added[piece] = added.get(piece, 0.0) + p
    return added
