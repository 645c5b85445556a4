"""The tokens of the answer of a session's only member, from its token stream, as they arrive. Pure.

Text of one member is held back for no other, so a client need not wait for the frame that releases it. The rules are
those of the frames (aggregator/core/intake.py): the same tokens are accepted, up to the mark that ends the answer.
"""

from __future__ import annotations

from schemas.entries import Cancel, Claim, Failed, Finished, Starved, Token, decode_entry
from schemas.errors import Malformed
from schemas.keys import entry_order, is_entry_id
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
            case Finished(member=0) | Failed(member=0) | Starved(member=0) if is_entry_id(entry.claim):
                self._take_end(entry)
            case Cancel() if not any(entry.members):
                # For all members, or for the only one; a mark that names another member is not valid.
                self.is_over = True
        return None

    def _take_end(self, mark: Finished | Failed | Starved) -> None:
        ledger = self._ledger
        is_own = mark.claim == ledger.claim
        match mark:
            case Finished():
                # Where tokens before it are missing, its producer will write them and the mark again.
                if is_own and (mark.branch, mark.tokens) == (ledger.branch, ledger.next_seq):
                    self.finished, self.is_over = mark, True
            case Failed():
                self.is_over = is_own or (ledger.begun and entry_order(mark.claim) > entry_order(ledger.claim))
            case Starved():
                # Memory is too small for its model. No other member could make room.
                self.is_over = is_own and not ledger.begun
