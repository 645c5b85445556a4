"""The votes where the drafts of a council part, from the definitions in docs/maths.md, in fractions: the slow way.

At the byte x the drafts are the same before it, and differ after it. Each member votes with its token that covers x:

    q     the bytes of that token before x
    c(s)  the sum of p over the listed pieces that begin with s
    e     p of the piece q itself; 0 where q is empty
    m     the sum of p over the pieces between q and q b: longer than q, and proper prefixes of q b
    h     the sum of p over the pieces that are proper prefixes of q
    r     what the list left out

    low(b)  = c(q b) / (c(q) + r + h)
    high(b) = (c(q b) + e + m + r + h) / (c(q) + r + h), at most 1
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

# Sums of floats in another order differ by less. Values this close count as equal.
TIE = Fraction(1, 10**12)
END = b""


@dataclass(frozen=True)
class Vote:
    """One member at x. draft: its bytes from x on, as far as they are known, at least `left` of them. left: how many
    bytes of its token lie after x; 0 where it has ended at x. written: q. listed: the probabilities of its pieces, the
    sampled one among them; b"" is the end. None where it has no list. rest: r."""

    weight: float
    draft: bytes
    left: int
    written: bytes = b""
    listed: Mapping[bytes, float] | None = None
    rest: float = 0.0

    @property
    def has_ended(self) -> bool:
        return not self.left


@dataclass(frozen=True)
class Branch:
    """A text that may follow, or the end (b""), with the members whose drafts begin so."""

    text: bytes
    supporters: tuple[int, ...]
    low: Fraction
    high: Fraction


@dataclass(frozen=True)
class Outcome:
    """`branches` in falling order of low, the winner's first unless it was drawn. is_open: whether the winner is
    certain depends on rounding."""

    winner: Branch
    leader: int
    certain: bool
    is_open: bool
    runner_up: Branch | None
    against: tuple[int, ...]
    branches: tuple[Branch, ...]


def decided(votes: Sequence[Vote], draw: float | None = None) -> Outcome:
    """The outcome at a parting. `draw` in [0, 1) draws the winner; without it the likeliest branch wins."""
    # A member of weight 0 has no vote beside one that has weight: it puts up no branch.
    weighted = [number for number, vote in enumerate(votes) if vote.weight > 0] or list(range(len(votes)))
    weights = _weights(votes, weighted)
    found = []
    for text in _branch_texts([votes[number] for number in weighted]):
        supporters = tuple(number for number in weighted if _begins_with(votes[number], text))
        low = sum((weights[number] * low_of(votes[number], text) for number in weighted), Fraction(0))
        high = sum((weights[number] * high_of(votes[number], text) for number in weighted), Fraction(0))
        found.append(Branch(text, supporters, low, high))
    branches = _in_order(found, votes)
    winner = branches[0] if draw is None else _drawn(branches, draw)
    others = [branch for branch in branches if branch is not winner]
    return Outcome(
        winner,
        _leader(winner, votes, weights),
        certain=all(winner.low > branch.high + TIE for branch in others),
        is_open=any(abs(winner.low - branch.high) <= 2 * TIE for branch in others),
        runner_up=others[0] if others else None,
        against=tuple(number for number, vote in enumerate(votes) if _is_against(vote, winner.text)),
        branches=tuple(branches),
    )


def drawn_at(seed: int, x: int) -> float:
    """The number in [0, 1) that draws the winner at the byte x of a session with this seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {x}".encode(), digest_size=8).digest(), "big") / 2**64


def low_of(vote: Vote, text: bytes) -> Fraction:
    """The least probability that the member gives to a branch."""
    if vote.listed is None:
        return Fraction(_begins_with(vote, text))
    if text == END:
        return Fraction(0) if vote.written else _p(vote, END)
    total = _total(vote)
    return _beginning_with(vote, vote.written + text) / total if total else Fraction(0)


def high_of(vote: Vote, text: bytes) -> Fraction:
    """The greatest probability that the member may give to a branch."""
    if vote.listed is None:
        return Fraction(_begins_with(vote, text))
    q, rest, total = vote.written, Fraction(vote.rest), _total(vote)
    if not total:
        return Fraction(1)
    if text == END:
        unknown = _p(vote, q) + rest + _begun(vote)
    else:
        unknown = _beginning_with(vote, q + text) + rest + _begun(vote) + (_p(vote, q) if q else 0)
        for piece, p in vote.listed.items():
            if len(q) < len(piece) < len(q + text) and (q + text).startswith(piece):
                unknown += Fraction(p)
    return min(Fraction(1), unknown / total)


def _branch_texts(votes: Sequence[Vote]) -> list[bytes]:
    """The first characters of the drafts. Drafts that share it and differ within n bytes are branches of n bytes."""
    ended = [END] if any(vote.has_ended for vote in votes) else []
    drafts = [vote.draft for vote in votes if not vote.has_ended]
    n = min((vote.left for vote in votes if not vote.has_ended), default=0)
    texts = set[bytes]()
    for draft in drafts:
        first = first_character(draft)
        alike = {other[:n] for other in drafts if other.startswith(first)}
        texts |= alike if len(alike) > 1 else {first}
    return ended + sorted(texts)


def first_character(draft: bytes) -> bytes:
    """The first whole character of a text."""
    end = 1
    while end < len(draft) and draft[end] & 0xC0 == 0x80:
        end += 1
    return draft[:end]


def _begins_with(vote: Vote, text: bytes) -> bool:
    return vote.has_ended if text == END else vote.draft.startswith(text) and not vote.has_ended


def _is_against(vote: Vote, text: bytes) -> bool:
    """Whether its draft begins otherwise, as far as its token reaches: one without weight may have a token that is
    shorter than the branch, and what it writes after that may not be known yet."""
    if text == END or vote.has_ended:
        return vote.has_ended != (text == END)
    known = vote.draft[: max(vote.left, len(first_character(vote.draft)))]
    return not (known.startswith(text) or text.startswith(known))


def _weights(votes: Sequence[Vote], weighted: Sequence[int]) -> dict[int, Fraction]:
    given = {number: Fraction(votes[number].weight) for number in weighted}
    total = sum(given.values(), Fraction(0))
    return {number: w / total if total else Fraction(1, len(given)) for number, w in given.items()}


def _in_order(branches: Sequence[Branch], votes: Sequence[Vote]) -> list[Branch]:
    """In falling order of low; of those that tie, the one with the heaviest supporter first, then the lowest index."""
    left, order = list(branches), list[Branch]()
    while left:
        most = max(branch.low for branch in left)
        tied = [branch for branch in left if branch.low >= most - TIE]
        first = min(tied, key=lambda branch: min((-votes[number].weight, number) for number in branch.supporters))
        order.append(first)
        left.remove(first)
    return order


def _leader(winner: Branch, votes: Sequence[Vote], weights: Mapping[int, Fraction]) -> int:
    says = {number: weights[number] * low_of(votes[number], winner.text) for number in winner.supporters}
    return next(number for number in winner.supporters if says[number] >= max(says.values()) - TIE)


def _drawn(branches: Sequence[Branch], draw: float) -> Branch:
    total = sum((branch.low for branch in branches), Fraction(0))
    cumulated = Fraction(0)
    for branch in branches:
        cumulated += branch.low / total if total else Fraction(1, len(branches))
        if cumulated > Fraction(draw):
            return branch
    return branches[-1]


def _p(vote: Vote, piece: bytes) -> Fraction:
    return Fraction((vote.listed or {}).get(piece, 0.0))


def _beginning_with(vote: Vote, text: bytes) -> Fraction:
    return sum((Fraction(p) for piece, p in (vote.listed or {}).items() if piece.startswith(text)), Fraction(0))


def _begun(vote: Vote) -> Fraction:
    """h: the pieces that are proper prefixes of q."""
    q = vote.written
    return sum((_p(vote, q[:end]) for end in range(len(q))), Fraction(0))


def _total(vote: Vote) -> Fraction:
    return _beginning_with(vote, vote.written) + Fraction(vote.rest) + _begun(vote)
