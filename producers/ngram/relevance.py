"""How a model that never saw a question keeps to its subject: passages that share the prompt's rare words count more.

The weight of a passage multiplies every count that an n-gram model takes from it. So the weighted probabilities are as
much the model's own as unweighted ones: they are what it would have learnt from a text that repeats these passages.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]

# What the best match counts, where a passage that shares nothing counts 1. Of 300 passages the best few dozen then make
# up half of the model, so that an answer keeps to its subject and yet recites no passage.
BEST_MATCH = 100.0
# A word that hardly any passage holds says little about what the others are about, so it does not steer.
MIN_PASSAGES = 3
# What questions are made of, whatever they ask about. The corpus asks none, so these words would pass for rare ones.
_QUESTION_WORDS = """
    about any between both but can could describe did difference different do does doing done each every example explain
    find from get give had has have help here how important into just keep kind like look made main make many may me
    mean more most much must need never often on one only other out own part possible real really should simple some
    such tell than their them there these they thing those through two up us use used useful uses using want was way
    ways well were what when where whether which who whose why will without word words work works would write you your
"""
QUESTION_WORDS = frozenset(_QUESTION_WORDS.split())

_WORD = re.compile(r"[^\W_]{2,}")


class PassageIndex:
    """Which passages hold which words that steer, in lower case and less a last s (loops is loop)."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._size = len(passages)
        holders: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for number, passage in enumerate(passages):
            for word, times in Counter(_WORD.findall(passage.lower())).items():
                of_word = holders[word.removesuffix("s")]
                of_word[number] = of_word.get(number, 0) + times
        # Most words are in a passage or two: they never steer.
        self._holders = {word: of_word for word, of_word in holders.items() if len(of_word) >= MIN_PASSAGES}

    def weights(self, prompt: str) -> Weights:
        """One weight a passage, from 1 (shares nothing) to BEST_MATCH; all 1 where no word of the prompt steers.

        A passage scores, for each such word, ln(passages / passages with the word) * times / (times + 1): BM25 without
        its correction for length (Robertson, Zaragoza 2009). Its weight is BEST_MATCH ** (score / best score).
        """
        score = np.zeros(self._size)
        asked = {word.removesuffix("s") for word in _WORD.findall(prompt.lower()) if word not in QUESTION_WORDS}
        for word in sorted(asked):
            holders = self._holders.get(word, {})
            if holders:
                times = np.fromiter(holders.values(), dtype=np.float64)
                score[list(holders)] += math.log(self._size / len(holders)) * times / (times + 1.0)
        best = score.max(initial=0.0)
        weights: Weights = BEST_MATCH ** (score / best) if best > 0.0 else np.ones(self._size)
        return weights
