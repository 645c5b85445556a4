"""The rules of claims and sequence numbers: which producer writes a member, and which of its tokens count.

A claim is identified by the id of its mark. The latest claim before any accepted text wins; after the first accepted
token only a `failed` mark of a later claim counts. Of the winner's tokens only the next one in sequence is accepted:

    claim A   A:0 A:1   claim B   B:0   A:2   failed(B)
              ok  ok    ignored   dup   ok    the member drops: the producer of A died after it began

So started text is never repeated, and two producers never interleave.
"""

from __future__ import annotations

from enum import Enum


class ClaimVerdict(Enum):
    """What an entry of a claim counts for: only ACCEPTED tokens are part of the answer."""

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
        """Adds a claim; True where it wins from now on."""
        if self.next_seq:
            return False
        self.claim = entry_id
        return True

    def judge_token(self, claim: str, seq: int) -> ClaimVerdict:
        """Accepts the winner's next token. A lower one, or one of another claim, is a duplicate; a higher one is ahead,
        and is sent again later."""
        if not self.claim or claim != self.claim or seq < self.next_seq:
            return ClaimVerdict.DUPLICATE
        if seq > self.next_seq:
            return ClaimVerdict.AHEAD
        self.next_seq += 1
        return ClaimVerdict.ACCEPTED
