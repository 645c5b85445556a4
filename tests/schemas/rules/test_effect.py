"""The effect of a change: where the answers part, how far that reaches, and whether they come together again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.rules.effect import Effect, effect_of
from schemas.sessions import MAX_PREFIX_BYTES, MAX_TOKENS_LIMIT

PARENT = "The sky is blue because the air scatters light."


@pytest.mark.parametrize(
    ("branch", "byte", "reach", "together"),
    [
        (PARENT, None, (0, 0), None),
        (f"{PARENT}\n", None, (0, 0), None),
        ("The sky was red because the air scatters light.", 8, (8, 2), (16, 16)),
        ("The sky is red and then blue because the air scatters light.", 11, (13, 3), (11, 24)),
        # One word is enough at the end of both, even behind another text.
        ("The sky is dark without light.", 11, (13, 2), (41, 24)),
        # The branch has not come further: three words are enough, two are not.
        ("The sky was red because the air", 8, (8, 2), (16, 16)),
        ("The sky was red because the", 8, (19, 4), None),
        # The parent ended before.
        ("The sky was red because the air scatters light. So it is.", 8, (8, 2), (16, 16)),
        ("The sky was red.", 8, (8, 2), None),
        # The one is the beginning of the other.
        ("The sky is blue because", 23, (0, 0), None),
        (f"{PARENT} So it is.", 47, (10, 3), None),
        # A tail begins at a word, and the white space inside it is the same.
        ("The sky is white because theair scatters light.", 11, (21, 3), (32, 32)),
        ("The sky was red because\nthe air scatters light.", 8, (16, 3), (24, 24)),
        ("", 0, (0, 0), None),
    ],
)
def test_how_far_a_change_reaches(
    branch: str, byte: int | None, reach: tuple[int, int], together: tuple[int, int] | None
) -> None:
    found = effect_of(PARENT, branch)
    assert (found.byte, (found.reach_bytes, found.reach_words), found.together_again) == (byte, reach, together)


def test_positions_are_bytes() -> None:
    found = effect_of("Die Lösung ist schön, denn sie ist kurz.", "Die Lösung wäre schön, denn sie ist kurz.")
    assert (found.byte, found.reach_bytes, found.together_again) == (12, 6, (16, 18))


def test_the_last_words_are_compared_without_their_white_space() -> None:
    found = effect_of("One and one is\n two. ", "One and two is two.")
    assert (found.last_words, found.last_words_differ) == (("one is two.", "two is two."), True)
    assert effect_of("It is 42.", "So it is\n42.").last_words_differ is not False
    assert effect_of("x " * 900 + "it is 42.", "So it\nis 42.").last_words_differ is False
    assert effect_of("", "So").last_words == ("", "So")
    assert len(effect_of("字" * 9000, "x").last_words[0]) == 120


def slow_tail(old: str, new: str, at: int) -> tuple[int, int] | None:
    """The definition: all pairs of words, the longest tail first."""
    starts = [[found.start() for found in re.finditer(r"\S+", text) if found.start() >= at] for text in (old, new)]
    found = [
        (len(shared.split()), one, other)
        for one in starts[0]
        for other in starts[1]
        if (shared := shared_tail(old[one:], new[other:])) is not None
    ]
    longest = max((count for count, _, _ in found), default=0)
    return next(((one, other) for count, one, other in found if count == longest), None)


def shared_tail(old: str, new: str) -> str | None:
    short, long = sorted((old, new), key=len)
    at_a_word = len(long) == len(short) or long[len(short)].isspace()
    is_tail = long.startswith(short) and at_a_word and (old == new or len(short.split()) >= 3)
    return short if is_tail else None


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=14)


@given(WORDS, WORDS, st.lists(st.sampled_from([" ", " ", "\n"]), min_size=28, max_size=28))
def test_the_search_finds_what_the_definition_finds(old: list[str], new: list[str], spaces: list[str]) -> None:
    one = "".join(word + space for word, space in zip(old, spaces[:14], strict=False)).rstrip()
    other = "".join(word + space for word, space in zip(new, spaces[14:], strict=False)).rstrip()
    found = effect_of(one, other)
    assert (found.byte is None) == (one == other)
    if found.byte is None:
        assert found == Effect(None, 0, 0, None, found.last_words, last_words_differ=False)
        return
    slow = slow_tail(one, other, found.byte)
    if slow is None or found.together_again is None:
        assert found.together_again is slow is None
        return
    # Of several longest ones any may be found.
    tails = [shared_tail(one[a:], other[b:]) for a, b in (slow, found.together_again)]
    assert tails[0] is not None
    assert tails[1] is not None
    assert len(tails[0].split()) == len(tails[1].split())


def test_long_answers_are_compared_at_once() -> None:
    words = " ".join(f"w{n % 7}" for n in range(16_000))
    found = effect_of(f"A {words}", f"B {words}")
    assert found.together_again == (2, 2)


def test_texts_longer_than_any_of_a_council_are_not_searched_for_a_common_tail() -> None:
    """The search would take seconds; all other numbers are exact."""
    words = MAX_PREFIX_BYTES // 2 + MAX_TOKENS_LIMIT
    assert effect_of("a" + " x" * (words - 1), "b" + " x" * (words - 1)).together_again == (2, 2)
    longer = effect_of("a" + " x" * words, "b" + " x" * words)
    assert (longer.byte, longer.reach_words, longer.together_again) == (0, words + 1, None)
