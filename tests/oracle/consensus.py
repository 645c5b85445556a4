"""The answer that a council of toy models writes together, without time: the slow way.

Each model has written its whole draft. Agreed text grows by what all drafts share; where they part, by the leader's
draft up to the end of its word. A member whose draft begins otherwise keeps its tokens up to there, and writes a new
draft after the agreed text.

    member 0   |the| cat| sat|            agreed  the ca    unanimous
    member 1   |the |car|t ran|                   t         by member 0
                    ^ kept up to here, then "cat" is given to it, and it writes on
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.oracle.deciding import Outcome, Vote, decided, drawn_at
from tests.oracle.mixture import Place, place_at
from tests.oracle.toy_models import END, Step, ToyModel

MOST_WORD_BYTES = 64
WHITE_SPACE = b" \t\n\r\x0b\x0c"


@dataclass(frozen=True)
class Agreement:
    """How the bytes [at, end) were agreed on. `outcome` is None where all drafts were the same."""

    at: int
    end: int
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Written:
    """A token of a member's draft, at [start, end)."""

    start: int
    end: int
    step: Step


@dataclass
class Draft:
    """A member's draft to its end: text that was given to it, and its own tokens."""

    model: ToyModel
    text: str = ""
    tokens: list[Written] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write_on()

    @property
    def data(self) -> bytes:
        return self.text.encode()

    def write_on(self) -> None:
        while (step := self.model.step(self.text)).text != END:
            start = len(self.data)
            self.text += step.text
            self.tokens.append(Written(start, len(self.data), step))

    def steer(self, agreed: bytes) -> None:
        """Keeps the own tokens that agree, and writes on after the agreed text."""
        kept = shared_bytes([self.data, agreed])
        self.tokens = [token for token in self.tokens if token.end <= kept]
        self.text = agreed.decode()
        self.write_on()

    def vote(self, weight: float, x: int) -> Vote:
        token = next((token for token in self.tokens if token.start <= x < token.end), None)
        step = token.step if token else self.model.step(self.text)
        pieces = self.model.listed_pieces(step)
        listed = {piece: math.exp(math.log(p)) for piece, p in pieces.items()} if pieces is not None else None
        rest = max(0.0, 1.0 - sum((listed or {}).values()))
        if token is None:
            assert x == len(self.data), "a draft has a token at each byte that was not given"
            return Vote(weight, b"", 0, b"", listed, rest)
        return Vote(weight, self.data[x:], token.end - x, self.data[token.start : x], listed, rest)


@dataclass(frozen=True)
class Answer:
    """The agreed text, how it came about, the own tokens of each member in it, and its mixture."""

    agreed: bytes
    agreements: tuple[Agreement, ...]
    kept: tuple[tuple[Written, ...], ...]
    mixture: tuple[Place, ...]

    @property
    def partings(self) -> list[Agreement]:
        return [one for one in self.agreements if one.outcome]


def written_together(
    models: Sequence[ToyModel], weights: Sequence[float], max_tokens: int = 10_000, seed: int | None = None
) -> Answer:
    """The council's answer. With a seed the winners are drawn."""
    drafts, agreed, agreements = [Draft(model) for model in models], b"", list[Agreement]()
    places: list[Place] = []
    while len(agreed) / 4 < max_tokens:
        x = len(agreed)
        shared = shared_bytes([draft.data for draft in drafts])
        if shared > x:
            agreed = _within_limit(drafts[0].data[:shared], 4 * max_tokens)
            agreements.append(Agreement(x, len(agreed)))
            places += _places(x, agreed, drafts, weights)
            continue
        if all(len(draft.data) == x for draft in drafts):
            break
        votes = [draft.vote(weight, x) for draft, weight in zip(drafts, weights, strict=True)]
        outcome = decided(votes, None if seed is None else drawn_at(seed, x))
        if not outcome.winner.text:
            agreements.append(Agreement(x, x, outcome))
            break
        agreed += word_at(drafts[outcome.leader].data[x:])
        agreements.append(Agreement(x, len(agreed), outcome))
        places += _places(x, agreed, drafts, weights)
        for draft in drafts:
            if not draft.data.startswith(agreed):
                draft.steer(agreed)
    kept = [tuple(token for token in draft.tokens if token.end <= len(agreed)) for draft in drafts]
    return Answer(agreed, tuple(agreements), tuple(kept), tuple(places))


def _places(x: int, agreed: bytes, drafts: Sequence[Draft], weights: Sequence[float]) -> list[Place]:
    """The mixture of the bytes from x on, by the drafts as they were before any was steered."""
    places = []
    while x < len(agreed):
        votes = [
            draft.vote(weight, x)
            for draft, weight in zip(drafts, weights, strict=True)
            if draft.data.startswith(agreed[:x])
        ]
        places.append(place_at(x, agreed[x:], votes))
        x = places[-1].end
    return places


def shared_bytes(texts: Sequence[bytes]) -> int:
    """How many bytes all texts share at their beginning, in whole characters."""
    end = 0
    while all(len(text) > end and text[end] == texts[0][end] for text in texts):
        end += 1
    while end and any(len(text) > end and text[end] & 0xC0 == 0x80 for text in texts):
        end -= 1
    return end


def word_at(text: bytes) -> bytes:
    """The text up to the end of its first word, with the white space before it; at most 64 bytes."""
    end = 0
    while end < len(text) and text[end] in WHITE_SPACE:
        end += 1
    while end < len(text) and text[end] not in WHITE_SPACE:
        end += 1
    end = min(end, MOST_WORD_BYTES)
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]


def _within_limit(text: bytes, most: int) -> bytes:
    """The text up to the first boundary of a character at or past the limit."""
    end = min(most, len(text))
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return text[:end]
