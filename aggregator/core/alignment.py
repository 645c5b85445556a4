"""What is measured at the frontier: when it moves or other members are aligned there, and held in between."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.core.member import MemberRecord
from aggregator.core.proposal_cache import ProposalCache
from aggregator.numbers.frontier import frontier_of
from aggregator.numbers.measures import AlignedMember, measures_at
from aggregator.numbers.parting import Parting
from schemas.frames import AlignmentFrame, Compares, Measures
from schemas.grid import NS_PER_MS, window_start_ns

# Past every byte.
NEVER = 1 << 62


class Alignment(msgspec.Struct, array_like=True):
    """The aligned members, by index, and what was measured at the frontier: `measures` (their agreement is not yet the
    mean that frames show) and `shown`, whose frontier_bytes is the frontier x, None before anything is aligned."""

    parting: Parting
    members: list[int] = []
    measures: Measures = Measures()
    shown: AlignmentFrame = AlignmentFrame()

    @property
    def x(self) -> int | None:
        """The frontier, in bytes."""
        return self.shown.frontier_bytes

    def advance(
        self,
        members: Sequence[MemberRecord],
        concerned: Sequence[int],
        weights: Sequence[float],
        proposals: ProposalCache,
        *,
        since: int,
        waits: bool,
    ) -> None:
        """Moves x as far as the text of the members `concerned` allows, less those whose text is not past it.

        While x is None it `waits` for the first text of all members that are about to begin. `since` is the byte from
        which on their text was released together.
        """
        if self.x is None and waits:
            return
        running = [i for i, member in enumerate(members) if not member.ended]
        reaching = [i for i in concerned if members[i].position > (members[i].base if self.x is None else self.x)]
        x = frontier_of([(members[i].unaligned, members[i].position) for i in reaching], self.x)
        if x is not None and x < since and self.shown.sync_lag_ms is not None:
            # It was measured before the last of these members came into step.
            self.shown = msgspec.structs.replace(self.shown, sync_lag_ms=None)
        # Once no member runs, what was measured last stays.
        if x is None or not running or (x == self.x and reaching == self.members):
            return
        self.parting.compare(running)
        parted = self._parted_at(x, reaching)
        self.members = reaching
        self.measures, sync_lag_ms, arrival_skew_ms = self._measured(x, members, weights, proposals, since)
        self.shown = AlignmentFrame(x, *parted, sync_lag_ms, arrival_skew_ms)

    def measure(
        self,
        x: int,
        concerned: list[int],
        members: Sequence[MemberRecord],
        weights: Sequence[float],
        proposals: ProposalCache,
    ) -> None:
        """Measures members that wrote the same before x, and whose text is released together."""
        self.members = concerned
        self.measures, _, arrival_skew_ms = self._measured(x, members, weights, proposals, NEVER)
        if len(concerned) < 2:
            self.shown = AlignmentFrame(x)
        else:
            sync_lag_ms = None if arrival_skew_ms is None else 0.0
            self.shown = AlignmentFrame(x, True, None, "next", sync_lag_ms, arrival_skew_ms)

    def _parted_at(self, x: int, reaching: Sequence[int]) -> tuple[bool | None, int | None, Compares | None]:
        """shared_prefix, diverged_at_bytes and compares; all None with fewer than two members."""
        if len(reaching) < 2:
            return None, None, None
        before = self.shown
        if reaching == self.members and before.diverged_at_bytes is not None:
            # Where the same members parted first does not change.
            return before.shared_prefix, before.diverged_at_bytes, before.compares
        shared_prefix, diverged_at_bytes = self.parting.parted_at(reaching, x)
        return shared_prefix, diverged_at_bytes, "next" if shared_prefix else "place"

    def _measured(
        self, x: int, members: Sequence[MemberRecord], weights: Sequence[float], proposals: ProposalCache, since: int
    ) -> tuple[Measures, float | None, float | None]:
        """The measures, and in milliseconds the spreads of the windows in which the members' text was released past x
        and of the aligned tokens' arrivals."""
        aligned, arrivals = [], []
        for i in self.members:
            unaligned = members[i].unaligned
            index = unaligned.index_at(x)
            if index is None:
                # The member is so far ahead that its token at x was forgotten (Limits.unaligned_tokens).
                return Measures(), None, None
            start, end = unaligned.bounds(index)
            aligned.append(AlignedMember(start, end, proposals.proposal(unaligned.entry_ids[index], start)))
            arrivals.append(unaligned.arrivals_ns[index])
        if not aligned:
            # The members that were aligned here have ended, and no running one has come so far.
            return Measures(), None, None
        measures = measures_at(x, aligned, [weights[i] for i in self.members])
        if len(aligned) < 2:
            return measures, None, None
        sync_lag_ms = None
        if x >= since:
            windows = [members[i].releases.window_past(x) for i in self.members]
            sync_lag_ms = round((window_start_ns(max(windows)) - window_start_ns(min(windows))) / NS_PER_MS, 9)
        return measures, sync_lag_ms, round((max(arrivals) - min(arrivals)) / NS_PER_MS, 9)
