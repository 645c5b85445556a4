"""The rules of claims and sequence numbers: which producer writes a member, and which of its tokens count.

A claim is identified by the id of its mark. The latest claim before any accepted text wins; after the first accepted
token only a `failed` mark of a later claim counts. Of the winner's tokens only the next one in sequence is accepted:

    claim A   A:0 A:1   claim B   B:0   A:2   failed(B)
              ok  ok    ignored   dup   ok    the member drops: the producer of A died after it began

So started text is never repeated, and two producers never interleave.

A session of `sync: consensus` may steer a member to another text. Its tokens then have a higher branch, in which the
sequence begins again at 0; tokens of the branches before it are superseded. A member that was steered before its first
token still takes a later claim, whose producer continues the same text.

    claim A   A:0 A:1   steered to branch 1   A:2          A:0 of branch 1
              ok  ok                          superseded   ok
"""

from __future__ import annotations

from enum import Enum


class ClaimVerdict(Enum):
    """What an entry of a claim counts for: only ACCEPTED tokens are part of the answer."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    AHEAD = "ahead"


class ClaimLedger:
    """One member's winning claim, its present branch, the next sequence number in that, and whether a token was
    accepted in any branch."""

    __slots__ = ("begun", "branch", "claim", "next_seq")

    def __init__(self, claim: str = "", next_seq: int = 0, branch: int = 0) -> None:
        self.claim = claim
        self.next_seq = next_seq
        self.branch = branch
        self.begun = next_seq > 0

    def add_claim(self, entry_id: str) -> bool:
        """Adds a claim; True where it wins from now on."""
        if self.begun:
            return False
        self.claim = entry_id
        return True

    def steer(self, branch: int) -> None:
        """Begins a branch, if it is a higher one: its tokens count from 0."""
        if branch > self.branch:
            self.branch, self.next_seq = branch, 0

    def judge_token(self, claim: str, seq: int, branch: int = 0) -> ClaimVerdict:
        """Accepts the winner's next token of the present branch. A lower one, or one of another claim, is a duplicate;
        one of a lower branch is superseded, and its producer did nothing wrong; a higher one, or one of a higher
        branch, is ahead, and is sent again later."""
        if not self.claim or claim != self.claim:
            return ClaimVerdict.DUPLICATE
        if branch != self.branch:
            return ClaimVerdict.SUPERSEDED if branch < self.branch else ClaimVerdict.AHEAD
        if seq < self.next_seq:
            return ClaimVerdict.DUPLICATE
        if seq > self.next_seq:
            return ClaimVerdict.AHEAD
        self.next_seq += 1
        self.begun = True
        return ClaimVerdict.ACCEPTED
