"""The questions of bench/useful.py, and how answers are scored."""

from __future__ import annotations

import operator
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.scoring import (
    LabelledQuestion,
    difference,
    is_right,
    likeliest,
    majority,
    normalised_answer,
    read_questions,
    wilson,
)
from bench.useful import WAYS

QUESTIONS = read_questions()
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def question(*accepted: str) -> LabelledQuestion:
    return LabelledQuestion("facts", "?", accepted)


def test_there_are_200_different_questions_of_three_kinds_and_no_member_is_shown_one_of_them() -> None:
    texts = [question.text for question in QUESTIONS]
    assert Counter(question.kind for question in QUESTIONS) == {"arithmetic": 70, "facts": 70, "spelling": 60}
    assert len({*texts}) == len(texts) == 200
    assert {text for _, *examples in WAYS.values() for text, _ in examples} & {*texts} == set()
    # A member that always takes the first of two spellings is right by chance only.
    pairs = [re.fullmatch(r"Which spelling is correct, (\w+) or (\w+)\?", text) for text in texts]
    first = [pair[1] == q.accepted[0] for pair, q in zip(pairs, QUESTIONS, strict=True) if pair]
    assert (len(first), sum(first)) == (20, 10)


def test_the_answers_that_can_be_computed_are_true() -> None:
    checked = 0
    for one in QUESTIONS:
        answer = normalised_answer(one.accepted[0])
        if found := re.fullmatch(r"What is (\d+) ([-+*/]) (\d+)\?", one.text):
            assert float(answer) == SIGNS[found[2]](int(found[1]), int(found[3])), one
        elif found := re.fullmatch(r"What is the (first|last) letter of the word (\w+)\?", one.text):
            assert answer == found[2][0 if found[1] == "first" else -1], one
        elif found := re.fullmatch(r"How many letters has the word (\w+)\?", one.text):
            assert int(answer) == len(found[1]), one
        elif found := re.fullmatch(r"Spell the word (\w+) with a hyphen between the letters\.", one.text):
            assert answer == "-".join(found[1]), one
        else:
            continue
        checked += 1
    assert checked == 84


@pytest.mark.parametrize(
    ("accepted", "answer", "right"),
    [
        ("Paris", "  PARIS. ", True),
        ("Paris", ' "Paris."', True),
        ("Paris", "**Paris**", True),
        ("Paris", "Paris. It is in France.", True),
        ("Paris", "\nParis\nLyon", True),
        ("Paris", "Paris, France", False),
        ("Paris", "not Paris", False),
        ("South America", "south   america", True),
        ("7", "Seven.", True),
        ("7", "7.0", True),
        ("7", "-7", False),
        ("7", "7.5", False),
        ("1000", "1,000.", True),
        ("100", "1e2", False),
        ("20", "2", False),
        ("H2O", "H₂O", True),
        ("d-o-g", "d-o-g.", True),
        ("Paris", "", False),
    ],
)  # fmt: skip
def test_an_answer_is_right_if_it_equals_an_accepted_one(accepted: str, answer: str, right: bool) -> None:
    assert is_right(question("another one", accepted), answer) is right


def test_every_accepted_answer_is_accepted() -> None:
    assert [q.text for q in QUESTIONS for answer in q.accepted if not is_right(q, f" {answer}.\n")] == []
    assert not any(is_right(q, "The answer is not known.") for q in QUESTIONS)


def test_a_line_without_an_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    for text in ("[facts]\nA question without an answer?\n", "Of no kind? | yes\n", "[facts]\nEmpty? |\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a question"):
            read_questions(path)


def test_the_vote_and_the_likeliest_answer() -> None:
    assert majority(("5", "seven", "7.")) == "seven"
    assert majority(("a", "b", "c")) == "a"
    assert majority(("c", "b", "b", "c")) == "c"
    assert likeliest(("a", "b", "c"), (-2.0, -0.5, -0.5)) == "b"
    assert likeliest(("a", "b"), (None, -3.0)) == "b"
    assert likeliest(("a", "b"), (None, None)) == "a"


def test_the_intervals() -> None:
    """Wilson's are those of the textbooks; that of a difference is of the questions that only one answers right."""
    half = wilson(50, 100)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.4038, 0.5962), abs=1e-4)
    none = wilson(0, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    right = [True, False] * 50
    assert (difference(right, right).low, difference(right, right).high) == (0.0, 0.0)
    better = difference([True] * 20 + right[20:], right)
    assert (better.value, better.low > 0.03, better.high < 0.18) == (pytest.approx(0.1), True, True)
    assert better == difference([True] * 20 + right[20:], right)
