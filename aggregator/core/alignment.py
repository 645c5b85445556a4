"""What the members say at the frontier, measured when it moves or when others stand at it, and held in between."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.core.member import MemberRecord
from aggregator.core.proposal_cache import ProposalCache
from aggregator.numbers.frontier import frontier_of
from aggregator.numbers.measures import AlignedMember, Measures, measures_at
from aggregator.numbers.parting import Parting
from schemas.frames import Compares
from schemas.grid import NS_PER_MS, window_start_ns


class Alignment(msgspec.Struct, array_like=True):
    """The frontier x (bytes; None before anything is aligned), the members that stand at it, and what was measured
    there.

    sync_lag_ms is the spread of the times at which the members' text was let out past x, None where x lies before the
    place at which the last of them came into step; arrival_skew_ms that of the aligned tokens' arrivals; both None with
    fewer than two of them, and so is what they are compared by. shared_prefix
    is None where it is not known, too.
    """

    parting: Parting
    x: int | None = None
    members: list[int] = []
    measures: Measures = Measures()
    sync_lag_ms: float | None = None
    arrival_skew_ms: float | None = None
    shared_prefix: bool | None = None
    diverged_at_bytes: int | None = None
    compares: Compares | None = None

    def advance(
        self,
        members: Sequence[MemberRecord],
        concerned: Sequence[int],
        weights: Sequence[float],
        contents: ProposalCache,
        *,
        since: int,
        waits: bool,
    ) -> None:
        """Moves x as far as the text of the members `concerned` allows, less those whose text is not past it. While x
        is None it `waits` for the first text of all of them that are about to begin. Before the byte `since` their text
        was not let out together."""
        if self.x is None and waits:
            return
        running = [i for i, member in enumerate(members) if member.is_running]
        past = self.x or 0
        reaching = [i for i in concerned if members[i].position > past]
        x = frontier_of([(members[i].kept, members[i].position) for i in reaching], self.x)
        if x is not None and x < since:
            # Also what was measured before the members came into step.
            self.sync_lag_ms = None
        # Once no member runs, what was measured last stays.
        if x is None or not running or (x == self.x and reaching == self.members):
            return
        self._part(x, running, reaching)
        self.x, self.members = x, reaching
        self._measure(x, members, weights, contents, since)

    def _part(self, x: int, running: Sequence[int], reaching: Sequence[int]) -> None:
        """Takes where the members that come to stand at x parted; with fewer than two of them nothing is compared."""
        self.parting.compare(running)
        if len(reaching) < 2:
            self.shared_prefix, self.diverged_at_bytes, self.compares = None, None, None
        elif reaching != self.members or self.diverged_at_bytes is None:
            # Else the same members have parted already, and where they did so first does not change.
            self.shared_prefix, self.diverged_at_bytes = self.parting.parted_at(reaching, x)
            self.compares = "next" if self.shared_prefix else "place"

    def _measure(
        self, x: int, members: Sequence[MemberRecord], weights: Sequence[float], contents: ProposalCache, since: int
    ) -> None:
        self.measures, self.sync_lag_ms, self.arrival_skew_ms = Measures(), None, None
        if not self.members:
            # Whoever stood here has ended, and of those that run nobody has come so far.
            return
        standing, arrivals = [], []
        for i in self.members:
            kept = members[i].kept
            index = kept.index_at(x)
            if index is None:
                # So far ahead that its token at x was let go (Limits.unaligned_tokens): nothing is compared.
                return
            start, end = kept.bounds(index)
            standing.append(AlignedMember(start, end, contents.proposal(kept.entry_ids[index], start)))
            arrivals.append(kept.arrivals_ns[index])
        self.measures = measures_at(x, standing, [weights[i] for i in self.members])
        if len(standing) > 1:
            if x >= since:
                windows = [members[i].passing.window_past(x) for i in self.members]
                lag_ns = window_start_ns(max(windows)) - window_start_ns(min(windows))
                self.sync_lag_ms = round(lag_ns / NS_PER_MS, 9)
            self.arrival_skew_ms = round((max(arrivals) - min(arrivals)) / NS_PER_MS, 9)
