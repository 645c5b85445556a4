"""Questions with known answers, and how well answers to them are: pure functions.

An answer is right if it equals an accepted one after both are normalised: case, white space, quotation marks around it
and final punctuation do not count, and a number counts by its value ("1,000", "1000.0"; "seven" is 7). Only the first
sentence counts: small models often go on with an explanation, or with a question of their own.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import msgspec

QUESTIONS = Path(__file__).with_name("questions.txt")
# The two-sided quantile of the normal distribution for 95 %.
_Z = 1.959963984540054
_RESAMPLES = 10_000
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
# Before and after an answer they do not count; the minus sign of a number does.
_MARKS = " .,;:!?\"'“”‘’`*"
_SENTENCE_END = re.compile(r"[.!?][\"'”’*]*(?=\s|$)")
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")


class LabelledQuestion(msgspec.Struct, frozen=True):
    """`kind` is arithmetic, facts or spelling; `accepted` are the right answers as they are written in the file."""

    kind: str
    text: str
    accepted: tuple[str, ...]


class Interval(msgspec.Struct, frozen=True):
    """A share or a difference of shares, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def read_questions(path: Path = QUESTIONS) -> list[LabelledQuestion]:
    """The questions of the file, in its order. Raises ValueError for a line that is not a question or a heading."""
    kind, found = "", list[LabelledQuestion]()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            kind = heading[1]
            continue
        text, *accepted = (part.strip() for part in line.split("|"))
        if not (kind and text and accepted and all(accepted)):
            raise ValueError(f"line {number} of {path.name} is not a question with answers: {line!r}")
        found.append(LabelledQuestion(kind, text, tuple(accepted)))
    return found


def first_sentence(text: str) -> str:
    """The part of an answer that counts: up to the end of its first sentence, in its first line that is not empty."""
    body = text.lstrip()
    line = body.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return text[: len(text) - len(body) + (end.end() if end else len(line))]


def normalised_answer(text: str) -> str:
    """The first sentence of an answer as it is compared; empty where there is no text."""
    sentence = " ".join(unicodedata.normalize("NFKC", first_sentence(text)).casefold().split()).strip(_MARKS)
    if sentence in _WORDS:
        return str(_WORDS.index(sentence))
    if _NUMBER.fullmatch(sentence):
        return f"{Decimal(sentence.replace(',', '')).normalize():f}"
    return sentence


def is_right(question: LabelledQuestion, answer: str) -> bool:
    return normalised_answer(answer) in {normalised_answer(accepted) for accepted in question.accepted}


def majority(answers: Sequence[str]) -> str:
    """The answer that most of the members gave; of equally many, and where all differ, that of the first member."""
    counts = Counter(map(normalised_answer, answers))
    return max(answers, key=lambda answer: counts[normalised_answer(answer)])


def likeliest(answers: Sequence[str], mean_logprobs: Sequence[float | None]) -> str:
    """The answer with the largest mean logprob of its tokens; of equal ones that of the first member."""
    known = [-math.inf if mean is None else mean for mean in mean_logprobs]
    return answers[known.index(max(known))]


def wilson(right: int, count: int) -> Interval:
    """The share of right answers with Wilson's score interval."""
    share, z2 = right / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def difference(one: Sequence[bool], other: Sequence[bool], seed: int = 19) -> Interval:
    """By how much more of the same questions `one` answers right than `other`, with a percentile interval of the paired
    bootstrap: whole questions are drawn, so that hard questions are hard for both."""
    paired = [a - b for a, b in zip(one, other, strict=True)]
    draws, count = random.Random(seed), len(paired)
    means = sorted(sum(draws.choices(paired, k=count)) / count for _ in range(_RESAMPLES))
    at = round(_RESAMPLES * 0.025)
    return Interval(sum(paired) / count, means[at], means[-1 - at])
