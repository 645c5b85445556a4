"""The answers of a session, put together from its token stream: the position of each token, and every text.

    token stream    claim A   A:0 " The"   A:1 " sky"   A:1 again   B:2 " sea"   A:2 ""   A:3 " is"
    answer                    [0, 3)       [3, 7)                                [7, 7)   [7, 10)

The stream is read once: its positions are kept as numbers, and the next call reads on. The text and the list of a token
are read from Redis when they are requested. In step mode the stream contains tokens that no frame has released yet:
their positions are kept too, and not returned.

With `sync: consensus` a mark in the stream says which text replaced a member's own (transport/answer.py). The mark of a
decision comes behind the cut of the frame that shows its text, so marks are read ahead. A replay may not have written
it yet: the session's progress has the same text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas import keys
from schemas.control import Progress, Steer
from schemas.entries import Steered, Token, decode_entry
from schemas.errors import Malformed, SetBack, expired
from schemas.frames import Frame, decode_frame
from schemas.sessions import Opening
from transport.answer import Answer
from transport.following import StreamEntry, entry_read, last_of, read_last
from transport.redis.connection import AsyncPipe, accepted
from transport.sessions import SessionState, find_session, read_state, session_state
from transport.tokens import entries_read, read_entries

# Decoding so many entries, each with 20 listed pieces, takes 1 to 2 ms of the event loop: a tenth of a frame's time.
_PAGE = 500
# A decision's mark is behind what was written until its commit. An aggregator that is so far behind is away.
_MOST_PAGES_AHEAD = 20


class FoundFrame(NamedTuple):
    """A session, and one of its frames. `may_be_written_again` as StreamEntry has it."""

    state: SessionState
    frame: Frame | None
    may_be_written_again: bool


async def find_released(pipe: AsyncPipe, session: str, window: int | None = None) -> FoundFrame:
    """The session, and its newest frame or that of the window (None where there is none, or it was trimmed), in one
    round trip. Raises SessionGone, Malformed, RedisAway, RedisRefuses."""
    first, last = ("+", "-") if window is None else (keys.frame_id(window),) * 2
    found, frames = await pipe.run([read_state(session), ("XREVRANGE", keys.frames(session), first, last, "COUNT", 1)])
    # Where there is no session, find_session raises the error.
    state = session_state(session, found) or await find_session(pipe, session)
    entry = last_of(frames)
    if entry is None:
        return FoundFrame(state, None, may_be_written_again=False)
    return FoundFrame(state, decode_frame(entry.raw), entry.may_be_written_again)


class Answers:
    """The answers of one session's members; `opened` is the id of the opening entry."""

    def __init__(self, opening: Opening, opened: str) -> None:
        self.opening = opening
        self.of_member = [Answer(opening.prefix) for _ in opening.members]
        # What was accepted up to the last cut.
        self._progress: Sequence[Progress] = ()
        self._read_to = opened
        # The last entry that was added: the answers are valid while it stands. A token contains the nanosecond in which
        # it was written, so one that is written again differs; a beat would not. Of a mark it is the id that differs.
        self._last: StreamEntry | None = None
        self._turn = asyncio.Lock()

    async def catch_up(self, pipe: AsyncPipe, state: SessionState, frame: Frame | None) -> None:
        """Reads on to the last committed entry of `state`, and releases what the frame, or an earlier one, has
        released. Raises SetBack where Redis lost entries that were read, or the cut; the answers are then of no use.
        Raises SessionGone, RedisAway, RedisRefuses; the pages before the error are kept."""
        key = keys.tokens(state.session)
        async with self._turn:
            while True:
                reading = read_entries(state.session, self._read_to, state.cut, _PAGE)
                reply, proof, still = await pipe.run(
                    [reading, read_last(key, self._last.entry_id if self._last else "-"), read_state(state.session)]
                )
                page = [entry_read(entry) for entry in accepted(reply)]
                if session_state(state.session, still) is None:
                    # Deleted meanwhile: the page may lack entries that existed.
                    raise expired(state.session)
                if self._last is not None and last_of(proof) != self._last:
                    raise SetBack(state.session)
                for entry in page:
                    self._read_to = entry.entry_id
                    if self._add(entry.entry_id, entry.raw, state.progress):
                        self._last = entry
                if len(page) < _PAGE:
                    break
            self._progress = state.progress
            await self._read_marks(pipe, state.session)
            # The cut is an entry. A damaged recording may lack it, and then so does its replay.
            if state.clock_ms is None and keys.entry_order(self._read_to) < keys.entry_order(state.cut):
                raise SetBack(state.session)
        if frame is not None:
            self.release([member.position_bytes for member in frame.members])

    async def _read_marks(self, pipe: AsyncPipe, session: str) -> None:
        """Reads the marks of decisions that are committed, behind the last committed entry."""
        after = self._read_to
        for _ in range(_MOST_PAGES_AHEAD if self._unread_steers() else 0):
            (reply,) = await pipe.run([read_entries(session, after, "+", _PAGE)])
            page = [entry_read(entry) for entry in accepted(reply)]
            for entry in page:
                after = entry.entry_id
                if self._add(after, entry.raw, self._progress, marks_alone=True):
                    self._last = entry
            if len(page) < _PAGE or not self._unread_steers():
                break

    def texts(self, frame: Frame) -> tuple[list[str], list[str]]:
        """(each member's answer, each member's thinking), as all frames up to this one have shown them."""
        cut = keys.entry_order(frame.cut)
        shown = list(zip(self.of_member, frame.members, strict=True))
        thinking = [answer.thinking_to(cut) for answer, _ in shown]
        if self.opening.sync == "consensus":
            agreed = self._agreed([member.position_bytes for member in frame.members])
            return [agreed[: member.position_bytes].decode() for member in frame.members], thinking
        return [answer.text_to(m.position_bytes, cut, m.buffered_tokens) for answer, m in shown], thinking

    def _agreed(self, positions: Sequence[int]) -> bytes:
        """The council's text up to the furthest of these released ends: released text is the same for all members.

        It is read from a member that has written so far, and of which no mark is missing: its draft begins with it.
        """
        end, steers = max(positions), self._unread_steers()
        order = sorted(range(len(positions)), key=lambda m: (m in steers, -positions[m]))
        return next((text for m in order if (text := self._beginning(m, end, steers)) is not None), b"")

    def _beginning(self, member: int, end: int, steers: Mapping[int, Steer]) -> bytes | None:
        """The first `end` bytes of the member's answer; None where fewer are known."""
        answer, steer = self.of_member[member], steers.get(member)
        if steer is None:
            return answer.beginning(end)
        own = answer.beginning(steer.start)
        return None if own is None or steer.end < end else (own + steer.text.encode())[:end]

    def _unread_steers(self) -> dict[int, Steer]:
        """What members were steered to by decisions whose marks are behind the last cut."""
        found = zip(self.of_member, self._progress, strict=False)
        return {m: now.steer for m, (answer, now) in enumerate(found) if now.steer and now.branch > answer.branch}

    def release(self, positions: Sequence[int]) -> None:
        """Calls Answer.release() of each member with its position; `positions` is empty before the first frame."""
        steers = self._unread_steers()
        for member, (answer, position) in enumerate(zip(self.of_member, positions, strict=False)):
            if member in steers:
                # What is behind this byte is released after the mark. Of two missing marks the first one's is not
                # known.
                position = min(position, steers[member].start)
                position *= self._progress[member].branch == answer.branch + 1
            answer.release(position)

    def add_entries(
        self,
        entries: Sequence[tuple[str, bytes]],
        progress: Sequence[Progress],
        ahead: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Adds the accepted tokens of the next entries, which end at the cut that belongs to `progress`, and the marks
        of the entries behind it.

        Only tokens of the claim in `progress` were ever accepted.
        """
        for entry_id, raw in entries:
            self._add(entry_id, raw, progress)
        self._progress = progress
        for entry_id, raw in ahead if self._unread_steers() else ():
            self._add(entry_id, raw, progress, marks_alone=True)

    def _add(self, entry_id: str, raw: bytes, progress: Sequence[Progress], *, marks_alone: bool = False) -> bool:
        """True where the entry is an accepted token, or the mark of a new branch."""
        try:
            entry = decode_entry(raw)
        except Malformed:
            return False
        if not isinstance(entry, Token | Steered) or not 0 <= entry.member < len(progress):
            return False
        now, answer = progress[entry.member], self.of_member[entry.member]
        if isinstance(entry, Steered):
            is_new = answer.branch < entry.branch <= now.branch
            if is_new:
                answer.steer(entry)
            return is_new
        # Of an earlier branch tokens are added up to the mark that ends it, which removes those after the decision.
        is_next = entry.branch == answer.branch and entry.seq == answer.next_seq
        is_accepted = answer.branch < now.branch or entry.seq < now.next_seq
        if marks_alone or entry.claim != now.claim or not (is_next and is_accepted):
            return False
        # A claim's tokens count only after its mark.
        if not entry.seq and keys.entry_order(entry_id) <= keys.entry_order(entry.claim):
            return False
        answer.add(entry_id, entry)
        return True

    async def read_tokens(self, pipe: AsyncPipe, member: int, indexes: Sequence[int]) -> list[Token]:
        """These tokens of the member, in one round trip. Raises SessionGone where the stream does not contain them,
        RedisAway, RedisRefuses."""
        answer, key = self.of_member[member], keys.tokens(self.opening.session)
        ids = [answer.entry_id(index) for index in indexes]
        replies = await pipe.run([("XRANGE", key, entry_id, entry_id) for entry_id in ids])
        tokens = [decode_entry(raw) for reply in replies for _, raw in entries_read(accepted(reply))]
        found = [token for token in tokens if isinstance(token, Token) and token.member == member]
        if len(found) < len(ids):
            raise expired(self.opening.session)
        return found
