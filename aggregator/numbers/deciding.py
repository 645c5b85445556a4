"""Deciding where drafts part: which text the council takes at the byte x, before which all drafts are the same.

    x = 4          "The "    member 0   |The| sky| is           q = " ", what its token at x has before x
                             member 1   |The |grass|            q = ""
                             member 2   |The |s|k|y|            q = ""
    branches       first characters "s" (members 0 and 2) and "g" (member 1)

What a member gives to a branch b is not known exactly, because its list is not the whole distribution. With c(s) the
sum of p over the listed pieces that begin with s, r what the list left out, e = p(q) (0 where q is empty), and h the
sum of p over the pieces that are a proper prefix of q:

    low(b)  = c(qb) / (c(q) + r + h)        high(b) = min(1, (c(qb) + e + r + h) / (c(q) + r + h))

F_low and F_high are their weighted means. The branch with the largest F_low wins. It wins for `certain` if its F_low is
above F_high of every other branch: then no way to complete the lists gives another winner.

A member without a list is certain of the text that it wrote. END, the end of the answer, is the branch of a member
whose draft ends at x; its piece is b"".
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from aggregator.numbers.arithmetic import normalised, plain_sum
from aggregator.numbers.proposal import Proposal

# Sums of the same numbers in another order differ by less.
_TIE = 1e-12


class Voter(msgspec.Struct, frozen=True):
    """A member at x. `draft` is its text from x on, at least `left` bytes: those of its token at x. Its draft ends at x
    where `left` is 0. `offset` bytes of the token are before x. `proposal` is what it proposed there."""

    weight: float
    draft: bytes
    left: int
    offset: int
    proposal: Proposal

    @property
    def is_at_end(self) -> bool:
        return not self.left


class Branch(msgspec.Struct, frozen=True):
    """A way to go on: the text that begins with `start`, or the end of the answer. `supporters` are the voters whose
    drafts begin so."""

    start: bytes
    is_end: bool
    supporters: tuple[int, ...]


class Verdict(msgspec.Struct, frozen=True):
    """The branch that won and the voter `leader` whose draft is taken; the shares are F_low, in [0, 1]. The runner-up
    is None where there is only one branch. `against` are the voters whose drafts begin otherwise."""

    branch: bytes
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
    None takes the likeliest branch."""
    shares = normalised([voter.weight for voter in voters])
    branches = branches_of(voters)
    bounds = [[interval(voter, branch) for voter in voters] for branch in branches]
    low = [plain_sum([w * m[0] for w, m in zip(shares, of_branch, strict=True)]) for of_branch in bounds]
    high = [plain_sum([w * m[1] for w, m in zip(shares, of_branch, strict=True)]) for of_branch in bounds]
    ranking = _ranking(branches, low, shares)
    won = ranking[0] if draw is None else _drawn(ranking, low, draw)
    others = [index for index in ranking if index != won]
    second = others[0] if others else None
    branch = branches[won]
    leader = max(branch.supporters, key=lambda m: (shares[m] * bounds[won][m][0], -m))
    runner_up = None if second is None else branches[second]
    return Verdict(
        branch.start,
        branch.is_end,
        leader,
        all(low[won] > high[index] for index in others),
        low[won],
        runner_up.start if runner_up else None,
        runner_up is not None and runner_up.is_end,
        None if second is None else low[second],
        tuple(index for index in range(len(voters)) if index not in branch.supporters),
    )


def branches_of(voters: Sequence[Voter]) -> list[Branch]:
    """The branches, in the order of the first voter of each: the first characters of the drafts, refined to the common
    span where several drafts share the first character but part within it."""
    span = min((voter.left for voter in voters if not voter.is_at_end), default=0)
    groups: dict[bytes, dict[bytes, list[int]]] = {}
    for index, voter in enumerate(voters):
        cut = b"" if voter.is_at_end else voter.draft[:span]
        groups.setdefault(first_character(voter.draft[: voter.left]), {}).setdefault(cut, []).append(index)
    branches = []
    for character, cuts in groups.items():
        if len(cuts) == 1:
            (supporters,) = cuts.values()
            branches.append(Branch(character, not character, tuple(supporters)))
        else:
            branches += [Branch(cut, False, tuple(supporters)) for cut, supporters in cuts.items()]
    return branches


def first_character(text: bytes) -> bytes:
    """The first character of a text in UTF-8; b"" of an empty one."""
    end = 1
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return text[:end]


def interval(voter: Voter, branch: Branch) -> tuple[float, float]:
    """low(b) and high(b) of one voter: what it gives to the branch, at least and at most."""
    proposal = voter.proposal
    if not proposal.has_logprobs:
        is_own = voter.is_at_end if branch.is_end else voter.draft.startswith(branch.start) and not voter.is_at_end
        return (1.0, 1.0) if is_own else (0.0, 0.0)
    listed, written = proposal.probabilities, proposal.own[: voter.offset]
    agreeing = plain_sum([p for piece, p in listed.items() if piece.startswith(written)])
    exact = listed.get(written, 0.0) if written else 0.0
    begun = plain_sum([p for piece, p in listed.items() if len(piece) < len(written) and written.startswith(piece)])
    whole = agreeing + proposal.rest + begun
    if whole <= 0.0:
        return 0.0, 1.0
    if branch.is_end:
        following = listed.get(b"", 0.0) if not written else 0.0
    else:
        wanted = written + branch.start
        following = plain_sum([p for piece, p in listed.items() if piece.startswith(wanted)])
    low = following / whole
    return low, min(1.0, (following + exact + proposal.rest + begun) / whole)


def _ranking(branches: Sequence[Branch], low: Sequence[float], shares: Sequence[float]) -> list[int]:
    """The branches by falling F_low; of equal ones that of the heaviest supporter first, then that of the lowest
    index."""
    heaviest = [max((shares[m], -m) for m in branch.supporters) for branch in branches]
    left, ranking = set(range(len(branches))), list[int]()
    while left:
        best = max(low[index] for index in left)
        tied = [index for index in left if low[index] >= best - _TIE]
        ranking.append(max(tied, key=lambda index: heaviest[index]))
        left.remove(ranking[-1])
    return ranking


def _drawn(ranking: Sequence[int], low: Sequence[float], draw: float) -> int:
    """The first branch of the ranking whose cumulated share is above `draw`."""
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
