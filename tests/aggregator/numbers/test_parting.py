"""Where members parted: compared step by step, and whole texts at once, with the same result."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.numbers.parting import MOST_HEAD_BYTES, Parting

# Two letters only: texts agree for long, and part anywhere.
texts = st.text("ab", max_size=12).map(str.encode) | st.just(b"aaaaaaaaaaaa")


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[bytes], list[tuple[str, int]]]:
    """Two to five answers, and in which order their bytes come, are compared, and members end."""
    answers = draw(st.lists(texts, min_size=2, max_size=5))
    member = st.integers(0, len(answers) - 1)
    steps = st.tuples(st.sampled_from(("write", "write", "write", "compare", "end")), member)
    return answers, draw(st.lists(steps, max_size=40))


@given(stories())
def test_members_part_where_their_texts_first_differ(story: tuple[list[bytes], list[tuple[str, int]]]) -> None:
    """With any order of their bytes, late beginnings and any times of comparing."""
    answers, steps = story
    parting, written = Parting.of(len(answers)), [0] * len(answers)
    present = list(range(len(answers)))
    for step, member in steps:
        if step == "write" and member in present:
            parting.add_text(member, answers[member][written[member] : written[member] + 2])
            written[member] = min(len(answers[member]), written[member] + 2)
        elif step == "end" and member in present:
            present.remove(member)
        elif step == "compare":
            parting.compare(present)
            for x in range(1, min((written[one] for one in present), default=0) + 1):
                shared, parted = parting.parted_at(present, x)
                expected = first_difference([answers[one] for one in present], x)
                assert (shared, parted) == (expected is None, expected)


def first_difference(answers: list[bytes], x: int) -> int | None:
    return min(
        (
            next(place for place in range(x) if one[place] != other[place])
            for one, other in combinations(answers, 2)
            if one[:x] != other[:x]
        ),
        default=None,
    )


def test_text_is_kept_only_while_another_member_is_compared_with_it() -> None:
    parting = Parting.of(3)
    for member in range(3):
        parting.add_text(member, b"The sky")
    parting.compare([0, 1, 2])
    assert [len(head.text) for head in parting.heads] == [0, 0, 0]
    parting.add_text(0, b" is blue")
    parting.add_text(1, b" is grey")
    parting.compare([0, 1, 2])
    assert [head.text for head in parting.heads] == [b" is blue", b" is grey", b""]
    parting.add_text(2, b", you say")
    parting.compare([0, 1, 2])
    assert [head.text for head in parting.heads] == [b"", b"", b""]
    parting.add_text(0, b" today")
    assert parting.heads[0].text == b""
    assert not parting.has_open


def test_the_texts_kept_for_a_member_that_never_begins_are_bounded() -> None:
    parting = Parting.of(3)
    for _ in range(20):
        for member in (0, 1):
            parting.add_text(member, b"x" * (MOST_HEAD_BYTES // 10))
        parting.compare([0, 1, 2])
    assert max(len(head.text) for head in parting.heads) <= MOST_HEAD_BYTES
    parting.add_text(2, b"xxx")
    parting.compare([0, 1, 2])
    assert parting.parted_at([0, 1, 2], 3) == (None, None)
    assert parting.parted_at([0, 1], 3) == (True, None)


@pytest.mark.parametrize(("shared_bytes", "known"), [(0, 0), (MOST_HEAD_BYTES // 2, None)])
def test_where_two_members_parted_stays_known_when_a_third_begins_too_late(
    shared_bytes: int, known: int | None
) -> None:
    """The byte is known only as long as the third cannot have parted from them before."""
    parting = Parting.of(3)
    for member in (0, 1):
        parting.add_text(member, b"x" * shared_bytes + b"%d" % member)
    parting.compare([0, 1, 2])
    for member in (0, 1):
        parting.add_text(member, b"x" * 2 * MOST_HEAD_BYTES)
    parting.add_text(2, b"0" * (shared_bytes + 2))
    parting.compare([0, 1, 2])
    assert parting.parted_at([0, 1, 2], shared_bytes + 2) == (False, known)
    assert parting.parted_at([0, 1], shared_bytes + 2) == (False, shared_bytes)
