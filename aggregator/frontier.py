"""The frontier: the place in the answers up to which they can be compared.

Positions are byte offsets in each member's own answer. In free mode the members concerned are the running ones whose
released text reaches past x; x is the largest start of a token of any of them that lies before the end of every one's
text:

    member 0   |The|  sky| is| blue| and|                 x
    member 1   |The sky|  is|  gr                         |
    member 2   |A|    clear|                     aligned: the token of each that covers x

x never falls. Metrics are taken when x or the set of aligned members changes, and hold in between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

import msgspec


class Kept(msgspec.Struct, array_like=True, gc=False):
    """A released token of an answer that the frontier has not passed: bytes [start, end). Its content is kept
    elsewhere."""

    start: int
    end: int
    entry_id: str
    released_window: int
    arrival_ns: int


def frontier_of(kept: Mapping[int, list[Kept]], position: Mapping[int, int], x: int | None) -> int | None:
    """The new x (>= the old one) for the members in `kept`, whose released text ends at `position`; None while there
    is none."""
    if not kept:
        return x
    end = min(position[member] for member in kept)
    best = x
    for tokens in kept.values():
        index = bisect_left(tokens, end, key=_start) - 1
        if index >= 0 and (best is None or tokens[index].start > best):
            best = tokens[index].start
    return best


def token_at(tokens: list[Kept], x: int) -> Kept | None:
    """The token that covers the byte x; None where it is no longer kept."""
    index = bisect_right(tokens, x, key=_start) - 1
    return tokens[index] if index >= 0 and x < tokens[index].end else None


def passed(tokens: list[Kept], x: int) -> int:
    """How many of the tokens, from the first on, end at or before x: no later frontier needs them."""
    return bisect_right(tokens, x, key=_end)


def _start(token: Kept) -> int:
    return token.start


def _end(token: Kept) -> int:
    return token.end
