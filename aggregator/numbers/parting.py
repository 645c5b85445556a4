"""Where members parted: the first byte at which two answers differ.

    member 0   The sky is blue            pair 0 1   differ at byte 11
    member 1   The sky is grey            pair 0 2   the same up to byte 3, where member 2 is
    member 2   The

Two answers that parted are not compared again. Of two that have not, the text after the byte up to which they were
compared is kept; once all have parted, none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import msgspec

# The longest answer, 8,192 tokens of eight bytes. So much is kept only for a member that has not begun yet.
MOST_HEAD_BYTES = 65_536


class Pair(msgspec.Struct, array_like=True):
    """Two members: their answers are the same before the byte `same_to`. From there on they differ where `has_parted`,
    and where `is_lost` it is not known."""

    one: int
    other: int
    same_to: int = 0
    has_parted: bool = False
    is_lost: bool = False


class Head(msgspec.Struct, array_like=True):
    """The bytes of a member's answer from `start` on, so far. `is_wanted` while it is compared with another one."""

    start: int = 0
    text: bytes = b""
    is_wanted: bool = True


class Parting(msgspec.Struct, array_like=True):
    """All pairs of a session's members, and what is still to be compared."""

    pairs: list[Pair]
    heads: list[Head]
    has_open: bool = True

    @classmethod
    def of(cls, members: int, begin: int = 0) -> Parting:
        """Before any text; all answers begin with the same `begin` bytes."""
        pairs = [Pair(one, other, begin) for one, other in combinations(range(members), 2)]
        return cls(pairs, [Head(begin) for _ in range(members)])

    def add_text(self, member: int, text: bytes) -> None:
        """The next bytes of a member's answer."""
        head = self.heads[member]
        if not head.is_wanted:
            return
        head.text += text
        if len(head.text) > MOST_HEAD_BYTES:
            cut = len(head.text) - MOST_HEAD_BYTES
            head.start, head.text = head.start + cut, head.text[cut:]

    def compare(self, present: Sequence[int]) -> None:
        """Compares the answers as far as they have come. `present` are the members that may still be aligned."""
        if not self.has_open:
            return
        ends = [head.start + len(head.text) for head in self.heads]
        # Of each member the first byte that is not yet compared with every other member's.
        wanted: dict[int, int] = {}
        for pair in self.pairs:
            one, other = pair.one, pair.other
            if pair.has_parted or pair.is_lost or one not in present or other not in present:
                continue
            if ends[one] > pair.same_to < ends[other]:
                self._compare(pair, min(ends[one], ends[other]))
                if pair.has_parted or pair.is_lost:
                    continue
            if wanted.get(one, pair.same_to) >= pair.same_to:
                wanted[one] = pair.same_to
            if wanted.get(other, pair.same_to) >= pair.same_to:
                wanted[other] = pair.same_to
        for member, head in enumerate(self.heads):
            if member not in wanted:
                head.text, head.is_wanted = b"", False
            elif wanted[member] > head.start:
                head.text, head.start = head.text[wanted[member] - head.start :], wanted[member]
        self.has_open = bool(wanted)

    def _compare(self, pair: Pair, end: int) -> None:
        """Compares two members up to the byte `end`."""
        one, other = self.heads[pair.one], self.heads[pair.other]
        if pair.same_to < max(one.start, other.start):
            pair.is_lost = True
            return
        text = one.text[pair.same_to - one.start : end - one.start]
        against = other.text[pair.same_to - other.start : end - other.start]
        pair.has_parted = text != against
        pair.same_to = end if not pair.has_parted else pair.same_to + _shared_bytes(text, against)

    def parted_at(self, members: Sequence[int], x: int) -> tuple[bool | None, int | None]:
        """Whether these members wrote the same before the byte x, and if not, the byte at which they parted.

        Where one of them began when another was MOST_HEAD_BYTES ahead, this may be unknown (None, None), or only the
        byte (False, None).
        """
        parted = known_to = x
        for pair in self.pairs:
            if pair.one in members and pair.other in members and pair.same_to < x:
                if pair.is_lost:
                    known_to = min(known_to, pair.same_to)
                elif pair.has_parted:
                    parted = min(parted, pair.same_to)
        if parted < x:
            return False, parted if parted <= known_to else None
        return (True, None) if known_to == x else (None, None)


def _shared_bytes(one: bytes, other: bytes) -> int:
    """How many bytes two different texts of one length share at their beginning."""
    return next(index for index, (mine, theirs) in enumerate(zip(one, other, strict=True)) if mine != theirs)
