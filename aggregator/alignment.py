"""What the members say at the frontier, measured when it moves or when others stand at it, and held in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from aggregator.diversity import FALLBACK, diversity_index, piece_probabilities
from aggregator.ensemble import normalised
from aggregator.frontier import Kept, frontier_of, token_at
from aggregator.member import MemberRecord
from schemas.entries import Token
from schemas.grid import NS_PER_MS, window_start_ns


class Alignment(msgspec.Struct, array_like=True):
    """The frontier x (bytes; None before anything is aligned), the members that stand at it, and what was measured
    there.

    sync_lag_ms is the spread of the times at which the aligned tokens were released, arrival_skew_ms that of their
    arrivals; both None with fewer than two of them.
    """

    x: int | None = None
    members: list[int] = []
    diversity_index: float = FALLBACK
    di_source: Literal["logprobs", "fallback"] = "fallback"
    sync_lag_ms: float | None = None
    arrival_skew_ms: float | None = None

    def advance(self, members: Sequence[MemberRecord], weights: Sequence[float], contents: Mapping[str, Token]) -> None:
        """Moves x as far as the text of the members concerned allows: in free mode, those that run and have text past
        it."""
        reaching = [i for i, member in enumerate(members) if member.is_running and member.position > (self.x or 0)]
        if not reaching:
            return
        kept = {i: members[i].kept for i in reaching}
        x = frontier_of(kept, {i: members[i].position for i in reaching}, self.x)
        if x is None or (x == self.x and reaching == self.members):
            return
        self.x, self.members = x, reaching
        self._measure([token_at(kept[i], x) for i in reaching], [weights[i] for i in reaching], contents)

    def _measure(self, found: Sequence[Kept | None], weights: Sequence[float], contents: Mapping[str, Token]) -> None:
        # A member may be so far ahead that its token at x was let go (Limits.unaligned_tokens): then nothing is
        # compared.
        aligned = [token for token in found if token is not None]
        is_whole = len(aligned) == len(found)
        tokens = [contents[token.entry_id] for token in aligned]
        self.diversity_index, self.di_source = FALLBACK, "fallback"
        if is_whole and all(token.quality == "real" for token in tokens):
            lists = [piece_probabilities(t, first=k.start == 0) for t, k in zip(tokens, aligned, strict=True)]
            self.diversity_index, self.di_source = diversity_index(lists, normalised(weights)), "logprobs"
        self.sync_lag_ms = self.arrival_skew_ms = None
        if is_whole and len(aligned) > 1:
            windows = [token.released_window for token in aligned]
            arrivals = [token.arrival_ns for token in aligned]
            self.sync_lag_ms = (window_start_ns(max(windows)) - window_start_ns(min(windows))) / NS_PER_MS
            self.arrival_skew_ms = (max(arrivals) - min(arrivals)) / NS_PER_MS
