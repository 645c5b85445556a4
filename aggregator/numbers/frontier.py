"""The frontier: the position in the answers up to which they can be compared.

Positions are byte offsets in each member's own answer. The members concerned are the stepping set in step mode and the
running members in free mode, of either those whose released text reaches past x. The new x is the largest start of a
token of any of them that lies before the end of every one's text:

    member 0   |The|  sky| is| blue| and|                 x
    member 1   |The sky|  is|  gr                         |
    member 2   |A|    clear|                     aligned: the token of each that covers x

x never falls. The measures are computed when x or the set of aligned members changes, and hold in between.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import msgspec


class UnalignedToken(msgspec.Struct, frozen=True, gc=False):
    """An accepted token of an answer that the frontier has not passed: bytes [start, end). Its proposal is in
    aggregator/core/proposal_cache.py."""

    start: int
    end: int
    entry_id: str
    arrival_ns: int


class UnalignedTokens(msgspec.Struct, array_like=True):
    """A member's unaligned tokens in order, as columns. Each begins where the one before it ends; the last one ends at
    `end`."""

    starts: list[int] = []
    entry_ids: list[str] = []
    arrivals_ns: list[int] = []
    end: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def append(self, token: UnalignedToken) -> None:
        """Adds the token that begins where the last one ended."""
        self.starts.append(token.start)
        self.entry_ids.append(token.entry_id)
        self.arrivals_ns.append(token.arrival_ns)
        self.end = token.end

    def start_before(self, end: int) -> int | None:
        """The largest start below `end`; None where every token starts at or after it."""
        index = bisect_left(self.starts, end) - 1
        return self.starts[index] if index >= 0 else None

    def index_at(self, x: int) -> int | None:
        """The index of the token that covers the byte x; None where it was forgotten."""
        after = bisect_right(self.starts, x)
        return after - 1 if after and x < self.end else None

    def bounds(self, index: int) -> tuple[int, int]:
        """[start, end) of a token."""
        after = index + 1
        return self.starts[index], self.starts[after] if after < len(self.starts) else self.end

    def passed(self, x: int) -> int:
        """How many tokens, from the first on, end at or before x: no later frontier needs them."""
        after = bisect_right(self.starts, x)
        return after - 1 if after and x < self.end else after

    def forget(self, count: int) -> list[str]:
        """Removes the first `count` tokens; returns their entries' ids."""
        forgotten = self.entry_ids[:count]
        if forgotten:
            del self.starts[:count], self.entry_ids[:count], self.arrivals_ns[:count]
        return forgotten


def frontier_of(members: Iterable[tuple[UnalignedTokens, int]], x: int | None) -> int | None:
    """The new x, at least the old one, for members with these tokens and these ends of their released text; None while
    no token starts before the end of every member's text."""
    concerned = list(members)
    end = min((position for _, position in concerned), default=0)
    for unaligned, _ in concerned:
        start = unaligned.start_before(end)
        if start is not None and (x is None or start > x):
            x = start
    return x
