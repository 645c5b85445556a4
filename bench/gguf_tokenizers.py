"""Tokenizers for tiny models: byte pairs as in GPT-2, and sentence pieces as in Llama 2.

Each joins the characters of a word, the most frequent pair of neighbours first:

    "lower" --spelt--> l o w e r --merges in the order in which they were learnt--> low er --ids--> 310 301
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import gguf

END_OF_TEXT, TURN_BEGINS, TURN_ENDS = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Where the answer of a model that thinks begins; and its tags, which are text.
ANSWER_BEGINS = "<|im_sep|>"
THINK, THOUGHT = TAGS = ("<think>", "</think>")
# Close to GPT-2's own rule, as far as the standard library's regular expressions allow.
_WORD = re.compile(r"'(?:[stmd]|re|ve|ll)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
_SPACE = "▁"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# A letter that occurs less often is written in bytes.
_COMMON_LETTER = 3


class TinyTokenizer(ABC):
    """A token is a string of characters of the tokenizer's alphabet. `merges` are in the order in which they were
    learnt, `extra` are special tokens besides SPECIALS."""

    model = ""
    # True where the server puts a beginning-of-text token before each text.
    begins_text = False

    def __init__(self, alphabet: Sequence[str], merges: list[tuple[str, str]], extra: Sequence[str]) -> None:
        self.merges = merges
        self.alphabet = list(alphabet)
        self.specials = (*SPECIALS, *extra)
        self.tokens = [*alphabet, *(left + right for left, right in merges), *self.specials]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {}

    @staticmethod
    @abstractmethod
    def spelt(word: str) -> list[str]:
        """The word in characters of the alphabet."""

    def encode(self, text: str) -> list[int]:
        return [number for word in _WORD.findall(text) for number in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._known:
            parts = self.spelt(word)
            while ranked := [(self._ranks[pair], pair) for pair in pairwise(parts) if pair in self._ranks]:
                parts = _merged(parts, min(ranked)[1])
            self._known[word] = [number for part in parts for number in self.ids_of(part)]
        return self._known[word]

    def ids_of(self, part: str) -> list[int]:
        return [self.ids[part]]

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Writes the tokenizer to the file."""
        writer.add_tokenizer_model(self.model)
        writer.add_token_list(self.tokens)
        writer.add_token_types([self.kind_of(token) for token in self.tokens])
        writer.add_bos_token_id(self.ids[END_OF_TEXT])
        writer.add_eos_token_id(self.ids[TURN_ENDS])
        writer.add_add_bos_token(self.begins_text)

    def kind_of(self, token: str) -> gguf.TokenType:
        if token in TAGS:
            return gguf.TokenType.USER_DEFINED
        return gguf.TokenType.CONTROL if token in self.specials else gguf.TokenType.NORMAL


class BytePairs(TinyTokenizer):
    """A byte-level byte-pair tokenizer in GPT-2's notation: each byte is written as one printable letter."""

    model = "gpt2"

    @classmethod
    def trained(cls, text: str, vocab: int, extra: Sequence[str] = ()) -> BytePairs:
        words = Counter(_WORD.findall(text))
        return cls(_LETTERS, _learnt(words, _letters, vocab - len(_LETTERS) - len(SPECIALS) - len(extra)), extra)

    @staticmethod
    def spelt(word: str) -> list[str]:
        return _letters(word)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        super().add_to(writer)
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([f"{left} {right}" for left, right in self.merges])


class SentencePieces(TinyTokenizer):
    """A tokenizer of characters, as in Llama 2: a space is "▁"; characters outside of its alphabet are bytes."""

    model = "llama"
    begins_text = True
    # True where the server puts a space before each text, as with Llama 2.
    spaces_text = False

    @classmethod
    def trained(cls, text: str, vocab: int, extra: Sequence[str] = ()) -> SentencePieces:
        words = Counter(_WORD.findall(text))
        letters_used = Counter("".join(words).replace(" ", _SPACE))
        common = sorted(letter for letter, count in letters_used.items() if count >= _COMMON_LETTER)
        alphabet = ["<unk>", *_BYTES, *common]
        known = {word: count for word, count in words.items() if set(cls.spelt(word)) <= set(common)}
        return cls(alphabet, _learnt(known, cls.spelt, vocab - len(alphabet) - len(SPECIALS) - len(extra)), extra)

    @staticmethod
    def spelt(word: str) -> list[str]:
        return list(word.replace(" ", _SPACE))

    def ids_of(self, part: str) -> list[int]:
        return [self.ids[part]] if part in self.ids else [self.ids[_BYTES[byte]] for byte in part.encode()]

    def kind_of(self, token: str) -> gguf.TokenType:
        if token == "<unk>":
            return gguf.TokenType.UNKNOWN
        return gguf.TokenType.BYTE if token in _BYTES else super().kind_of(token)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        super().add_to(writer)
        writer.add_add_space_prefix(self.spaces_text)
        writer.add_unk_token_id(0)
        # llama.cpp joins the pair with the highest score first: the one that was learnt first.
        scores = {left + right: -float(rank) for rank, (left, right) in enumerate(self.merges)}
        writer.add_token_scores([scores.get(token, -1e6) for token in self.tokens])


class SpacedPieces(SentencePieces):
    """The same, with a space before each text."""

    spaces_text = True


def _learnt(counts: Mapping[str, int], spelt: Callable[[str], list[str]], number: int) -> list[tuple[str, str]]:
    """The first `number` merges: each is the most frequent pair of neighbours, of equal ones the greatest."""
    words = [spelt(word) for word in counts]
    times = list(counts.values())
    frequency: Counter[tuple[str, str]] = Counter()
    found_in: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count(word: int, sign: int) -> None:
        for pair in pairwise(words[word]):
            frequency[pair] += sign * times[word]
            found_in[pair].add(word)

    for word in range(len(words)):
        count(word, 1)
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        best = max(frequency, key=lambda pair: (frequency[pair], pair))
        merges.append(best)
        for word in found_in.pop(best):
            count(word, -1)
            words[word] = _merged(words[word], best)
            count(word, 1)
        del frequency[best]
    return merges


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printable, else the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


_LETTERS = _byte_letters()


def _letters(word: str) -> list[str]:
    return [_LETTERS[byte] for byte in word.encode()]


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every neighbouring `pair` made one, from the left."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
