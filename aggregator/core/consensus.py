"""Consensus: the members write drafts, and the council agrees on one text, which is all that is released.

    agreed     The sky is                         the same for all; released text is never taken back
    draft 0               blue, and |             each draft begins with the agreed text
    draft 1               blue and so|            unanimous to "blue"; there they part: "," and " "
    draft 2               blue, be|               decided (numbers/deciding.py): "," wins, and member 1 is steered

    drafts the same            agreed grows (unanimous)
    drafts part at x           once every voter has a token there, or has ended there, the council decides; agreed grows
                               by the leader's draft up to the end of its word, when that is complete; each voter whose
                               draft does not begin with agreed is steered: it continues from there in a new branch
    one voter is left          agreed grows by its draft (followed)

The voters are the stepping set (stepping.py): a member that thinks, loads, stalls or was dropped has no vote. When it
begins or returns it is steered to the agreed text, at the end of a word: models continue badly from inside one.

For greedy drafts of members that neither drop nor detach the agreed text does not depend on timing: a decision uses the
tokens that cover x, and nothing that was written after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from aggregator.core.member import MemberRecord
from aggregator.core.proposal_cache import ProposalCache
from aggregator.core.release import ReleaseQueue
from aggregator.core.voting import LENGTH, STOP, DraftText, Voting
from aggregator.numbers.deciding import decide, drawn_number
from schemas.control import Steer
from schemas.entries import Finished, Steered
from schemas.frames import Decision, DecisionKind, MixtureSpan
from schemas.rules.words import MOST_WORD_BYTES, character_end, last_word_end, shared_beginning, word_end
from schemas.sessions import BYTES_PER_TOKEN, Opening

# A backend that pauses drafts so far ahead of the agreed text: past the longest word that a decision waits for.
LEAD_BYTES = 2 * MOST_WORD_BYTES
LEFT_BEHIND = "the council finished without it"


class Pending(msgspec.Struct, array_like=True):
    """A decision that waits: for the end of the leader's word, or, once that is the `word`, for voters that may still
    write it. `is_end`: the answer ends here."""

    decision: Decision
    leader: int
    is_end: bool
    word: bytes = b""


class ConsensusRecord(msgspec.Struct, array_like=True):
    """All of the consensus that the next frames depend on, without the drafts: they are in buffered tokens.

    Nothing before the byte `floor` is compared any more. `returning` are the members that are to be steered at the next
    end of a word. `steers` and `ends`: what each member's present branch began with, and how its draft ended.
    """

    agreed: bytes
    steers: list[Steer | None]
    ends: list[Finished | None]
    floor: int = 0
    pending: Pending | None = None
    returning: list[int] = []
    is_at_word_end: bool = True


# Measures the disagreement at a byte, between these members; returns the jsd.
Measure = Callable[[int, Sequence[int]], float | None]


class Consensus:
    """The consensus of one session. The other attributes are about the window that was settled last: the marks for the
    token stream, the decisions that were made, the spans of the mixture where the opening requests it, the members that
    were given the agreed text, how many tokens were discarded, and, where the answer is complete, why."""

    def __init__(
        self,
        opening: Opening,
        record: ConsensusRecord,
        members: Sequence[MemberRecord],
        queues: Sequence[ReleaseQueue],
        proposals: ProposalCache,
    ) -> None:
        self.record = record
        self.steered: list[Steered] = []
        self.decisions: list[Decision] = []
        self.mixture: list[MixtureSpan] = []
        self.following: set[int] = set()
        self.superseded = 0
        self.over = ""
        self._opening, self._members, self._queues, self._proposals = opening, members, queues, proposals
        # Empty until the contents of buffered tokens are there.
        self._drafts: list[DraftText] = []
        self._voting = Voting(opening, members, proposals, record.ends)
        sampling = opening.sampling
        self._seed = sampling.seed if sampling.temperature > 0.0 else None
        self._most_bytes = opening.prefix_bytes + sampling.max_tokens * BYTES_PER_TOKEN

    def prepare(self) -> None:
        """Takes the drafts from the buffered tokens of a loaded record, before any other call."""
        if not self._drafts:
            pairs = zip(self._queues, self._members, strict=True)
            self._drafts = [DraftText(member.position, queue.text_from(member.position)) for queue, member in pairs]

    def add_text(self, member: int, text: bytes) -> None:
        """The next bytes of a member's draft."""
        self._drafts[member].text += text

    def settle(self, stepping: Sequence[int], start_ns: int, end_ns: int, measure: Measure) -> None:
        """Grows the agreed text as far as the drafts of the stepping members allow, and steers the others, at the end
        of the window [start_ns, end_ns)."""
        self.steered, self.decisions, self.mixture = [], [], []
        self.following, self.superseded, self.over = set(), 0, ""
        self._note_returning(start_ns, stepping)
        voters = [index for index in stepping if index not in self.record.returning]
        self._join(voters)
        if self.record.pending is not None:
            self._complete_word(self.record.pending, voters)
        # Text that is agreed after a steer, in the same window, would be past the end of the steered member's text.
        while not self._steer_returning(end_ns) and self._grows(voters, end_ns, measure):
            pass  # Each turn agrees on text, decides, or steers voters, which then have no text left in this window.

    def _note_returning(self, start_ns: int, stepping: Sequence[int]) -> None:
        """Finds the members without a vote that begin, or have written in the window that begins at `start_ns`, and do
        not follow the agreed text."""
        record, end = self.record, len(self.record.agreed)
        record.returning = [index for index in record.returning if not self._members[index].ended]
        for index, member in enumerate(self._members):
            if member.ended or not member.claim or index in record.returning:
                continue
            if not member.begun:
                returns = not member.branch and end > member.base and index not in stepping
            elif not member.has_text or member.state != "answering":
                returns = False
            else:
                draft = self._drafts[index]
                follows = member.written >= end and draft.text.startswith(record.agreed[draft.start :])
                has_moved = member.moved_ns >= start_ns or not member.is_writing
                returns = has_moved and not follows
            if returns:
                record.returning.append(index)

    def _join(self, voters: Sequence[int]) -> None:
        """Gives voters that had no vote, and follow the agreed text, what was agreed without them."""
        for index in voters:
            self.following.add(index)
            self._drafts[index].pass_to(len(self.record.agreed))

    def _steer_returning(self, end_ns: int) -> bool:
        """Steers the members that return, if the agreed text ends with a word; True where it has steered one."""
        record = self.record
        if not record.returning or not record.is_at_word_end:
            return False
        for index in record.returning:
            self._steer(index, end_ns)
        record.returning = []
        return True

    def _grows(self, voters: list[int], end_ns: int, measure: Measure) -> bool:
        """Takes one step; False where nothing more can be agreed on in this window."""
        if self.over:
            return False
        if voters and self.record.pending is not None:
            return self._completes(self.record.pending, voters, end_ns)
        self._leave_at_limit(voters)
        if not voters:
            # Text that no voter would get is not agreed.
            self.record.pending = None
            self.over = LENGTH if all(member.ended for member in self._members) else ""
            return False
        drafts = [self._drafts[index].text for index in voters]
        have_ended = [self.record.ends[index] is not None for index in voters]
        if all(have_ended) and not any(drafts):
            self.over = STOP
            return False
        shared = shared_beginning(drafts)
        others_run = any(not m.ended for index, m in enumerate(self._members) if index not in voters)
        # Members that run beside the voters follow at the end of a word.
        if shared and (self.record.returning or (len(voters) == 1 and others_run)):
            is_whole = all(have_ended) and all(len(draft) == len(shared) for draft in drafts)
            words = last_word_end(shared, is_whole=is_whole)
            goes_on = len(voters) > 1 and all(
                len(draft) > len(shared) or ended for draft, ended in zip(drafts, have_ended, strict=True)
            )
            if not words and not goes_on:
                return False
            shared = shared[:words] if words else shared
            self._agree(shared, voters, is_word=words > 0)
            return True
        if shared:
            self._agree(shared, voters)
            return True
        if len(voters) > 1 and all(draft or ended for draft, ended in zip(drafts, have_ended, strict=True)):
            self._decide(voters, measure)
            return True
        return False

    def _leave_at_limit(self, voters: list[int]) -> None:
        """Removes the voters that have no text left and cannot write more, because they have reached a limit."""
        for index in list(voters):
            end = self.record.ends[index]
            if end is not None and end.reason != STOP and not self._drafts[index].text:
                voters.remove(index)
                self._members[index].complete()

    def _agree(
        self, text: bytes, voters: Sequence[int], *, decision: Decision | None = None, is_word: bool = False
    ) -> None:
        """Adds the text, which the drafts of all or of one of the voters begin with, up to max_tokens."""
        record = self.record
        at = len(record.agreed)
        if decision is None:
            text = text[: character_end(text, self._most_bytes - at)]
        if self._opening.mixture:
            self._add_mixture(at, text, voters, decision)
        record.agreed += text
        record.is_at_word_end = is_word
        end = len(record.agreed)
        if decision is None:
            kind: DecisionKind = "unanimous" if len(voters) > 1 else "followed"
            decision = Decision(at, end, kind, None if len(voters) > 1 else voters[0])
            for index in voters:
                self._drafts[index].pass_to(end)
        self.decisions.append(msgspec.structs.replace(decision, end=end))
        if end >= self._most_bytes:
            self.over = LENGTH

    def _add_mixture(self, at: int, text: bytes, voters: Sequence[int], decision: Decision | None) -> None:
        """Adds the mixture of a text that is agreed at the byte `at`, before members are steered: what they proposed is
        forgotten then. That of a leader that has left is."""
        if decision is None or decision.by in voters:
            self.mixture += self._voting.mixture(at, text, {index: self._drafts[index] for index in voters})
        else:
            self.mixture.append(MixtureSpan(at, at + len(text)))

    def _decide(self, voters: Sequence[int], measure: Measure) -> None:
        """Decides between the drafts, which part at the end of the agreed text."""
        x = len(self.record.agreed)
        asked = [self._voting.voter(index, self._drafts[index], x) for index in voters]
        draw = None if self._seed is None else drawn_number(self._seed, x)
        verdict = decide(asked, draw)
        leader = voters[verdict.leader]
        runner_up = None if verdict.runner_up is None else verdict.runner_up.decode(errors="replace")
        decision = Decision(
            x,
            x,
            "certain" if verdict.certain else "estimate",
            leader,
            round(verdict.share, 9),
            runner_up,
            None if verdict.runner_up_share is None else round(verdict.runner_up_share, 9),
            measure(x, [index for index, voter in zip(voters, asked, strict=True) if voter.left]),
            tuple(voters[index] for index in verdict.against),
        )
        self.record.pending = Pending(decision, leader, verdict.is_end)

    def _completes(self, pending: Pending, voters: Sequence[int], end_ns: int) -> bool:
        """Agrees on the leader's word, if it is complete. The word of a leader that has left ends where it stopped."""
        record = self.record
        if pending.is_end:
            record.pending, self.over = None, STOP
            self.decisions.append(pending.decision)
            return False
        word = self._complete_word(pending, voters)
        # A voter that has written a part of the word may still write the rest. If it was steered now, its tokens, and
        # so its later votes, would depend on timing.
        if not word or any(self._may_still_write(index, word) for index in voters):
            return False
        record.pending = None
        self._agree(word, voters, decision=pending.decision, is_word=True)
        for index in voters:
            if self._drafts[index].text.startswith(word):
                self._drafts[index].pass_to(len(record.agreed))
            else:
                self._steer(index, end_ns)
        record.floor = len(record.agreed)
        return True

    def _complete_word(self, pending: Pending, voters: Sequence[int]) -> bytes:
        """The leader's word; empty while it is not complete. The text of a leader that was dropped is forgotten."""
        if not pending.word:
            draft, has_ended = self._drafts[pending.leader].text, self.record.ends[pending.leader] is not None
            pending.word = draft[: word_end(draft, is_whole=has_ended or pending.leader not in voters) or 0]
        return pending.word

    def _may_still_write(self, index: int, word: bytes) -> bool:
        text = self._drafts[index].text
        return word.startswith(text) and len(text) < len(word) and self.record.ends[index] is None

    def _steer(self, index: int, end_ns: int) -> None:
        """Begins a new branch of the member at the end of the agreed text."""
        member, record, queue = self._members[index], self.record, self._queues[index]
        end = len(record.agreed)
        draft = self._drafts[index]
        same = shared_beginning([draft.text, record.agreed[draft.start :]])
        self.superseded += queue.cut(draft.start + len(same))
        start = max(member.kept_to, queue.end)
        steer = Steer(start, end, record.agreed[start:].decode())
        self._proposals.forget(member.unaligned.forget(len(member.unaligned)))
        accepted = member.next_seq
        member.steer(end, end_ns)
        self._drafts[index] = DraftText(end, b"")
        record.steers[index], record.ends[index] = steer, None
        self.following.add(index)
        self.steered.append(Steered(index, member.branch, start, steer.text, accepted))
