"""An n-gram language model: how often each token followed the last n - 1 tokens.

Every position of the corpus becomes one integer, its context with the nearest token in the highest bits. When the
positions are sorted, those with the same last j tokens are neighbours, for every j: one array serves all orders.

    context | next    (n = 3)
     at the | end       .
     in the | body      | after     . after
     in the | order     | "the"     ' "in the"
     of the | loop      '
    is then | bound

A distribution is built from short contexts to long ones (Witten-Bell smoothing; Chen, Goodman 1998, section 2.4). N is
the number of positions of a context, T the number of different next tokens there, and c(w) how often w is next:

    p_j(w) = (N c(w) / C + T p_(j-1)(w)) / (N + T)        C = sum of all c(w);  p_(-1)(w) = 1 / size of the vocabulary

It sums to 1, and no token is impossible. The prompt weights the counts c by their passages (relevance.py); N and T,
which say how reliable a context is, stay as they are. There is no constant to tune.

Pure: no clock, no I/O; the caller passes the random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import msgspec
import numpy as np
from numpy.typing import NDArray

from producers.ngram.relevance import PassageIndex
from producers.ngram.tokenizers import END, UNKNOWN, Kind, learnt_tokenizer

Distribution = NDArray[np.float64]

KEY_BITS = 62
# Longer ranges are few (at most positions / LONG_RANGE of each context length) and are used often: they are kept.
LONG_RANGE = 2_000


class DrawnToken(msgspec.Struct, frozen=True, gc=False):
    """One token of an answer, END at its end. `top` has the likeliest pieces, the best first; b"" is the end of the
    answer. `token` is None where the token's piece begins before the answer's continuation, which has only its end.

    Logprobs are natural logarithms of the model's own probabilities, whatever the temperature at which it was drawn.
    """

    text: str
    logprob: float
    top: tuple[tuple[bytes, float], ...]
    token: int | None


class NgramModel:
    """A model and what it has learnt from its passages. Its order n is at least 2."""

    def __init__(self, kind: Kind, order: int, passages: Sequence[str]) -> None:
        """Raises ValueError where n is too small, or n - 1 tokens do not fit into one key."""
        self.order = order
        self.tokenizer = learnt_tokenizer(kind, passages)
        self.piece_bytes = tuple(piece.encode() for piece in self.tokenizer.pieces)
        self.vocabulary = len(self.piece_bytes)
        self.token_bits = (self.vocabulary - 1).bit_length()
        if order < 2 or self.token_bits * (order - 1) > KEY_BITS:
            raise ValueError(
                f"a {order}-gram model of {self.vocabulary} tokens is too large: a context has {KEY_BITS} bits"
            )
        texts = [self.tokenizer.encode(passage) for passage in passages]
        keys, following = self._positions(texts)
        by_key = np.argsort(keys, kind="stable")
        self.keys = keys[by_key]
        self.following = following[by_key]
        self.passage = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])[by_key]
        self.index = PassageIndex(passages)

    def _positions(self, texts: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The key and the next token of every position. Before a text there are n - 1 ENDs; the END after it is a
        position."""
        before = [END] * (self.order - 1)
        stream = np.array([token for text in texts for token in before + text] + before, dtype=np.int64)
        positions = np.arange(self.order - 1, len(stream))
        positions = positions[(stream[positions] != END) | (stream[positions - 1] != END)]
        keys = np.zeros(len(positions), dtype=np.int64)
        for distance in range(1, self.order):
            keys |= stream[positions - distance] << self.shift(distance)
        return keys, stream[positions]

    def prompted(self, prompt: str) -> PromptedModel:
        return PromptedModel(self, prompt)

    def shift(self, distance: int) -> int:
        """The bit of a key at which the token begins that is `distance` before the position."""
        return self.token_bits * (self.order - 1 - distance)


class PromptedModel:
    """A model, weighted by one prompt, which has `prompt_tokens` in the model's own tokenizer."""

    def __init__(self, model: NgramModel, prompt: str) -> None:
        self._model = model
        whole, rest = model.tokenizer.begun(prompt)
        self.prompt_tokens = len(whole) + bool(rest)
        self._weights = model.index.weights(prompt)[model.passage]
        self._kept: dict[tuple[int, int], Distribution] = {}
        self._unigrams = self._mixed(np.full(model.vocabulary, 1.0 / model.vocabulary), 0, len(model.keys))

    def distribution(self, context: Sequence[int]) -> Distribution:
        """The probability of each token after the last n - 1 tokens of `context`, as far as they are known. An answer
        is never empty: END never follows END (of which there are n - 1 before the first token).
        """
        model = self._model
        shared, key, low, high = self._unigrams, 0, 0, len(model.keys)
        for distance in range(1, model.order):
            if context[-distance] == UNKNOWN:
                break
            shift = model.shift(distance)
            key |= context[-distance] << shift
            start, stop = model.keys[low:high].searchsorted((key, key + (1 << shift))).tolist()
            if start == stop:
                break
            low, high = low + start, low + stop
            shared = self._longer(shared, distance, low, high)
        if context[-1] != END:
            return shared
        begun = shared.copy()
        begun[END] = 0.0
        begun /= begun.sum()
        return begun

    def _longer(self, shorter: Distribution, distance: int, low: int, high: int) -> Distribution:
        if high - low <= LONG_RANGE:
            return self._mixed(shorter, low, high)
        kept = self._kept.get((distance, low))
        if kept is None:
            kept = self._kept[distance, low] = self._mixed(shorter, low, high)
        return kept

    def _mixed(self, shorter: Distribution, low: int, high: int) -> Distribution:
        """p_j of the context with the positions low:high, from p_(j-1)."""
        counts = np.bincount(self._model.following[low:high], self._weights[low:high], self._model.vocabulary)
        positions, different = high - low, np.count_nonzero(counts)
        mixed: Distribution = (counts * (positions / counts.sum()) + different * shorter) / (positions + different)
        return mixed

    def answer(
        self, temperature: float, random: Random, top_k: int, before: Sequence[int] = (), begun: str = ""
    ) -> Iterator[DrawnToken]:
        """The tokens of one answer, up to the END that it draws. Temperature 0 takes the likeliest token. It continues
        the tokens `before`, and `begun`, with which the piece of the next token begins: at least one piece does."""
        pieces, least = self._model.tokenizer.pieces, self._model.order - 1
        context = ([END] * least + [*before])[-least:]
        while True:
            distribution = self.distribution(context)
            if begun:
                distribution = self._after(begun, distribution)
            with np.errstate(divide="ignore"):
                logprobs = np.log(distribution)
            token = drawn_token(logprobs, temperature, random)
            top = self._top(logprobs, top_k, len(begun.encode()))
            logprob = float(logprobs[token])
            yield DrawnToken(pieces[token][len(begun) :], logprob, top, None if begun else token)
            if token == END:
                return
            begun, context = "", [*context[1:], token]

    def _after(self, begun: str, distribution: Distribution) -> Distribution:
        """The probability of each token whose piece begins with this text and is longer, given that one follows."""
        fits = np.array([piece.startswith(begun) and piece != begun for piece in self._model.tokenizer.pieces])
        left = np.where(fits, distribution, 0.0)
        given: Distribution = left / left.sum()
        return given

    def _top(self, logprobs: Distribution, top_k: int, begun_bytes: int) -> tuple[tuple[bytes, float], ...]:
        """The likeliest tokens without impossible ones; of equal ones the lower token first. Each is listed without its
        first `begun_bytes`."""
        count = min(top_k, len(logprobs))
        if count == 0:
            return ()
        best = np.argpartition(logprobs, -count)[-count:]
        best = best[np.lexsort((best, -logprobs[best]))]
        names = self._model.piece_bytes
        pairs = zip(best.tolist(), logprobs[best].tolist(), strict=True)
        return tuple((names[token][begun_bytes:], logprob) for token, logprob in pairs if logprob > -np.inf)


def drawn_token(logprobs: Distribution, temperature: float, random: Random) -> int:
    """A token drawn in proportion to p ** (1 / temperature), with one random number; the likeliest one at 0."""
    best = int(logprobs.argmax())
    if temperature == 0.0:
        return best
    with np.errstate(over="ignore"):
        mass = np.exp((logprobs - logprobs[best]) / temperature).cumsum()
    # A random number is at most 1 - 2**-53: its product with the sum is below the sum, and so finds a token.
    return int(mass.searchsorted(random.random() * mass[-1], side="right"))
