"""Where each token of an answer lies in its session's token stream, so that whoever points at a byte finds its token.

    token stream    claim A   A:0 " The"   A:1 " sky"   A:1 again   B:2 " sea"   A:2 ""   A:3 " is"
    answer                    [0, 3)       [3, 7)                                [7, 7)   [7, 10)

The stream is read once: what was read of it stays, as numbers, and the next call reads on. A token's text and its list
are read from Redis when they are asked for.
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
from schemas.lanes import lane_end
from schemas.sessions import Opening
from transport.connection import AsyncPipe, accepted
from transport.sessions import SessionState
from transport.tokens import entries_read, read_entries

# As many entries, of 20 listed pieces each, hold the event loop for 1 to 2 ms: a tenth of a frame's time.
_PAGE = 500


class Answer:
    """One member's released answer: where each token starts and which entry holds it, in 24 bytes a token.

    A token ends where the next one starts, the last one at `end`; all in bytes.
    """

    __slots__ = ("_ms", "_numbers", "_starts", "end", "next_seq")

    def __init__(self) -> None:
        self.next_seq = 0
        self.end = 0
        self._starts, self._ms, self._numbers = array("Q"), array("Q"), array("Q")

    def add(self, entry_id: str, token: Token) -> None:
        """The member's next token: of its thinking only the seq counts here."""
        self.next_seq += 1
        if token.lane == "answer":
            ms, number = keys.entry_order(entry_id)
            self._starts.append(self.end)
            self._ms.append(ms)
            self._numbers.append(number)
            self.end = lane_end(token, self.end)

    def entry_id(self, index: int) -> str:
        return f"{self._ms[index]}-{self._numbers[index]}"

    def bounds(self, index: int) -> tuple[int, int]:
        """[start, end) of a token, in bytes."""
        after = index + 1
        return self._starts[index], self._starts[after] if after < len(self._starts) else self.end

    def covering(self, byte: int) -> range:
        """The index of the token that covers the byte; empty where there is none (yet)."""
        after = bisect_right(self._starts, byte)
        return range(after - 1, after) if 0 <= byte < self.end else range(0)

    def overlapping(self, first: int, last: int | None) -> range:
        """The indexes of the tokens that overlap [first, last), and of those without bytes that stand inside it.
        Without `last`: up to the end, and what stands there."""
        starts = self._starts
        low = bisect_left(starts, first)
        if low and first < self.bounds(low - 1)[1]:
            low -= 1
        return range(low, len(starts) if last is None else max(low, bisect_left(starts, last)))

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
    """The released answers of one session's members; `opened` is the id of the opening entry."""

    def __init__(self, opening: Opening, opened: str) -> None:
        self.opening = opening
        self.of_member = [Answer() for _ in opening.members]
        self._read_to = opened
        self._turn = asyncio.Lock()

    async def catch_up(self, pipe: AsyncPipe, state: SessionState) -> None:
        """Reads on to what is committed in `state`. Raises RedisAway, RedisRefuses; what was read before that stays
        read."""
        async with self._turn:
            while keys.entry_order(self._read_to) < keys.entry_order(state.cut):
                (reply,) = await pipe.run([read_entries(state.session, self._read_to, state.cut, _PAGE)])
                page = entries_read(accepted(reply))
                self.add_entries(page, state.progress)
                self._read_to = page[-1][0] if len(page) == _PAGE else state.cut

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
