"""The models of the test server: a bigram model of one short text, with real logprobs."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

TEXT = """
The council sits around a table and every member reads the same question. One of them begins with a word, another one
waits for a moment, and the third already knows how the sentence ends. They do not hear each other. When two of them say
the same word at the same time the table hums, and when they part the hum becomes a beat. A small member is quick and
often wrong. A large member is slow and often right. The question does not care. Whoever reads the answer sees a river
of words, and beside the river a thin line that rises when the members agree and falls when they do not. At the end the
line is flat, the table is quiet, and every member forgets what the question was.
"""
END = ""
# How often a word follows another one counts much, how often it occurs counts little.
FOLLOWS, OCCURS = 8.0, 0.2
COUNT = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
# An answer is longer than this, if max_tokens allows it.
LEAST = 24


@dataclass(frozen=True)
class Spoken:
    """A token, the natural logarithm of its probability, and the likeliest tokens at its position."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


def _tokens() -> list[str]:
    words = TEXT.replace(".", " .").replace(",", " ,").split()
    return [word if word in ".," else f" {word}" for word in words]


def _distributions() -> dict[str, tuple[list[str], list[float]]]:
    """For each token, the possible next tokens with their probabilities, the likeliest first."""
    tokens = _tokens()
    occurs = Counter(tokens)
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    for token, follower in zip([".", *tokens], tokens, strict=False):
        follows[token][follower] += 1
        if token == ".":
            follows[token][END] += 1
    found = {}
    for token in occurs:
        weights = {other: FOLLOWS * follows[token][other] + OCCURS * count for other, count in occurs.items()}
        if END in follows[token]:
            weights[END] = FOLLOWS * follows[token][END] / 4
        total = sum(weights.values())
        ranked = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
        found[token] = [other for other, _ in ranked], [weight / total for _, weight in ranked]
    return found


_FOLLOWERS = _distributions()


def spoken(key: str, temperature: float, most: int, begun: str = "") -> Iterator[Spoken]:
    """At most `most` tokens, the same for the same key. The last one is the end, unless `most` is too few. They
    continue `begun`, if its last word is known; also a count from one to ten."""
    chance = random.Random(key)
    *_, last = begun.replace(".", " .").replace(",", " ,").split() or ["."]
    if last in COUNT:
        yield from [Spoken(f" {word}", 0.0, ((f" {word}", 0.0),)) for word in COUNT[COUNT.index(last) + 1 :]][:most]
        return
    token = next((known for known in (last, f" {last}") if known in _FOLLOWERS), ".")
    start = len(begun.split())
    for place in range(start, start + most):
        others, probabilities = _FOLLOWERS[token]
        if temperature > 0:
            weights = [probability ** (1 / temperature) for probability in probabilities]
            token = chance.choices(others, weights)[0]
        else:
            token = others[0]
        if token == END and place < LEAST:
            token = next(other for other in others if other != END)
        if token == END:
            return
        names = [other.lstrip() for other in others] if place == 0 else others
        top = tuple((name, round(math.log(p), 7)) for name, p in zip(names, probabilities, strict=True))
        place_in_list = others.index(token)
        yield Spoken(*top[place_in_list], top)
