"""What was accepted of each member up to a recorded frame: web processes read answers by that. Pure."""

from __future__ import annotations

import contextlib
from collections import deque

from schemas.control import Progress, Steer
from schemas.entries import Claim, Steered, Token, decode_entry
from schemas.errors import Malformed
from schemas.frames import Frame
from schemas.keys import entry_order
from schemas.rules.claims import ClaimLedger, ClaimVerdict
from schemas.sessions import Opening
from transport.answer import Answer

# A recorder writes at most a second of entries before the frames that they belong to: six members at 100 tokens a
# second, with lists of some kilobytes. Of a file that has lost its frames, the oldest entries do not wait for them.
_MOST_AHEAD_BYTES = 4 * 1024 * 1024


class RecordedProgress:
    """The progress of one recording, from its entries and frames in their order, from the first one on."""

    def __init__(self, opening: Opening) -> None:
        self._ledgers = [ClaimLedger() for _ in opening.members]
        self._steers: list[Steer | None] = [None] * len(opening.members)
        # The entries behind the cut of the last frame, each with its size.
        self._ahead: deque[tuple[str, Claim | Steered | Token, int]] = deque()
        self._ahead_bytes = 0
        # Of a council that writes one answer: its text, the members' answers, and what those members continue whose
        # marks come behind the cut.
        self._agreed = b""
        self._answers = [Answer(opening.prefix) for _ in opening.members]
        self._unmarked: dict[int, Steer] = {}

    def add(self, entry_id: str, raw: bytes) -> None:
        """Adds the next entry."""
        with contextlib.suppress(Malformed):
            entry = decode_entry(raw)
            if isinstance(entry, Claim | Token | Steered) and 0 <= entry.member < len(self._ledgers):
                self._ahead.append((entry_id, entry, len(raw)))
                self._ahead_bytes += len(raw)
        while self._ahead_bytes > _MOST_AHEAD_BYTES:
            self._accept_next()

    def at(self, frame: Frame) -> tuple[Progress, ...]:
        """What was accepted up to the cut of the next frame, which has the session's members.

        A member that has released the agreed text, and has written another one, was steered by the council: its next
        branch is shown, with the text that it continues. Where frames are lost, only its mark has that.
        """
        cut = entry_order(frame.cut)
        while self._ahead and entry_order(self._ahead[0][0]) <= cut:
            self._accept_next()
        if frame.consensus.agreed or frame.consensus.decisions:
            self._agreed += (frame.consensus.agreed or "").encode()
            end = len(self._agreed)
            for member, answer in enumerate(self._answers):
                if frame.members[member].position_bytes == end and answer.beginning(end) != self._agreed:
                    start = answer.shared_with(self._agreed)
                    self._unmarked[member] = Steer(start, end, self._agreed[start:].decode())
        return tuple([self._progress_of(member, now) for member, now in enumerate(self._ledgers)])

    def _progress_of(self, member: int, now: ClaimLedger) -> Progress:
        steer = self._unmarked.get(member)
        if steer is None:
            return Progress(now.claim, now.next_seq, False, None, now.branch, self._steers[member])
        return Progress(now.claim, 0, False, None, now.branch + 1, steer)

    def _accept_next(self) -> None:
        """Accepts the oldest entry that is ahead, as the council did."""
        entry_id, entry, size = self._ahead.popleft()
        self._ahead_bytes -= size
        ledger, answer = self._ledgers[entry.member], self._answers[entry.member]
        if isinstance(entry, Claim):
            ledger.add_claim(entry_id)
        elif isinstance(entry, Token):
            if ledger.judge_token(entry.claim, entry.seq, entry.branch) is ClaimVerdict.ACCEPTED:
                answer.add(entry_id, entry)
        elif entry.branch > ledger.branch:
            ledger.steer(entry.branch)
            answer.steer(entry)
            self._unmarked.pop(entry.member, None)
            end = entry.start + len(entry.text.encode())
            self._steers[entry.member] = Steer(entry.start, end, entry.text)
