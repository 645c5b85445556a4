"""A draft against a naive model: an answer as one text, and for each of its bytes the token that wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.backend import Written
from producers.member.draft import MOST_LEFT_BRANCHES, Branches, Draft
from schemas.control import Steer
from schemas.entries import Lane, Token

PREFIXES = st.sampled_from(["", "The sky", " The", "é"])
TEXTS = st.sampled_from(["", " ", "\n", " sky", "is", "é", " 空", "🙂"])
IDS = st.none() | st.integers(0, 9)


def token_of(text: str, lane: Lane = "answer") -> Token:
    return Token(0, "5-0", 0, lane, text, 0, 0)


@dataclass
class Naive:
    """`own` has each kept token of the answer: its text, its id, and where it ends."""

    prefix: str
    text: str = ""
    own: list[tuple[str, int | None, int]] = field(default_factory=list)
    given_bytes: int = 0
    thoughts: int = 0
    # (start, end) of each given text that is left, with the prefix.
    given: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.prefix
        if self.prefix:
            self.given.append((0, self.end))

    @property
    def end(self) -> int:
        return len(self.text.encode())

    def add(self, text: str, number: int | None) -> None:
        """White space before the answer's first byte has no position."""
        self.text += text if self.text else text.lstrip(" \n")
        self.own.append((text, number, self.end))

    def boundaries(self) -> list[int]:
        """Where the core may begin a steer: at the end of a token with text, or of the prefix."""
        least = max([0, *[end for _, end in self.given[:1] if self.prefix]])
        return sorted({least, *[end for _, _, end in self.own if end >= least]})

    def steer(self, start: int, text: str) -> Steer:
        self.own = [one for one in self.own if one[2] <= start]
        while (
            self.own and not self.own[-1][0] and not any(end > self.own[-1][2] for _, end in self.given if end <= start)
        ):
            self.own.pop()
        self.given = [(low, high) for low, high in self.given if high <= start]
        self.text = self.text.encode()[:start].decode() + text
        if text:
            self.given.append((start, self.end))
        return Steer(start, self.end, text)

    @property
    def spent(self) -> int:
        given = sum(high - low for low, high in self.given) - len(self.prefix.encode())
        return self.thoughts + len(self.own) + given // 4


steps = st.lists(
    st.one_of(
        st.tuples(st.just("token"), TEXTS, IDS),
        st.tuples(st.just("thought"), TEXTS, IDS),
        st.tuples(st.just("steer"), st.sampled_from(["", " is", "red", "空"]), st.integers(0, 99)),
    ),
    max_size=25,
)


@given(PREFIXES, steps)
def test_a_draft_is_the_text_that_was_written_and_given_with_the_ids_of_own_tokens(
    prefix: str, script: list[tuple[str, str, int | None]]
) -> None:
    draft, naive = Draft(prefix), Naive(prefix)
    for kind, text, number in script:
        if kind == "thought":
            naive.thoughts += 1
            draft.add(token_of(text, "thinking"), number)
        elif kind == "token":
            naive.add(text, number)
            draft.add(token_of(text), number)
        else:
            assert number is not None
            places = naive.boundaries()
            found = draft.steered(naive.steer(places[number % len(places)], text))
            assert found is not None
            draft = found
        assert draft.end == naive.end
        assert draft.spent == naive.spent
        written = draft.written
        shown = "".join(stretch.text for stretch in written)
        assert shown.endswith(naive.text)
        assert not shown.removesuffix(naive.text).strip(), "only white space before position 0 has no position"
        assert [number for stretch in written for number in stretch.ids] == [
            number for _, number, _ in naive.own if number is not None
        ]


def test_stretches_keep_the_order_of_own_and_given_text() -> None:
    draft = Draft("Once")
    draft.add(token_of(" upon"), 7)
    draft.add(token_of(" an"), 8)
    steered = draft.steered(Steer(9, 16, " a time"))
    assert steered is not None
    steered.add(token_of(","), 9)
    steered.add(token_of(" there"), None)
    assert steered.written == (
        Written("Once"), Written(" upon", (7,)), Written(" a time"), Written(",", (9,)), Written(" there"),
    )  # fmt: skip
    assert (steered.end, steered.spent) == (23, 3 + 7 // 4)
    assert draft.written == (Written("Once"), Written(" upon an", (7, 8)))


def test_half_a_character_before_a_given_text_is_not_kept() -> None:
    """A backend yields the first half without text: as an id before given text, it would be half a character."""
    draft = Draft()
    for text, number in ((" so", 1), ("", 2), ("🙂", 3)):
        draft.add(token_of(text), number)
    steered = draft.steered(Steer(2, 5, " is"))
    assert steered is not None
    assert steered.written == (Written(" so", (1,)), Written(" is"))


def test_a_steer_that_begins_where_nothing_ends_has_no_text() -> None:
    draft = Draft("The")
    draft.add(token_of(" sky"), 1)
    assert draft.steered(Steer(9, 12, " is")) is None
    assert draft.steered(Steer(5, 8, " is")) is None
    assert draft.steered(Steer(2, 8, " is so")) is None


def steers(count: int) -> list[Steer]:
    return [Steer(0, 2 * number + 1, "a" + " b" * number) for number in range(count)]


def test_after_a_loss_of_redis_a_member_is_in_an_earlier_branch_again_or_in_another_one_of_the_same_number() -> None:
    branches = Branches(Draft())
    first, second, other = steers(3)
    zero = branches.now
    zero.tokens.append(token_of("x"))
    assert branches.turn_to(1, first)
    one = branches.now
    assert branches.turn_to(2, second)
    assert branches.turn_to(1, first)
    assert branches.now is one
    assert branches.turn_to(1, other)
    assert branches.now not in (zero, one)
    assert branches.now.draft is not None
    assert branches.now.draft.written == (Written("a b b"),)
    assert branches.turn_to(0, None)
    assert branches.now is zero
    assert branches.turn_to(1, first)
    assert branches.now is one


@pytest.mark.parametrize("back", [MOST_LEFT_BRANCHES, MOST_LEFT_BRANCHES + 1])
def test_the_kept_branches_are_bounded(back: int) -> None:
    branches, count = Branches(Draft()), MOST_LEFT_BRANCHES + 3
    for number, steer in enumerate(steers(count), 1):
        assert branches.turn_to(number, steer)
    before = branches.now
    assert branches.turn_to(count - back, steers(count)[count - back - 1]) == (back == MOST_LEFT_BRANCHES)
    assert (branches.now is before) == (back != MOST_LEFT_BRANCHES)
