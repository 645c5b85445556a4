"""Toy models: deterministic functions from a text to the next token, with its list.

A model has a chain of words: after each word the next ones, and the end, have probabilities. It writes the likeliest.
Within a word only the words that begin so are left. So what it writes after a part of its own text is the rest of it.

    chain    "the" -> "cat" .5  "cart" .3  "an" .1  the end .1
    writes   the cat …
    tokens   |the| cat|   or   |t|h|e| |c|a|t|   or   |the |cat |   …
    list     at "the ca", cut into characters: {"t": .62, "r": .38}
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Words that share beginnings, characters of two to four bytes, words in words, and one of more than 64 bytes.
WORDS = ("a", "an", "and", "the", "then", "cat", "cart", "é", "éa", "è", "日本", "日", "🙂", "🙃x", "b", "日本語" * 8)
# A byte, a character, two, three; a word with the space before it, or after it; two letters of a word; two words.
Cut = Literal["byte", "character", "pair", "three", "before", "after", "halves", "two"]
CUTS: tuple[Cut, ...] = ("byte", "character", "pair", "three", "before", "after", "halves", "two")
_CHARACTERS = {"byte": 1, "character": 1, "pair": 2, "three": 3}
END = ""
# What may stand after each word ("": at the beginning, or after an unknown word); "" is the end. With probabilities.
Chains = tuple[Mapping[str, Mapping[str, float]], ...]


def first_cut(text: str, cut: Cut) -> str:
    """The first token of a text."""
    if cut in _CHARACTERS:
        return text[: _CHARACTERS[cut]]
    start = len(text) - len(text.lstrip(" "))
    end = _word_end(text, start)
    if cut == "halves":
        return text[: min(end, start + 2)]
    if cut == "after":
        return text[: _word_end(text, 0) + 1] if text[:1] != " " else text[:1]
    return text[:end] if cut == "before" else text[: _word_end(text, min(end + 1, len(text)))]


def _word_end(text: str, start: int) -> int:
    found = text.find(" ", start)
    return len(text) if found < 0 else found


@dataclass(frozen=True)
class Step:
    """The next token of a model: its text (empty: the end), and the probabilities of all pieces, the end as b"".

    Of a character that is split into bytes it is the last one: `hidden` are the bytes of the tokens before it, which
    have no text. The probabilities are then conditional on them, and the pieces begin with them.
    """

    text: str
    pieces: Mapping[bytes, float]
    hidden: bytes = b""


class ToyModel:
    """Chains of words, used in turn, with a way of cutting. listed: how many pieces a list has; 0: there are no lists.
    lists_end: there is one for the end as well. name: how the chains were drawn."""

    def __init__(
        self, chains: Chains, cut: Cut = "before", listed: int = 20, *, lists_end: bool = True, most_words: int = 8,
        name: str = "",
    ) -> None:  # fmt: skip
        self.chains, self.cut, self.listed, self.lists_end = chains, cut, listed, lists_end
        self.most_words, self.name = most_words, name
        self._steps: dict[str, Step] = {}
        self._rests: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ToyModel({self.name}, {self.cut}, {self.listed}, {self.lists_end}, writes {self.rest('')!r})"

    def cut_as(self, cut: Cut) -> ToyModel:
        """A model that writes the same text in other tokens."""
        return ToyModel(
            self.chains, cut, self.listed, lists_end=self.lists_end, most_words=self.most_words, name=self.name
        )

    def step(self, text: str) -> Step:
        """What the model writes after this text."""
        if text not in self._steps:
            self._steps[text] = self._step(text)
        return self._steps[text]

    def rest(self, text: str) -> str:
        """All that the model writes after this text, to its end."""
        if text not in self._rests:
            more = self._favourite(text)
            self._rests[text] = more + self.rest(text + more) if more else END
        return self._rests[text]

    def listed_pieces(self, step: Step) -> dict[bytes, float] | None:
        """The list that is sent with a token, and with the end: the likeliest pieces, and the sampled one."""
        if not self.listed or (step.text == END and not self.lists_end):
            return None
        ranked = sorted(step.pieces.items(), key=lambda one: (-one[1], one[0]))[: self.listed]
        return dict(ranked) | {step.text.encode(): step.pieces[step.text.encode()]}

    def _step(self, text: str) -> Step:
        pieces: dict[bytes, float] = {}
        for more, p in self._alternatives(text).items():
            piece = first_cut(more + self.rest(text + more), self.cut).encode() if more else b""
            pieces[piece] = pieces.get(piece, 0.0) + p
        sampled = first_cut(self.rest(text), self.cut)
        hidden = sampled.encode()[:-1] if self.cut == "byte" else b""
        if hidden:
            after = {piece: p for piece, p in pieces.items() if piece.startswith(hidden)}
            pieces = {piece: p / sum(after.values()) for piece, p in after.items()}
        return Step(sampled, pieces, hidden)

    def _alternatives(self, text: str) -> dict[str, float]:
        """What may follow, up to the end of the next word, with its probability; "" is the end."""
        before, _, begun = text.rpartition(" ")
        found: dict[str, float] = {}
        for word, p in self._words(before, begun).items():
            if word != begun:
                found[word[len(begun) :]] = found.get(word[len(begun) :], 0.0) + p
            else:
                for after, q in self._after(text).items():
                    more = f" {after}" if after else END
                    found[more] = found.get(more, 0.0) + p * q
        return found

    def _favourite(self, text: str) -> str:
        before, _, begun = text.rpartition(" ")
        word = _likeliest(self._words(before, begun))
        if word != begun:
            return word[len(begun) :]
        after = _likeliest(self._after(text))
        return f" {after}" if after else END

    def _words(self, before: str, begun: str) -> dict[str, float]:
        """The words that may stand after a text of whole words, where one of them has begun so. Of no known word the
        one that has begun is taken as whole."""
        row = {word: p for word, p in self._row(before).items() if word and word.startswith(begun)}
        total = sum(row.values())
        return {word: p / total for word, p in row.items()} if row else {begun: 1.0} if begun else {"a": 1.0}

    def _after(self, text: str) -> Mapping[str, float]:
        """What may stand after a text of whole words: a word, or the end."""
        if text.count(" ") + 1 >= self.most_words:
            return {END: 1.0}
        return self._row(text)

    def _row(self, text: str) -> Mapping[str, float]:
        """What may stand after a text of whole words, which may be empty."""
        chain = self.chains[text.count(" ") % len(self.chains)]
        return chain.get(text.rpartition(" ")[2]) or chain[""]


def _likeliest(row: Mapping[str, float]) -> str:
    return min(row, key=lambda word: (-row[word], word))


def drawn_chains(seed: int, words: int = 5, turns: int = 3) -> Chains:
    """Chains over a few words, from whole numbers, so that ties are not rare."""
    chance = random.Random(seed)
    known = chance.sample(WORDS, words)
    return tuple({before: _drawn_row(chance, known, bool(before)) for before in ("", *known)} for _ in range(turns))


def changed_chains(chains: Chains, seed: int, part: float) -> Chains:
    """The chains with about this part of their rows drawn anew: for a member that mostly agrees with the others."""
    chance = random.Random(seed)
    known = [word for word in chains[0] if word]
    return tuple(
        {
            before: _drawn_row(chance, known, bool(before)) if chance.random() < part else row
            for before, row in chain.items()
        }
        for chain in chains
    )


def _drawn_row(chance: random.Random, known: list[str], may_end: bool) -> Mapping[str, float]:
    counts = {word: chance.choice((1, 2, 5, 10, 10, 20, 40)) for word in known}
    if may_end:
        counts[END] = chance.choice((0, 1, 10, 20))
    return {word: n / sum(counts.values()) for word, n in counts.items() if n}
