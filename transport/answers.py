"""Where each token of an answer lies in its session's token stream, so that whoever points at a byte finds its token.

    token stream    claim A   A:0 " The"   A:1 " sky"   A:1 again   B:2 " sea"   A:2 ""   A:3 " is"
    answer                    [0, 3)       [3, 7)                                [7, 7)   [7, 10)

The stream is read once: what was read of it stays, as numbers, and the next call reads on. A token's text and its list
are read from Redis when they are asked for. While the members keep in step the stream holds tokens that no frame has
released yet: these are known here, and not shown.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from schemas import keys
from schemas.control import Progress
from schemas.entries import Token, decode_entry
from schemas.errors import Malformed, SessionGone
from schemas.frames import Frame, decode_frame
from schemas.rules.lanes import lane_end
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe, accepted
from transport.sessions import SessionState, find_session, read_state, session_state
from transport.tokens import entries_read, read_entries

# As many entries, of 20 listed pieces each, hold the event loop for 1 to 2 ms: a tenth of a frame's time.
_PAGE = 500


async def find_released(pipe: AsyncPipe, session: str, window: int | None = None) -> tuple[SessionState, Frame | None]:
    """The session, and its newest frame (None: it has none yet) or that of the window, if it is kept, in one round
    trip. Raises SessionGone, Malformed, RedisAway, RedisRefuses."""
    first, last = ("+", "-") if window is None else (keys.frame_id(window),) * 2
    found, frames = await pipe.run([read_state(session), ("XREVRANGE", keys.frames(session), first, last, "COUNT", 1)])
    # Where there is none, find_session says so.
    state = session_state(session, found) or await find_session(pipe, session)
    entries = entries_read(accepted(frames))
    return state, decode_frame(entries[0][1]) if entries else None


class Answer:
    """One member's answer: its text, and where each token starts and which entry holds it, in 24 bytes a token; and its
    thinking.

    A token ends where the next one starts, the last one where what was written ends; all in bytes. Only the tokens are
    found whose last byte has been released.
    """

    __slots__ = ("_ms", "_numbers", "_released", "_space", "_starts", "_text", "_thoughts", "_written", "next_seq")

    def __init__(self) -> None:
        self.next_seq = 0
        self._written = self._released = 0
        self._starts, self._ms, self._numbers = array("Q"), array("Q"), array("Q")
        # As it is shown: with the white space before position 0, token by token until that is known.
        self._text, self._space = bytearray(), list[str]()
        self._thoughts: list[tuple[tuple[int, int], str]] = []

    def add(self, entry_id: str, token: Token) -> None:
        """The member's next token."""
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

    def text_to(self, position: int, cut: tuple[int, int], waiting: int) -> str:
        """What a frame has shown that released the answer up to the byte `position`, where `waiting` of the tokens up
        to the entry `cut` were still to go out."""
        if position:
            return self._text[: len(self._text) - self._written + position].decode()
        # White space alone has no position: as many of its tokens are out as do not wait.
        return "".join(self._space[: self._count_to(cut) - waiting])

    def thinking_to(self, cut: tuple[int, int]) -> str:
        """The thinking up to an entry: it goes out as it comes."""
        return "".join(text for order, text in self._thoughts if order <= cut)

    def _count_to(self, cut: tuple[int, int]) -> int:
        """How many tokens of the answer came up to an entry."""
        count = bisect_right(self._ms, cut[0])
        while count and (self._ms[count - 1], self._numbers[count - 1]) > cut:
            count -= 1
        return count

    def release(self, position: int) -> None:
        """Finds from now on, of what was added, the tokens that end at this byte or before it. What was found stays."""
        while self._released < len(self._starts) and self.bounds(self._released)[1] <= position:
            self._released += 1

    @property
    def end(self) -> int:
        """Where the last token ends that is found."""
        return self._starts[self._released] if self._released < len(self._starts) else self._written

    def entry_id(self, index: int) -> str:
        return f"{self._ms[index]}-{self._numbers[index]}"

    def bounds(self, index: int) -> tuple[int, int]:
        """[start, end) of a token, in bytes."""
        after = index + 1
        return self._starts[index], self._starts[after] if after < len(self._starts) else self._written

    def covering(self, byte: int) -> range:
        """The index of the token that covers the byte; empty where there is none (yet)."""
        after = bisect_right(self._starts, byte, 0, self._released)
        return range(after - 1, after) if 0 <= byte < self.end else range(0)

    def overlapping(self, first: int, last: int | None) -> range:
        """The indexes of the tokens that overlap [first, last), and of those without bytes that stand inside it.
        Without `last`: up to the end, and what stands there."""
        starts, released = self._starts, self._released
        low = bisect_left(starts, first, 0, released)
        if low and first < self.bounds(low - 1)[1]:
            low -= 1
        return range(low, released if last is None else max(low, bisect_left(starts, last, 0, released)))

    def first_of(self, found: range, most: int) -> tuple[range, int | None]:
        """The first of them, `most` at the most, and the byte at which the others begin (None: there are none).

        Tokens that start at one byte stay together, so that nothing comes twice. Of more than `most` at one byte only
        the last ones are given: all of them but one have no bytes.
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
        self._turn = asyncio.Lock()

    async def catch_up(self, pipe: AsyncPipe, state: SessionState, frame: Frame | None) -> None:
        """Reads on to what is committed in `state`; of that the tokens are found that the frame, or an earlier one, has
        released. Raises SessionGone, RedisAway, RedisRefuses; what was read before that stays read."""
        async with self._turn:
            while keys.entry_order(self._read_to) < keys.entry_order(state.cut):
                reading = read_entries(state.session, self._read_to, state.cut, _PAGE)
                reply, still = await pipe.run([reading, read_state(state.session)])
                page = entries_read(accepted(reply))
                if session_state(state.session, still) is None:
                    # Deleted meanwhile: what is missing was there.
                    raise SessionGone(f"The session {state.session!r} has expired.")
                self.add_entries(page, state.progress)
                self._read_to = page[-1][0] if len(page) == _PAGE else state.cut
        if frame is not None:
            self.release([member.position_bytes for member in frame.members])

    def texts(self, frame: Frame) -> tuple[list[str], list[str]]:
        """(each member's whole answer, its whole thinking), as all frames up to this one have shown them."""
        cut = keys.entry_order(frame.cut)
        shown = list(zip(self.of_member, frame.members, strict=True))
        answers = [answer.text_to(member.position_bytes, cut, member.buffered_tokens) for answer, member in shown]
        return answers, [answer.thinking_to(cut) for answer, _ in shown]

    def release(self, positions: Sequence[int]) -> None:
        """Answer.release() of each member; none before there is a frame."""
        for answer, position in zip(self.of_member, positions, strict=False):
            answer.release(position)

    def add_entries(self, entries: Sequence[tuple[str, bytes]], progress: Sequence[Progress]) -> None:
        """The next entries of the stream, up to the cut at which `progress` was true: of these the accepted tokens.

        The claim that has won by then is the one whose tokens were accepted before it, and no other's ever were.
        """
        for entry_id, raw in entries:
            self._add(entry_id, raw, progress)

    def _add(self, entry_id: str, raw: bytes, progress: Sequence[Progress]) -> None:
        try:
            token = decode_entry(raw)
        except Malformed:
            return
        if not isinstance(token, Token) or not 0 <= token.member < len(progress):
            return
        accepted_of, answer = progress[token.member], self.of_member[token.member]
        if token.claim != accepted_of.claim or not token.seq == answer.next_seq < accepted_of.next_seq:
            return
        # Nothing of a claim counts before its mark.
        if token.seq or keys.entry_order(entry_id) > keys.entry_order(token.claim):
            answer.add(entry_id, token)

    async def read_tokens(self, pipe: AsyncPipe, member: int, indexes: range) -> list[Token]:
        """These tokens of the member, in one round trip. Raises SessionGone where the stream does not hold them (any
        more), RedisAway, RedisRefuses."""
        answer, key = self.of_member[member], keys.tokens(self.opening.session)
        ids = [answer.entry_id(index) for index in indexes]
        replies = await pipe.run([("XRANGE", key, entry_id, entry_id) for entry_id in ids])
        tokens = [decode_entry(raw) for reply in replies for _, raw in entries_read(accepted(reply))]
        found = [token for token in tokens if isinstance(token, Token) and token.member == member]
        if len(found) < len(ids):
            raise SessionGone(f"The session {self.opening.session!r} has expired.")
        return found
