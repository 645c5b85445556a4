"""The votes of the oracle itself: what a member says lies between its low and its high, whatever its list left out."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.oracle.deciding import Vote, decided, high_of, low_of

# The first two are the beginnings of characters; b"" is the end.
PIECES = (b"\xc3", b"\xf0\x9f", b"a", b"ab", b"abb", b"b", b"ba", b"\xa9", "é".encode(), "éa".encode(), b"aba")
TEXTS = (b"", b"a", b"b", b"ab", b"bb", b"ba", b"\xa9", b"\xa9a", b"aab")
counts = st.integers(1, 9)


def shares(drawn: dict[bytes, int]) -> dict[bytes, Fraction]:
    total = sum(drawn.values())
    return {text: Fraction(count, total) for text, count in drawn.items()}


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from((b"", *PIECES)), counts, min_size=2, max_size=7),
    st.lists(st.dictionaries(st.sampled_from(TEXTS), counts, min_size=1, max_size=3), min_size=12, max_size=12),
    st.integers(1, 7),
    st.sampled_from((b"", b"", b"a", b"ab", b"b", b"\xc3")),
    st.sampled_from((b"a", b"b", b"ab", b"ba", b"bb", b"\xc3", "é".encode(), b"\xa9", b"")),
)
@example({b"ab": 35, b"a": 34, b"ac": 31}, [{b"c": 1}] * 12, 7, b"", b"ac")
def test_the_truth_lies_between_low_and_high(
    pieces: dict[bytes, int], after: list[dict[bytes, int]], listed: int, written: bytes, text: bytes
) -> None:
    """The truth: the next token by its full distribution, and any text after it."""
    true = shares(pieces)
    begins, continues = Fraction(0), Fraction(0)
    for (piece, p), more in zip(sorted(true.items()), after, strict=False):
        for rest, share in shares(more if piece else {b"": 1}).items():
            answer = piece + rest
            if answer.startswith(written):
                begins += p * share
                is_end = answer == written and (bool(piece) or not written)
                # A token without text after it ends no answer: only an answer that has begun may end in `rest`.
                continues += p * share * (answer.startswith(written + text) if text else is_end)
    assume(begins)
    ranked = sorted(true, key=lambda piece: (-true[piece], piece))[:listed]
    vote = Vote(
        1.0, written + b"a", 1, written, {piece: float(true[piece]) for piece in ranked},
        float(1 - sum(true[piece] for piece in ranked)),
    )  # fmt: skip
    near = Fraction(1, 10**12)
    assert low_of(vote, text) - near <= continues / begins <= high_of(vote, text) + near


def test_equal_drafts_are_not_decided_by_what_they_do_not_say() -> None:
    """The example of docs/maths.md, where a third member parts from both."""
    one = Vote(1.0, b"a", 1, b"", {b"a": 0.4, b"bc": 0.35, b"bd": 0.25})
    other = Vote(1.0, b"a", 1, b"", {b"a": 0.4, b"be": 0.3, b"bf": 0.3})
    third = Vote(1.0, b"c", 1)
    outcome = decided([one, other, third])
    assert outcome.winner.text == b"c"
    assert [branch.text for branch in outcome.branches] == [b"c", b"a"]


def test_drafts_that_share_a_character_are_branches_of_the_common_span() -> None:
    votes = [Vote(2.0, b"abx", 2), Vote(1.0, b"acx", 3), Vote(1.0, b"dx", 2), Vote(1.0, "éx".encode(), 3)]
    outcome = decided(votes)
    assert [branch.text for branch in outcome.branches] == [b"ab", b"ac", b"d", "é".encode()]
    assert (outcome.leader, outcome.against) == (0, (1, 2, 3))


def test_a_member_without_weight_puts_up_no_branch() -> None:
    """Its own list gives more to what the weightless member writes, and it writes on as if it were alone."""
    votes = [Vote(1.0, b"a", 1, b"", {b"a": 0.4, b"bc": 0.35, b"bd": 0.25}), Vote(0.0, b"b", 1)]
    assert decided(votes).winner.text == b"a"
    assert decided(list(reversed(votes))).against == (0,)
