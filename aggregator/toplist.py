"""A token's list of the most probable pieces, read."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from schemas.entries import unpack_top


class TopList(msgspec.Struct, frozen=True, gc=False):
    """The probability in [0, 1] of each listed piece, as it was sent: their `total` may be above 1. Entries of one
    piece have been added up where it `has_doubles`."""

    probabilities: dict[bytes, float]
    total: float = 0.0
    has_doubles: bool = False


NOTHING_LISTED = TopList({})


def read_top(top: msgspec.Raw) -> TopList:
    """A packed list, less the entries that are no number. A logprob above 0 is a server's rounding, and counts as 0."""
    pairs = unpack_top(top)
    if not pairs:
        return NOTHING_LISTED
    pieces, logprobs = zip(*pairs, strict=True)
    if max(logprobs) > 0.0:
        logprobs = tuple(min(logprob, 0.0) for logprob in logprobs)
    listed = dict(zip(pieces, map(math.exp, logprobs), strict=True))
    has_doubles = len(listed) < len(pieces)
    if has_doubles:
        listed = added_up(zip(pieces, map(math.exp, logprobs), strict=True))
    return TopList(listed, sum(listed.values()), has_doubles)


def added_up(entries: Iterable[tuple[bytes, float]]) -> dict[bytes, float]:
    """Pieces with their probabilities, those of one piece added up."""
    added: dict[bytes, float] = {}
    for piece, p in entries:
        added[piece] = added.get(piece, 0.0) + p
    return added
