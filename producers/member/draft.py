"""A member's answer in a session that steers: what its model has written, and the text that it was given. Pure.

    own tokens    " The"   " sky"   " was"   " blue"            positions 0..3..7..11..16
    steered to branch 1, start 7, text " is":
    own tokens    " The"   " sky"                               " was" and " blue" end past 7
    given text                      " is"                       7..10
    own tokens                               " red" ...         the model continues after both

Positions are bytes of the whole answer, with the prefix of the session, by the rules of schemas/rules/lanes.py.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from typing import NamedTuple

from producers.backend import Written
from schemas.control import Steer
from schemas.entries import Finished, Token
from schemas.rules.lanes import lane_end
from schemas.sessions import BYTES_PER_TOKEN

# A failover of Redis loses about a second of its entries, in which a member is steered a few times.
MOST_LEFT_BRANCHES = 8


class _Part(NamedTuple):
    """A token of the model (`token` is its id, where the backend knows it), or a given text, which is `is_own` False.
    It ends at the byte `end`."""

    text: str
    end: int
    is_own: bool
    token: int | None = None


class Draft:
    """What one member has written and was given so far."""

    def __init__(self, prefix: str = "") -> None:
        """`prefix` is the beginning of every answer of the session."""
        self._prefix_bytes = len(prefix.encode())
        self._parts = [_Part(prefix, self._prefix_bytes, is_own=False)] if prefix else []
        self._thoughts = 0

    @property
    def end(self) -> int:
        """The written end of the answer, in bytes."""
        return self._parts[-1].end if self._parts else 0

    @property
    def spent(self) -> int:
        """How much of max_tokens is used: the model's own tokens, its thinking included, and the given text without the
        session's prefix."""
        given = sum([len(part.text.encode()) for part in self._parts if not part.is_own]) - self._prefix_bytes
        return self._thoughts + sum([part.is_own for part in self._parts]) + given // BYTES_PER_TOKEN

    @property
    def written(self) -> tuple[Written, ...]:
        """The answer as a request continues it: own tokens whose ids are all known with their ids, all else as text."""
        stretches = groupby(self._parts, key=lambda part: part.token is not None)
        return tuple([_stretch(list(parts)) for _, parts in stretches])

    def add(self, token: Token, number: int | None) -> None:
        """Adds the model's next token; `number` is its id, where it is known."""
        if token.lane == "thinking":
            self._thoughts += 1
        else:
            self._parts.append(_Part(token.text, lane_end(token, self.end), is_own=True, token=number))

    def steered(self, steer: Steer) -> Draft | None:
        """The draft of the next branch: what ends at or before `steer.start`, and the given text after it. None where
        nothing ends there: the text between is not known."""
        parts = self._parts[:]
        while parts and (parts[-1].end > steer.start or not parts[-1].text):
            # A last token without text may be the first half of a character, which the given text does not complete.
            parts.pop()
        if (parts[-1].end if parts else 0) != steer.start:
            return None
        draft = Draft()
        draft._prefix_bytes, draft._thoughts = self._prefix_bytes, self._thoughts
        draft._parts = [*parts, _Part(steer.text, steer.end, is_own=False)] if steer.text else parts
        return draft


def _stretch(parts: list[_Part]) -> Written:
    ids = tuple([part.token for part in parts if part.token is not None])
    return Written("".join([part.text for part in parts]), ids)


class Branch:
    """One branch of a member: the tokens that its model has written in it, and the end. `draft` is the whole answer;
    None in a session that steers no member, which has the branch 0 alone."""

    __slots__ = ("draft", "ending", "number", "steer", "tokens")

    def __init__(self, number: int, steer: Steer | None, draft: Draft | None) -> None:
        self.number, self.steer, self.draft = number, steer, draft
        self.tokens: list[Token] = []
        self.ending: Finished | None = None


class Branches:
    """`now` is the present branch. The last ones are kept: Redis may lose the newest entries and commits, and the
    member then continues in an earlier branch."""

    def __init__(self, draft: Draft | None) -> None:
        self.now = Branch(0, None, draft)
        # In the order in which they were left.
        self._left: deque[Branch] = deque(maxlen=MOST_LEFT_BRANCHES)

    def turn_to(self, number: int, steer: Steer | None) -> bool:
        """Makes this branch the present one, as the aggregator has it. False where its text cannot be put together."""
        known = [*self._left, self.now]
        found = next((one for one in known if (one.number, one.steer) == (number, steer)), None)
        if found is None:
            befores = [one.draft for one in reversed(known) if one.draft and one.number < number]
            drafts = (draft.steered(steer) for draft in befores if steer)
            draft = next((draft for draft in drafts if draft), None)
            if draft is None:
                return False
            found = Branch(number, steer, draft)
        self._left.extend([] if found is self.now else [self.now])
        if found in self._left:
            self._left.remove(found)
        self.now = found
        return True
