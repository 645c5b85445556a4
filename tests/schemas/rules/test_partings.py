"""Joining and counting the decisions of a council, and the advice that follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.frames import Decision
from schemas.rules.partings import Partings, joined_decisions


def unanimous(at: int, end: int) -> Decision:
    return Decision(at, end, "unanimous")


def parted(at: int, end: int, *against: int, share: float = 0.6, kind: str = "certain") -> Decision:
    return Decision(at, end, kind, 0, share, "no", 1 - share, 0.5, against)  # type: ignore[arg-type]


def test_decisions_that_touch_are_joined_unless_they_decided_a_parting() -> None:
    alone = [Decision(10, 12, "followed", 1), Decision(12, 15, "followed", 1), Decision(15, 16, "followed", 0)]
    found = joined_decisions([unanimous(0, 2), unanimous(2, 5), parted(5, 7, 1), parted(7, 10, 1), *alone])
    assert found == (
        unanimous(0, 5), parted(5, 7, 1), parted(7, 10, 1), Decision(10, 15, "followed", 1),
        Decision(15, 16, "followed", 0),
    )  # fmt: skip
    assert joined_decisions([unanimous(0, 2), unanimous(3, 5)]) == (unanimous(0, 2), unanimous(3, 5))


@given(st.lists(st.sampled_from(["unanimous", "certain", "followed"])), st.data())
def test_joining_in_steps_is_joining_at_once(kinds: list[str], data: st.DataObject) -> None:
    decisions = [Decision(at, at + 1, kind) for at, kind in enumerate(kinds)]  # type: ignore[arg-type]
    cut = data.draw(st.integers(0, len(kinds)))
    assert joined_decisions([*joined_decisions(decisions[:cut]), *decisions[cut:]]) == joined_decisions(decisions)


def partings_of(*lost: int, count: int = 10) -> Partings:
    """`count` partings, of which each member loses so many."""
    found = Partings()
    for number in range(count):
        against = (member for member, most in enumerate(lost) if number < most)
        found.add([unanimous(5 * number, 5 * number + 3), parted(5 * number + 3, 5 * number + 5, *against)])
    return found


@pytest.mark.parametrize(
    ("lost", "advice"),
    [
        ((1, 9), "b lost 9 of 10 partings: the answer is nearly that of a, which costs less alone."),
        (
            (9, 10, 0),
            "a lost 9 of 10 partings and b lost 10 of 10 partings: the answer is nearly that of c, which costs less "
            "alone.",
        ),
        ((2, 9, 3), "b lost 9 of 10 partings: leave it out, the answer is nearly the same and costs less."),
        (
            (9, 9, 3, 4),
            "a lost 9 of 10 partings and b lost 9 of 10 partings: leave them out, the answer is nearly the same and "
            "costs less.",
        ),
        ((2, 8), ""),
        ((9, 9), ""),
    ],
)
def test_a_member_that_lost_nearly_all_partings_is_named_with_the_cheaper_choice(
    lost: tuple[int, ...], advice: str
) -> None:
    assert partings_of(*lost).advice("abcd"[: len(lost)]) == advice


def test_few_partings_give_no_advice() -> None:
    assert partings_of(0, 9, count=9).advice("ab") == ""


@pytest.mark.parametrize("prefix", [0, 1000], ids=["", "behind a given prefix"])
def test_the_partings_of_a_session_in_words_and_numbers(prefix: int) -> None:
    found = Partings()
    found.add([unanimous(prefix, prefix + 50)])
    assert found.sentence == "The council agreed on 50 bytes, and the drafts never parted."
    found.add([parted(prefix + 50, prefix + 60, 1, share=0.5)])
    found.add([parted(prefix + 60, prefix + 100, 0, 1, share=0.7, kind="estimate")])
    assert found.as_object(2) == {
        "count": 2, "per_100_bytes": 2.0, "estimates": 1, "mean_share": 0.6, "lost": [1, 2],
    }  # fmt: skip
    assert found.sentence == (
        "The council agreed on 100 bytes; the drafts parted 2 times (2.0 in 100 bytes, 1 of them estimated); the texts "
        "that won had a share of 0.60 on average."
    )


def test_the_given_beginning_of_a_branch_was_not_agreed_on() -> None:
    found = Partings()
    found.add([unanimous(900, 960), parted(960, 1_000, 1, share=0.5, kind="estimate")])
    assert found.as_object(2)["per_100_bytes"] == 1.0
    assert found.sentence == (
        "The council agreed on 100 bytes; the drafts parted once (1.0 in 100 bytes, estimated); the texts that won had "
        "a share of 0.50 on average."
    )
