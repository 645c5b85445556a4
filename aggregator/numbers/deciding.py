"""Deciding where drafts part: which text the council takes at the byte x, before which all drafts are the same.

    x = 4          "The "    member 0   |The| sky| is           q = " ", what its token at x has before x
                             member 1   |The |grass|            q = ""
                             member 2   |The |s|k|y|            q = ""
    alternatives   first characters "s" (members 0 and 2) and "g" (member 1)

What a member gives to an alternative b is not known exactly, because its list is not the whole distribution. With c(s)
the sum of p over the listed pieces that begin with s, r what the list left out, and m the sum of p over the pieces that
are a proper prefix of qb, which may go on with the rest of it (h: of these the proper prefixes of q):

    low(b)  = c(qb) / (c(q) + r + h)        high(b) = min(1, (c(qb) + r + m) / (c(q) + r + h))

F_low and F_high are their weighted means. The alternative with the largest F_low wins. It wins for `certain` if its
F_low is above F_high of every other one: then no way to complete the lists gives another winner.

A member without a list is certain of the text that it wrote. END, the end of the answer, is the alternative of a member
whose draft ends at x; its piece is b"". In the first token of an answer b"" is white space, which is dropped there, and
what follows it is not known. A voter whose weight is 0 beside others puts up no alternative: with weights 1 and 0 the
text is that of the first member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import msgspec

from aggregator.numbers.arithmetic import normalised, plain_sum
from aggregator.numbers.proposal import Proposal

# Sums of the same numbers in another order differ by less.
_TIE = 1e-12


class Voter(msgspec.Struct, frozen=True):
    """A member at x. `draft` is its text from x on, at least `left` bytes: those of its token at x. Its draft ends at x
    where `left` is 0. `offset` bytes of the token are before x. `proposal` is what it proposed there. `is_first`: the
    token is the first of the answer."""

    weight: float
    draft: bytes
    left: int
    offset: int
    proposal: Proposal
    is_first: bool = False

    @property
    def is_at_end(self) -> bool:
        return not self.left


class Alternative(msgspec.Struct, frozen=True):
    """A way to go on: the text that begins with `start`, or the end of the answer. `supporters` are the voters whose
    drafts begin so."""

    start: bytes
    is_end: bool
    supporters: tuple[int, ...]


class Verdict(msgspec.Struct, frozen=True):
    """The alternative that won and the voter `leader` whose draft is taken; the shares are F_low, in [0, 1]. The
    runner-up is None where there is only one alternative. `against` are the voters whose drafts begin otherwise."""

    alternative: bytes
    is_end: bool
    leader: int
    certain: bool
    share: float
    runner_up: bytes | None
    runner_up_is_end: bool
    runner_up_share: float | None
    against: tuple[int, ...]


def decide(voters: Sequence[Voter], draw: float | None = None) -> Verdict:
    """The verdict of these voters, whose drafts part at x. `draw` in [0, 1) draws the winner in proportion to F_low;
    None takes the likeliest alternative."""
    shares = normalised([voter.weight for voter in voters])
    alternatives = alternatives_of(voters, shares)
    bounds = [[interval(voter, alternative) for voter in voters] for alternative in alternatives]
    low = [plain_sum([w * m[0] for w, m in zip(shares, of_one, strict=True)]) for of_one in bounds]
    high = [plain_sum([w * m[1] for w, m in zip(shares, of_one, strict=True)]) for of_one in bounds]
    ranking = _ranking(alternatives, low, shares)
    won = ranking[0] if draw is None else _drawn(ranking, low, draw)
    others = [index for index in ranking if index != won]
    second = others[0] if others else None
    alternative = alternatives[won]
    given = {m: shares[m] * bounds[won][m][0] for m in alternative.supporters}
    leader = min(m for m in alternative.supporters if given[m] >= max(given.values()) - _TIE)
    runner_up = None if second is None else alternatives[second]
    return Verdict(
        alternative.start,
        alternative.is_end,
        leader,
        all(low[won] > high[index] + _TIE for index in others),
        low[won],
        runner_up.start if runner_up else None,
        runner_up is not None and runner_up.is_end,
        None if second is None else low[second],
        tuple(m for m, voter in enumerate(voters) if _is_against(voter, alternative)),
    )


def alternatives_of(voters: Sequence[Voter], shares: Sequence[float]) -> list[Alternative]:
    """The alternatives, in the order of the first voter of each: the first characters of the drafts, refined to the
    common span where several drafts share the first character but part within it."""
    counted = [(index, voter) for index, voter in enumerate(voters) if shares[index]]
    span = min((voter.left for _, voter in counted if not voter.is_at_end), default=0)
    groups: dict[bytes, dict[bytes, list[int]]] = {}
    for index, voter in counted:
        cut = b"" if voter.is_at_end else voter.draft[:span]
        groups.setdefault(first_character(voter.draft[: voter.left]), {}).setdefault(cut, []).append(index)
    alternatives = []
    for character, cuts in groups.items():
        if len(cuts) == 1:
            (supporters,) = cuts.values()
            alternatives.append(Alternative(character, not character, tuple(supporters)))
        else:
            alternatives += [Alternative(cut, False, tuple(supporters)) for cut, supporters in cuts.items()]
    return alternatives


def first_character(text: bytes) -> bytes:
    """The first character of a text in UTF-8; b"" of an empty one."""
    end = 1
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return text[:end]


def _begins_with(voter: Voter, alternative: Alternative) -> bool:
    return voter.is_at_end if alternative.is_end else not voter.is_at_end and voter.draft.startswith(alternative.start)


def _is_against(voter: Voter, alternative: Alternative) -> bool:
    if alternative.is_end or voter.is_at_end:
        return voter.is_at_end != alternative.is_end
    known = voter.draft[: voter.left]
    return not (known.startswith(alternative.start) or alternative.start.startswith(known))


def interval(voter: Voter, alternative: Alternative) -> tuple[float, float]:
    """low(b) and high(b) of one voter: what it gives to the alternative, at least and at most."""
    proposal = voter.proposal
    if not proposal.has_logprobs:
        return (1.0, 1.0) if _begins_with(voter, alternative) else (0.0, 0.0)
    listed, written = proposal.probabilities, proposal.own[: voter.offset]
    agreeing = _sum_of(listed, lambda piece: piece.startswith(written))
    begun = _sum_of(listed, lambda piece: len(piece) < len(written) and written.startswith(piece))
    whole = agreeing + proposal.rest + begun
    if whole <= 0.0:
        return 0.0, 1.0
    # b"" is the end of the answer, but in its first token.
    ends = 0.0 if written or voter.is_first else listed.get(b"", 0.0)
    if alternative.is_end:
        # After exactly what is written the answer may end.
        following, open_ended = ends, begun + listed.get(written, 0.0) - ends
    else:
        wanted = written + alternative.start
        following = _sum_of(listed, lambda piece: piece.startswith(wanted))
        open_ended = _sum_of(listed, lambda piece: len(piece) < len(wanted) and wanted.startswith(piece)) - ends
    return following / whole, min(1.0, (following + proposal.rest + open_ended) / whole)


def _sum_of(listed: Mapping[bytes, float], counts: Callable[[bytes], bool]) -> float:
    return plain_sum([p for piece, p in listed.items() if counts(piece)])


def _ranking(alternatives: Sequence[Alternative], low: Sequence[float], shares: Sequence[float]) -> list[int]:
    """The alternatives by falling F_low; of equal ones that of the heaviest supporter first, then that of the lowest
    index."""
    heaviest = [max((shares[m], -m) for m in alternative.supporters) for alternative in alternatives]
    left, ranking = set(range(len(alternatives))), list[int]()
    while left:
        best = max(low[index] for index in left)
        tied = [index for index in left if low[index] >= best - _TIE]
        ranking.append(max(tied, key=lambda index: heaviest[index]))
        left.remove(ranking[-1])
    return ranking


def _drawn(ranking: Sequence[int], low: Sequence[float], draw: float) -> int:
    """The first alternative of the ranking whose cumulated share is above `draw`."""
    cumulated = 0.0
    for index, share in zip(ranking, normalised([low[index] for index in ranking]), strict=True):
        cumulated += share
        if cumulated > draw:
            return index
    return ranking[-1]


def drawn_number(seed: int, x: int) -> float:
    """A number in [0, 1) that depends on the seed and the byte alone: a counter-based generator."""
    digest = blake2b(f"{seed} {x}".encode(), digest_size=8).digest()
    # The 53 highest bits: a float has no more.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
