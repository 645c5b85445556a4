"""The tokens of the answer of a session's only member, from its token stream, as they arrive. Pure.

Text of one member is held back for no other, so a client need not wait for the frame that releases it. The rules are
those of the frames: the same tokens are accepted.
"""

from __future__ import annotations

from schemas.entries import Cancel, Claim, Failed, Finished, Token, decode_entry
from schemas.errors import Malformed
from schemas.keys import entry_order
from schemas.rules.claims import ClaimLedger, ClaimVerdict


class LoneMember:
    """Takes the entries in order. `is_over`: a mark has ended the answer; `finished` is the mark of an answer that
    ended by itself."""

    def __init__(self) -> None:
        self._ledger = ClaimLedger()
        self.is_over = False
        self.finished: Finished | None = None

    def take(self, entry_id: str, raw: bytes) -> Token | None:
        """The entry's token, if it is the next one of the answer or of the thinking."""
        try:
            entry = decode_entry(raw)
        except Malformed:
            return None
        ledger = self._ledger
        if self.is_over:
            return None
        match entry:
            case Token(member=0):
                is_next = ledger.judge_token(entry.claim, entry.seq, entry.branch) is ClaimVerdict.ACCEPTED
                return entry if is_next else None
            case Claim(member=0):
                ledger.add_claim(entry_id)
            case Finished(member=0) if entry.claim == ledger.claim and entry.tokens == ledger.next_seq:
                self.finished, self.is_over = entry, True
            case Failed(member=0):
                is_later_claim = ledger.begun and entry_order(entry.claim) > entry_order(ledger.claim)
                self.is_over = entry.claim == ledger.claim or is_later_claim
            case Cancel():
                self.is_over = not entry.members or 0 in entry.members
        return None
