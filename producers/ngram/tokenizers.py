"""Three ways to divide the same text into tokens: whole words, characters, byte pairs.

All three first divide a text into words, each with the space before it, and then each word into pieces:

    "the for-loop ends."  ->  "the"  " for-loop"  " ends"  "."
                              whole words: one piece each; characters: t,h,e; byte pairs: " for", "-", "loop"

The byte pairs are merged characters, not merged bytes, so that every piece can be shown alone.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Literal

import msgspec

Kind = Literal["word", "char", "bpe"]
Pair = tuple[str, str]
END = 0
# Stands for what no text of the corpus contains: a context reaches back to the last one of it.
UNKNOWN = -1
# Enough for the frequent words to be one piece each; a thousand merges take some 60 ms at every start.
BYTE_PAIR_MERGES = 1_000

_WORD = re.compile(r" ?\w+(?:[-'’]\w+)*| ?[^\w\s]+|\s+")


class Tokenizer(msgspec.Struct, frozen=True):
    """`pieces[i]` is the text of token i; token END (0) ends a text and has none. `spelling` has every known word.
    `has_parts`: a word may have several pieces."""

    pieces: tuple[str, ...]
    spelling: dict[str, tuple[int, ...]]
    has_parts: bool = True

    def encode(self, text: str) -> list[int]:
        """The tokens whose pieces concatenate to `text`, without END. Raises KeyError for an unknown word."""
        return list(chain.from_iterable(map(self.spelling.__getitem__, _WORD.findall(text))))

    def begun(self, text: str) -> tuple[list[int], str]:
        """(tokens, rest) of any text that is to be continued, with UNKNOWN for what the corpus lacks. `rest` is an end
        of the text inside a piece, where the corpus has no such word: the next token's piece begins with it."""
        *words, last = _WORD.findall(text) or [""]
        rest = ""
        if last not in self.spelling and any(piece.startswith(last) and piece != last for piece in self.pieces):
            rest, last = last, ""
        token_of = {piece: token for token, piece in enumerate(self.pieces)} if self.has_parts else {}
        return [token for word in (*words, last) for token in self._spelt(word, token_of)], rest

    def _spelt(self, word: str, token_of: dict[str, int]) -> Sequence[int]:
        """The tokens of any word: of one that is not in the corpus the longest pieces from the left."""
        if word in self.spelling:
            return self.spelling[word]
        if word and not self.has_parts:
            return (UNKNOWN,)
        # A text without spaces is one word, and may have 64 KiB.
        longest = max(map(len, token_of), default=0)
        tokens, start = [], 0
        while start < len(word):
            ends = range(min(len(word), start + longest), start, -1)
            end = next((end for end in ends if word[start:end] in token_of), start + 1)
            tokens.append(token_of.get(word[start:end], UNKNOWN))
            start = end
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.pieces[token] for token in tokens)


def learnt_tokenizer(kind: Kind, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of this kind for these texts: the same texts give the same tokens in every process."""
    counts = Counter(chain.from_iterable(map(_WORD.findall, texts)))
    spelt: dict[str, tuple[str, ...]]
    if kind == "word":
        spelt = {word: (word,) for word in counts}
    elif kind == "char":
        spelt = {word: tuple(word) for word in counts}
    else:
        spelt = byte_pair_spelling(counts, BYTE_PAIR_MERGES)
    pieces = ("", *dict.fromkeys(chain.from_iterable(spelt.values())))
    token_of = {piece: token for token, piece in enumerate(pieces)}
    return Tokenizer(pieces, {word: tuple(token_of[piece] for piece in spelt[word]) for word in spelt}, kind != "word")


def byte_pair_spelling(counts: Counter[str], merges: int) -> dict[str, tuple[str, ...]]:
    """Each word in pieces, after the most frequent pair of adjacent pieces was merged `merges` times.

    Sennrich, Haddow, Birch 2016 (arXiv 1508.07909), algorithm 1; of equally frequent pairs, the one that sorts first.
    A merge changes only the words that contain its pair, and there only the counts of its neighbours. The heap keeps
    outdated counts, which are skipped.
    """
    spelt = {word: list(word) for word in counts}
    frequency: defaultdict[Pair, int] = defaultdict(int)
    words_with: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, pieces in spelt.items():
        for pair in pairwise(pieces):
            frequency[pair] += counts[word]
            words_with[pair].add(word)
    heap = [(-count, pair) for pair, count in frequency.items()]
    heapq.heapify(heap)
    while merges and heap:
        negative_count, best = heapq.heappop(heap)
        if -negative_count != frequency[best]:
            continue
        merges -= 1
        changed: set[Pair] = set()
        for word in words_with.pop(best):
            for gone, come in _merge(spelt[word], best):
                frequency[gone] -= counts[word]
                frequency[come] += counts[word]
                words_with[come].add(word)
                changed |= {gone, come}
        frequency[best] = 0
        for pair in changed:
            if frequency[pair]:
                heapq.heappush(heap, (-frequency[pair], pair))
    return {word: tuple(pieces) for word, pieces in spelt.items()}


def _merge(pieces: list[str], pair: Pair) -> Iterator[tuple[Pair, Pair]]:
    """Merges each occurrence of the pair, from the left; yields each other pair that is replaced, and its successor."""
    first, second = pair
    at = 0
    while at < len(pieces) - 1:
        if pieces[at] == first and pieces[at + 1] == second:
            if at > 0:
                yield (pieces[at - 1], first), (pieces[at - 1], first + second)
            if at + 2 < len(pieces):
                yield (second, pieces[at + 2]), (first + second, pieces[at + 2])
            pieces[at : at + 2] = [first + second]
        at += 1
