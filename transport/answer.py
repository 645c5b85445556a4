"""One member's answer as it stands in the token stream: the position of each token, to find the token of a byte. Pure.

token stream    claim A   A:0 " The"   A:1 " sky"   A:2 " so"   steered to branch 1 at 7: " is"   A:0 " red"
answer                    [0, 3)       [3, 7)                   [7, 10) given                     [10, 14)
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from schemas import keys
from schemas.entries import Steered, Token
from schemas.rules.lanes import lane_end
from schemas.rules.words import shared_beginning


class Answer:
    """One member's answer and thinking: the text, and for each of its parts the start, in 24 bytes a part.

    A part is a token, with its entry id, or text that was given to the member: the prefix of the session, or what the
    council agreed on in place of the member's own draft. A part ends where the next one starts, the last one at the
    written end; all in bytes. Methods return only parts whose last byte is released.
    """

    __slots__ = (
        "_given", "_ms", "_numbers", "_released", "_space", "_starts", "_text", "_thoughts", "_written", "branch",
        "next_seq",
    )  # fmt: skip

    def __init__(self, prefix: str = "") -> None:
        self.branch = self.next_seq = 0
        self._written = self._released = 0
        self._starts, self._ms, self._numbers = array("Q"), array("Q"), array("Q")
        # The indexes of the parts that are not tokens.
        self._given = set[int]()
        # As it is shown, with the white space before position 0, whose tokens are kept until the first text comes.
        self._text, self._space = bytearray(), list[str]()
        self._thoughts: list[tuple[tuple[int, int], str]] = []
        self._give(prefix.encode())

    def steer(self, mark: Steered) -> None:
        """Begins a branch: of the accepted tokens those that end at the byte `start` or before it stay, and `text`
        follows them."""
        for _ in range(mark.tokens, self.next_seq):
            self._remove_newest()
        self.branch, self.next_seq = mark.branch, 0
        self._remove_after(max(0, mark.start))
        self._give(mark.text.encode())

    def _remove_newest(self) -> None:
        """Removes the token that was added last."""
        order = (self._ms[-1], self._numbers[-1]) if self._starts else (0, 0)
        if self._thoughts and self._thoughts[-1][0] > order:
            self._thoughts.pop()
        elif self._starts:
            self._cut(self._pop())

    def _remove_after(self, position: int) -> None:
        """Removes the parts that end past the position. Given text may end there in part."""
        written = self._written
        while written > position and self._starts[-1] >= position:
            written = self._pop()
        if written > position:
            # Of a damaged stream, it may be a token of which a part remains: the rest is not a token.
            self._given.add(len(self._starts) - 1)
            written = position
        self._cut(written)

    def _pop(self) -> int:
        """Removes the last part, and returns where it began."""
        last = len(self._starts) - 1
        if not self._written and last not in self._given:
            self._space.pop()
        self._given.discard(last)
        self._ms.pop()
        self._numbers.pop()
        return self._starts.pop()

    def _cut(self, written: int) -> None:
        """The answer ends at this byte."""
        del self._text[len(self._text) - self._written + written :]
        self._written = written
        self._released = min(self._released, len(self._starts))
        if not written:
            self._text[:] = "".join(self._space).encode()

    def _give(self, data: bytes) -> None:
        """Adds text that no token covers."""
        if data:
            self._given.add(len(self._starts))
            self._starts.append(self._written)
            self._ms.append(0)
            self._numbers.append(0)
            self._text += data
            self._written += len(data)

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

    def beginning(self, position: int) -> bytes | None:
        """The first `position` bytes, without white space before position 0; None where fewer are written."""
        begin = len(self._text) - self._written
        return bytes(self._text[begin : begin + position]) if position <= self._written else None

    def shared_with(self, text: bytes) -> int:
        """How many of the first bytes of `text`, in whole characters, the answer begins with."""
        begin = len(self._text) - self._written
        return len(shared_beginning([bytes(self._text[begin : begin + len(text)]), text]))

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
        """Returns from now on also the added parts that end at this byte or before it."""
        while self._released < len(self._starts) and self.bounds(self._released)[1] <= position:
            self._released += 1

    @property
    def end(self) -> int:
        """The byte at which the last released part ends."""
        return self._starts[self._released] if self._released < len(self._starts) else self._written

    def entry_id(self, index: int) -> str:
        return f"{self._ms[index]}-{self._numbers[index]}"

    def bounds(self, index: int) -> tuple[int, int]:
        """[start, end) of a part in the answer, in bytes."""
        after = index + 1
        return self._starts[index], self._starts[after] if after < len(self._starts) else self._written

    def covering(self, byte: int) -> range:
        """The index of the part that covers the byte; empty where no released part does."""
        after = bisect_right(self._starts, byte, 0, self._released)
        return range(after - 1, after) if 0 <= byte < self.end else range(0)

    def overlapping(self, first: int, last: int | None) -> range:
        """The indexes of the parts that overlap [first, last), and of tokens without bytes inside it. Without `last`:
        up to the end, and those at the end."""
        starts, released = self._starts, self._released
        low = bisect_left(starts, first, 0, released)
        if low and first < self.bounds(low - 1)[1]:
            low -= 1
        return range(low, released if last is None else max(low, bisect_left(starts, last, 0, released)))

    def first_of(self, found: range, most: int) -> tuple[range, int | None]:
        """(the first of them, at most `most`; the byte at which the others begin, None where there are no others).

        Parts that start at one byte stay together, so that the next page repeats none. Of more than `most` parts at one
        byte only the last ones are returned: all of them but one have no bytes.
        """
        if len(found) <= most:
            return found, None
        starts, low, stop = self._starts, found.start, found.stop
        cut = bisect_left(starts, starts[low + most], low, stop)
        if cut > low:
            return range(low, cut), starts[cut]
        cut = bisect_right(starts, starts[low], low, stop)
        return range(cut - most, cut), starts[cut] if cut < stop else None

    def tokens_of(self, found: range) -> list[int]:
        """Those of these parts that are tokens."""
        return [index for index in found if index not in self._given]

    def given_of(self, found: range) -> list[tuple[int, int]]:
        """[start, end) of the text in these parts that was given to the member."""
        joined: list[tuple[int, int]] = []
        for index in found:
            if index in self._given:
                start, end = self.bounds(index)
                touches = joined and joined[-1][1] == start
                joined[-1:] = [(joined[-1][0], end)] if touches else [*joined[-1:], (start, end)]
        return joined
