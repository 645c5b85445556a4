"""The mixture of a council's answer, from its definition in docs/maths.md, in fractions: the slow way.

agreed     | sky| is|        the span ends where the first token of a voter ends
votes      " sky" .5  " sea" .2  " skin" .1   and   " sky is" .7  " seaside" .1
groups     " sky" .6     " sea" .15     " ski" .05, shown as " skin": all its texts begin so
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.oracle.deciding import Vote


@dataclass(frozen=True)
class Place:
    """The bytes [start, end) of the agreed text. share: of the text that stands there; None where it is not measured.
    groups: the share of each text, as it is shown; "" is the end."""

    start: int
    end: int
    share: Fraction | None
    groups: Mapping[str, Fraction]


def place_at(start: int, agreed: bytes, votes: Sequence[Vote]) -> Place:
    """The span at the byte `start`, where the text `agreed` goes on. votes: of the members whose drafts are the agreed
    text before that byte, and that have a token there or have ended there."""
    standing = _beginning(agreed, min([len(agreed), *[vote.left for vote in votes if not vote.has_ended]]))
    end = start + len(standing)
    # A member of weight 0 has no vote beside one that has weight.
    weighted = [vote for vote in votes if vote.weight > 0] or list(votes)
    listing = [vote for vote in weighted if vote.listed is not None]
    if not listing:
        return Place(start, end, None, {})
    total = sum(Fraction(vote.weight) for vote in listing)
    texts: dict[bytes, Fraction] = {}
    for vote in listing:
        weight = Fraction(vote.weight) / total if total else Fraction(1, len(listing))
        for text, p in following_texts(vote).items():
            # Before the first byte of an answer, white space is dropped: what follows it is not known.
            if text or start:
                texts[text] = texts.get(text, Fraction(0)) + weight * p
    groups: dict[bytes, list[bytes]] = {}
    for text in texts:
        groups.setdefault(_beginning(text, len(standing)), []).append(text)
    shown = {}
    for group, alike in groups.items():
        name = standing if group == standing else _longest_common(alike)
        shown[name.decode()] = sum((texts[text] for text in alike), Fraction(0))
    share = sum((texts[text] for text in groups.get(standing, [])), Fraction(0))
    return Place(start, end, share, shown)


def following_texts(vote: Vote) -> dict[bytes, Fraction]:
    """The texts that may follow, by the list of one member, given what it wrote of its token."""
    q, listed = vote.written, {piece: Fraction(p) for piece, p in (vote.listed or {}).items()}
    if not q:
        return listed
    left_out = Fraction(vote.rest) + sum((p for piece, p in listed.items() if q.startswith(piece)), Fraction(0))
    known = {piece[len(q) :]: p for piece, p in listed.items() if len(piece) > len(q) and piece.startswith(q)}
    total = sum(known.values(), Fraction(0))
    if not total:
        return {vote.draft[: vote.left]: max(Fraction(0), 1 - left_out)}
    return {text: p / total * (1 - left_out) for text, p in known.items()}


def _beginning(text: bytes, length: int) -> bytes:
    """The characters of the text that begin before the byte `length`."""
    end = min(length, len(text))
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return text[:end]


def _longest_common(texts: Sequence[bytes]) -> bytes:
    """The longest beginning, of whole characters, that all have."""
    found = min(texts, key=len).decode()
    while not all(text.decode().startswith(found) for text in texts):
        found = found[:-1]
    return found.encode()
