"""The diversity index: how far the council is from agreeing on one next piece.

    P(b)     sum of w_m p_m(b): the council's probability of the piece b
    DI       1 - max P(b), in [0, 1]

This is the variation ratio of the council's mixture (Freeman, Elementary Applied Statistics, 1965): the probability
that a piece drawn from it is not its likeliest one. DI does not distinguish members that are all unsure from members
that are certain of different pieces; the disagreement (disagreement.py) does.

What a list leaves out could be any piece: DI is an upper bound of the true index, and there is a lower bound beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from aggregator.numbers.proposal import Proposal, has_many_tokens


def diversity(proposals: Sequence[Proposal], weights: Sequence[float]) -> tuple[float, float]:
    """The diversity index and the lowest value that the true one can have: 0 <= low <= index <= 1.

    low = 1 - max_b sum w_m u_m(b), where u_m(b) is the most that p_m(b) may truly be: the probability where b is
    listed, what any one unlisted piece can have where it is not, and all the rest as well where several tokens map to
    b. The maximum is over all pieces; a piece that no member lists counts as one token. The weights sum to 1.
    """
    unlisted = heaviest = highest = 0.0
    favourite = b""
    for proposal, weight in zip(proposals, weights, strict=True):
        unlisted += weight * proposal.unlisted
        if weight * proposal.likeliest > heaviest:
            heaviest, favourite = weight * proposal.likeliest, proposal.favourite
    weighted = [(one.probabilities.get, one.unlisted, weight) for one, weight in zip(proposals, weights, strict=True)]
    for probability_of, _, weight in weighted:
        highest += weight * probability_of(favourite, 0.0)
    # The best piece has at least as much as the heaviest favourite. A mean is at most the largest of its numbers: so at
    # least one member gives the best piece that much, less what unlisted pieces can add.
    least = highest - unlisted
    candidates = {
        piece
        for proposal in proposals
        if proposal.likeliest >= least
        for piece, p in proposal.probabilities.items()
        if p >= least
    }
    candidates.update(*[proposal.loose_pieces for proposal in proposals])
    most = unlisted
    any_loose = any(proposal.all_loose for proposal in proposals)
    for piece in candidates:
        p_council = u_unlisted = 0.0
        for probability_of, p_unlisted, weight in weighted:
            p = probability_of(piece)
            if p is None:
                u_unlisted += weight * p_unlisted
            else:
                p_council += weight * p
        is_tight = not (any_loose or has_many_tokens(piece))
        highest = max(highest, p_council)
        most = max(most, p_council + u_unlisted if is_tight else _most(piece, proposals, weights))
    index = min(1.0, max(0.0, 1.0 - highest))
    return index, min(index, max(0.0, 1.0 - most))


def _most(piece: bytes, proposals: Sequence[Proposal], weights: Sequence[float]) -> float:
    """sum w_m u_m(b) of a piece that several tokens of a member may map to."""
    most = 0.0
    for proposal, weight in zip(proposals, weights, strict=True):
        p = proposal.probabilities.get(piece)
        if proposal.all_loose or has_many_tokens(piece):
            most += weight * min(1.0, (p or 0.0) + proposal.rest)
        else:
            most += weight * (proposal.unlisted if p is None else p)
    return most
