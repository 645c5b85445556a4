"""How a model that cannot understand a question keeps to its subject: passages with the prompt's rare words count more.

The weight of a passage multiplies every count that an n-gram model takes from it. So the weighted probabilities are the
model's own: those that it would have learnt from a text that repeats these passages.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]

# The weight of the best match; a passage without a word of the prompt has 1. Of 300 passages the best few dozen then
# make up half of the model, so that an answer keeps to its subject and still recites no passage.
BEST_MATCH = 100.0
# A word that is in fewer passages says little about the others, and is not used.
MIN_PASSAGES = 3
# The common words of questions. The corpus contains no questions, so these words would count as rare.
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
    """Which passages contain which of the used words, in lower case and without a last s (loops is loop)."""

    def __init__(self, passages: Sequence[str]) -> None:
        self._size = len(passages)
        holders: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for number, passage in enumerate(passages):
            for word, times in Counter(_WORD.findall(passage.lower())).items():
                of_word = holders[word.removesuffix("s")]
                of_word[number] = of_word.get(number, 0) + times
        # Most words are in a passage or two, and are not used.
        self._holders = {word: of_word for word, of_word in holders.items() if len(of_word) >= MIN_PASSAGES}

    def weights(self, prompt: str) -> Weights:
        """A weight for each passage, from 1 to BEST_MATCH; all 1 where no word of the prompt is used.

        A passage scores, for each used word, ln(passages / passages with the word) * times / (times + 1): BM25 without
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
