"""The position of each token of an answer in its session's token stream, to find the token of a byte.

    token stream    claim A   A:0 " The"   A:1 " sky"   A:1 again   B:2 " sea"   A:2 ""   A:3 " is"
    answer                    [0, 3)       [3, 7)                                [7, 7)   [7, 10)

The stream is read once: its positions are kept as numbers, and the next call reads on. The text and the list of a token
are read from Redis when they are requested. In step mode the stream contains tokens that no frame has released yet:
their positions are kept too, and not returned.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from schemas import keys
from schemas.control import Progress
from schemas.entries import Token, decode_entry
from schemas.errors import Malformed, SetBack, expired
from schemas.frames import Frame, decode_frame
from schemas.rules.lanes import lane_end
from schemas.sessions import Opening
from transport.following import StreamEntry, entry_read, last_of, read_last
from transport.redis.connection import AsyncPipe, accepted
from transport.sessions import SessionState, find_session, read_state, session_state
from transport.tokens import entries_read, read_entries

# Decoding so many entries, each with 20 listed pieces, takes 1 to 2 ms of the event loop: a tenth of a frame's time.
_PAGE = 500


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


class Answer:
    """One member's answer and thinking: the text, and for each token its start and its entry id, in 24 bytes a token.

    A token ends where the next one starts, the last one at the written end; all in bytes. Methods return only tokens
    whose last byte is released.
    """

    __slots__ = ("_ms", "_numbers", "_released", "_space", "_starts", "_text", "_thoughts", "_written", "next_seq")

    def __init__(self) -> None:
        self.next_seq = 0
        self._written = self._released = 0
        self._starts, self._ms, self._numbers = array("Q"), array("Q"), array("Q")
        # As it is shown, with the white space before position 0, whose tokens are kept until the first text comes.
        self._text, self._space = bytearray(), list[str]()
        self._thoughts: list[tuple[tuple[int, int], str]] = []

    def add(self, entry_id: str, token: Token) -> None:
        """Adds the member's next token."""
        self.next_seq += 1
        order = keys.entry_order(entry_id)
        if token.lane == "thinking":
            self._thoughts.append((order, token.text))
            return
        self._starts.append(self._written)
        self._ms.append(order[0])
        self._numbers.append(order[1])
        self._text += token.text.encode()
        self._written = lane_end(token, self._written)
        if not self._written:
            self._space.append(token.text)

    def text_to(self, position: int, cut: tuple[int, int], buffered: int) -> str:
        """The text up to a frame that released the answer up to the byte `position`, when `buffered` of the tokens up
        to the entry `cut` were not released."""
        if position:
            return self._text[: len(self._text) - self._written + position].decode()
        # White space alone has no position: all of its tokens but the buffered ones are released.
        return "".join(self._space[: self._count_to(cut) - buffered])

    def thinking_to(self, cut: tuple[int, int]) -> str:
        """The thinking up to an entry: it is released as it arrives."""
        return "".join(text for order, text in self._thoughts if order <= cut)

    def _count_to(self, cut: tuple[int, int]) -> int:
        """How many tokens of the answer are at the entry `cut` or before it."""
        count = bisect_right(self._ms, cut[0])
        while count and (self._ms[count - 1], self._numbers[count - 1]) > cut:
            count -= 1
        return count

    def release(self, position: int) -> None:
        """Returns from now on also the added tokens that end at this byte or before it."""
        while self._released < len(self._starts) and self.bounds(self._released)[1] <= position:
            self._released += 1

    @property
    def end(self) -> int:
        """The byte at which the last released token ends."""
        return self._starts[self._released] if self._released < len(self._starts) else self._written

    def entry_id(self, index: int) -> str:
        return f"{self._ms[index]}-{self._numbers[index]}"

    def bounds(self, index: int) -> tuple[int, int]:
        """[start, end) of a token in the answer, in bytes."""
        after = index + 1
        return self._starts[index], self._starts[after] if after < len(self._starts) else self._written

    def covering(self, byte: int) -> range:
        """The index of the token that covers the byte; empty where no released token does."""
        after = bisect_right(self._starts, byte, 0, self._released)
        return range(after - 1, after) if 0 <= byte < self.end else range(0)

    def overlapping(self, first: int, last: int | None) -> range:
        """The indexes of the tokens that overlap [first, last), and of those without bytes inside it. Without `last`:
        up to the end, and those at the end."""
        starts, released = self._starts, self._released
        low = bisect_left(starts, first, 0, released)
        if low and first < self.bounds(low - 1)[1]:
            low -= 1
        return range(low, released if last is None else max(low, bisect_left(starts, last, 0, released)))

    def first_of(self, found: range, most: int) -> tuple[range, int | None]:
        """(the first of them, at most `most`; the byte at which the others begin, None where there are no others).

        Tokens that start at one byte stay together, so that the next page repeats none. Of more than `most` tokens at
        one byte only the last ones are returned: all of them but one have no bytes.
        """
        if len(found) <= most:
            return found, None
        starts, low, stop = self._starts, found.start, found.stop
        cut = bisect_left(starts, starts[low + most], low, stop)
        if cut > low:
            return range(low, cut), starts[cut]
        cut = bisect_right(starts, starts[low], low, stop)
        return range(cut - most, cut), starts[cut] if cut < stop else None


class Answers:
    """The answers of one session's members; `opened` is the id of the opening entry."""

    def __init__(self, opening: Opening, opened: str) -> None:
        self.opening = opening
        self.of_member = [Answer() for _ in opening.members]
        self._read_to = opened
        # The last token that was added: the answers are valid while it stands. A token contains the nanosecond in which
        # it was written, so one that is written again differs; a beat would not.
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
            # The cut is an entry. A damaged recording may lack it, and then so does its replay.
            if state.clock_ms is None and keys.entry_order(self._read_to) < keys.entry_order(state.cut):
                raise SetBack(state.session)
        if frame is not None:
            self.release([member.position_bytes for member in frame.members])

    def texts(self, frame: Frame) -> tuple[list[str], list[str]]:
        """(each member's answer, each member's thinking), as all frames up to this one have shown them."""
        cut = keys.entry_order(frame.cut)
        shown = list(zip(self.of_member, frame.members, strict=True))
        answers = [answer.text_to(member.position_bytes, cut, member.buffered_tokens) for answer, member in shown]
        return answers, [answer.thinking_to(cut) for answer, _ in shown]

    def release(self, positions: Sequence[int]) -> None:
        """Calls Answer.release() of each member with its position; `positions` is empty before the first frame."""
        for answer, position in zip(self.of_member, positions, strict=False):
            answer.release(position)

    def add_entries(self, entries: Sequence[tuple[str, bytes]], progress: Sequence[Progress]) -> None:
        """Adds the accepted tokens of the next entries, which end at the cut that belongs to `progress`.

        Only tokens of the claim in `progress` were ever accepted.
        """
        for entry_id, raw in entries:
            self._add(entry_id, raw, progress)

    def _add(self, entry_id: str, raw: bytes, progress: Sequence[Progress]) -> bool:
        """True where the entry is an accepted token."""
        try:
            token = decode_entry(raw)
        except Malformed:
            return False
        if not isinstance(token, Token) or not 0 <= token.member < len(progress):
            return False
        accepted_of, answer = progress[token.member], self.of_member[token.member]
        if token.claim != accepted_of.claim or not token.seq == answer.next_seq < accepted_of.next_seq:
            return False
        # A claim's tokens count only after its mark.
        if not token.seq and keys.entry_order(entry_id) <= keys.entry_order(token.claim):
            return False
        answer.add(entry_id, token)
        return True

    async def read_tokens(self, pipe: AsyncPipe, member: int, indexes: range) -> list[Token]:
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
