"""Who writes a member: the rules of claims and sequence numbers, for those who write and those who read.

A claim is the id of its claim mark. The latest claim before any accepted text wins; from the first accepted token on,
only a `failed` mark of a later claim counts. Of the winner's tokens only the next one in sequence is accepted:

    claim A   A:0 A:1   claim B   B:0   A:2   failed(B)
              ok  ok    ignored   dup   ok    the member drops: the producer of A died after it began

So text that has begun is never repeated, and two producers never interleave.
"""

from __future__ import annotations

from enum import Enum


class ClaimVerdict(Enum):
    """What becomes of a token: only ACCEPTED ones are part of the answer."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    AHEAD = "ahead"


class ClaimLedger:
    """One member's winning claim and next sequence number."""

    __slots__ = ("claim", "next_seq")

    def __init__(self, claim: str = "", next_seq: int = 0) -> None:
        self.claim = claim
        self.next_seq = next_seq

    def add_claim(self, entry_id: str) -> bool:
        """True where this claim now wins."""
        if self.next_seq:
            return False
        self.claim = entry_id
        return True

    def judge_token(self, claim: str, seq: int) -> ClaimVerdict:
        """Accepts the winner's next token; what is lower, or a loser's, is a duplicate; what is higher waits to be
        sent again."""
        if not self.claim or claim != self.claim or seq < self.next_seq:
            return ClaimVerdict.DUPLICATE
        if seq > self.next_seq:
            return ClaimVerdict.AHEAD
        self.next_seq += 1
        return ClaimVerdict.ACCEPTED
