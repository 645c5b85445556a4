"""What the members vote for at a byte of their drafts: at a parting, and in the mixture of the text that is agreed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aggregator.core.member import MemberRecord
from aggregator.core.proposal_cache import ProposalCache
from aggregator.numbers.deciding import Voter
from aggregator.numbers.energy import weight_certainty
from aggregator.numbers.mixture import mixture_span, span_bytes
from aggregator.numbers.proposal import Proposal, end_proposal
from schemas.entries import Finished
from schemas.frames import PLAIN_ENDS, MixtureSpan
from schemas.sessions import Opening

# The reasons of a complete answer: the council's end, or a limit.
STOP, LENGTH = PLAIN_ENDS


class DraftText:
    """A member's text from the byte `start` of its answer on: from the agreed end, or from where it lost its vote."""

    __slots__ = ("start", "text")

    def __init__(self, start: int, text: bytes) -> None:
        self.start, self.text = start, text

    def pass_to(self, end: int) -> None:
        """Forgets the text before the byte `end`."""
        self.start, self.text = end, self.text[end - self.start :]


class Voting:
    """The votes of one session's members. `ends` is how each member's draft ended."""

    def __init__(
        self,
        opening: Opening,
        members: Sequence[MemberRecord],
        proposals: ProposalCache,
        ends: Sequence[Finished | None],
    ) -> None:
        self._opening, self._members, self._proposals, self._ends = opening, members, proposals, ends

    def voter(self, index: int, draft: DraftText, x: int) -> Voter:
        """The vote of a member at the byte x, which its draft reaches."""
        member, text = self._members[index], draft.text[x - draft.start :]
        end = self._ends[index]
        proposal, offset, left = Proposal(b""), 0, 0
        if text:
            at = member.unaligned.index_at(x)
            # Of a member that is very far ahead, tokens are forgotten: it counts as certain of its text.
            left = len(text)
            if at is not None:
                start, stop = member.unaligned.bounds(at)
                offset, left = x - start, stop - x
                proposal = self._proposals.proposal(member.unaligned.entry_ids[at], start)
        elif end is not None:
            proposal = end_proposal(end)
        weight = self._opening.members[index].weight
        if self._opening.weighting == "certainty":
            # That of this token alone: a mean over the tokens that came would depend on how far ahead the draft is.
            weight *= weight_certainty(proposal)
        return Voter(weight, text, left, offset, proposal, is_first=bool(left) and x == offset)

    def mixture(self, at: int, agreed: bytes, drafts: Mapping[int, DraftText]) -> list[MixtureSpan]:
        """The spans of the text that is agreed at the byte `at`, at which these voters' drafts begin. They end where a
        token of a voter ends whose draft has followed the text so far."""
        spans, passed = [], 0
        while passed < len(agreed):
            before, after, x = agreed[:passed], agreed[passed:], at + passed
            voters = [
                self.voter(index, draft, x)
                for index, draft in drafts.items()
                if draft.text.startswith(before) and self._is_vote(index, draft, x)
            ]
            text = after[: span_bytes(after, voters)]
            spans.append(mixture_span(x, text, voters, self._opening.mixture))
            passed += len(text)
        return spans

    def _is_vote(self, index: int, draft: DraftText, x: int) -> bool:
        """True where the draft goes on at the byte x, or is complete there: a limit is not a vote for the end."""
        end = self._ends[index]
        return draft.start + len(draft.text) > x or (end is not None and end.reason == STOP)
