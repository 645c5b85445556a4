"""The measures at the frontier: the slow way, straight from the definitions.

    aligned token --proposal_of()--> p, r, t ----> diversity index, and its lower bound
                                     |
                                     +--span_of()--> q: the same next n bytes for all --> disagreement, agreement

Every sum is written out once, over plain dicts. `weights` are never negative; they are made to sum to 1 wherever they
are used, and count as equal where they sum to 0. Logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from schemas import entries as wire
from schemas.frames import AgreementSource, Compares
from schemas.grid import NS_PER_MS, window_start_ns
from schemas.sessions import Limits
from tests.oracle.members import WHITE_SPACE, Accepted
from tests.oracle.step import Step

# What replaces bytes that are not a character, in text.
STAND_IN = "\ufffd".encode()
# The key of the probability that lists left out: one bucket, shared by all members.
LEFT_OUT = None
Buckets = dict[bytes | None, float]


# --- what a member proposes at its aligned token ----------------------------------------------------------------------


@dataclass(frozen=True)
class Proposal:
    """One member's next piece.

    own: the bytes of its token in the answer. p: the probability of each known piece. r: what is left of 1. t: the
    least probability of the list as received, which no unlisted token exceeds; None without a list.
    """

    own: bytes
    p: dict[bytes, float]
    r: float
    t: float | None
    is_loose: bool
    has_logprobs: bool


def proposal_of(token: wire.Token, start: int) -> Proposal:
    """What a token that starts at byte `start` of its answer proposes there."""
    text = token.text.encode()
    sampled = token.piece or text
    is_placed = text.endswith(sampled) or sampled.startswith(text)
    before = text[: len(text) - len(sampled)] if text.endswith(sampled) else b""
    if is_about_a_later_position(text, sampled):
        return Proposal(in_answer(text, start), {}, 1.0, None, True, False)
    own_share = None if token.logprob is None or math.isnan(token.logprob) else probability(token.logprob)
    listed = [(before + piece, probability(logprob)) for piece, logprob in wire.unpack_top(token.top)]

    shares: dict[bytes, float] = {}
    for piece, share in listed:
        shares[piece] = shares.get(piece, 0.0) + share
    if not is_placed and own_share is not None:
        left = max(0.0, shares.pop(sampled, 0.0) - own_share)
        if left > 0.0:
            shares[sampled] = left
        shares[text] = shares.get(text, 0.0) + own_share

    p: dict[bytes, float] = {}
    for piece, share in shares.items():
        p[in_answer(piece, start)] = p.get(in_answer(piece, start), 0.0) + share
    drawn = in_answer(before + sampled if is_placed else text, start)
    if drawn not in p and own_share is not None:
        p[drawn] = own_share

    scale = max(1.0, math.fsum(p.values()))
    p = {piece: share / scale for piece, share in p.items()}
    pieces = {in_answer(piece, start) for piece, _ in listed}
    possible = [share for _, share in listed if share > 0.0]
    return Proposal(
        own=in_answer(text, start),
        p=p,
        r=max(0.0, 1.0 - math.fsum(p.values())),
        t=min(possible) / scale if possible else None,
        is_loose=start == 0 or not possible or len(pieces) < len(listed),
        has_logprobs=token.quality == "real" and (bool(listed) or own_share is not None),
    )


def is_about_a_later_position(text: bytes, sampled: bytes) -> bool:
    """A token has more text than its piece where it completes a character: then the piece begins within one, and the
    text before it is at most three bytes of the character and a space."""
    if text == sampled or sampled.startswith(text):
        return False
    if len(text) - len(sampled) > 4:
        return True
    return text.endswith(sampled) and not 0x80 <= sampled[0] <= 0xBF


def probability(logprob: float) -> float:
    return math.exp(min(logprob, 0.0))


def in_answer(piece: bytes, start: int) -> bytes:
    """An answer begins with its first byte that is not ASCII white space."""
    return piece.lstrip(WHITE_SPACE.encode()) if start == 0 else piece


def upper_bound(proposal: Proposal, piece: bytes) -> float:
    """The most that the member's true probability of this piece can be."""
    if proposal.is_loose or proposal.t is None or piece == b"" or STAND_IN in piece:
        return proposal.p.get(piece, 0.0) + proposal.r
    if piece in proposal.p:
        return proposal.p[piece]
    return min(proposal.r, proposal.t)


def upper_bound_of_an_unlisted_piece(proposal: Proposal) -> float:
    if proposal.is_loose or proposal.t is None:
        return proposal.r
    return min(proposal.r, proposal.t)


# --- the diversity index ----------------------------------------------------------------------------------------------


def shares_of(weights: Sequence[float]) -> list[float]:
    """The weights, summing to 1; equal ones where they sum to 0."""
    total = math.fsum(weights)
    return [weight / total if total > 0.0 else 1.0 / len(weights) for weight in weights]


def diversity_index(proposals: Sequence[Proposal], weights: Sequence[float]) -> float:
    """1 - max_b sum_m w_m p_m(b)."""
    pieces = {piece for proposal in proposals for piece in proposal.p}
    masses = [_mean([one.p.get(piece, 0.0) for one in proposals], weights) for piece in pieces]
    return unit(1.0 - max(masses, default=0.0))


def diversity_low(proposals: Sequence[Proposal], weights: Sequence[float]) -> float:
    """The least that the true index can be, whatever the lists left out."""
    pieces = {piece for proposal in proposals for piece in proposal.p}
    bounds = [_mean([upper_bound(one, piece) for one in proposals], weights) for piece in pieces]
    bounds.append(_mean([upper_bound_of_an_unlisted_piece(one) for one in proposals], weights))
    return min(diversity_index(proposals, weights), unit(1.0 - max(bounds)))


def _mean(numbers: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(share * number for share, number in zip(shares_of(weights), numbers, strict=True))


def unit(number: float) -> float:
    return min(1.0, max(0.0, number))


# --- the common span --------------------------------------------------------------------------------------------------


def span_of(proposal: Proposal, start: int, x: int, length: int) -> Buckets:
    """q_m: the probabilities of the `length` bytes after x by the member, whose token starts at `start` <= x. They sum
    to 1."""
    written = proposal.own[: x - start]
    kept: dict[bytes, float] = {}
    left_out = proposal.r
    for piece, share in proposal.p.items():
        if start == x or (piece.startswith(written) and len(piece) > len(written)):
            kept[piece] = share
        elif written.startswith(piece):
            left_out += share
    left_out = min(1.0, left_out)
    if math.fsum(kept.values()) == 0.0:
        kept = {proposal.own: 1.0}
    total = math.fsum(kept.values())
    q: Buckets = {LEFT_OUT: left_out}
    for piece, share in kept.items():
        cut = piece[len(written) :][:length]
        q[cut] = q.get(cut, 0.0) + share / total * (1.0 - left_out)
    return q


def span_diversity(spans: Sequence[Buckets], weights: Sequence[float]) -> float:
    """1 - max_u sum_m w_m q_m(u), without the bucket of what was left out."""
    return unit(1.0 - max(share for cut, share in mixture(spans, weights).items() if cut is not LEFT_OUT))


# --- disagreement -----------------------------------------------------------------------------------------------------


def mixture(spans: Sequence[Buckets], weights: Sequence[float]) -> Buckets:
    """Q = sum_m w_m q_m."""
    cuts = {cut for span in spans for cut in span}
    return {cut: _mean([span.get(cut, 0.0) for span in spans], weights) for cut in cuts}


def entropy(buckets: Buckets) -> float:
    """H in nats."""
    return max(0.0, -math.fsum(share * math.log(share) for share in buckets.values() if share > 0.0))


def entropy_within(spans: Sequence[Buckets], weights: Sequence[float]) -> float:
    return _mean([entropy(span) for span in spans], weights)


def divergence(spans: Sequence[Buckets], weights: Sequence[float]) -> float:
    """The Jensen-Shannon divergence sum_m w_m KL(q_m || Q) in nats."""
    mixed = mixture(spans, weights)
    return max(0.0, _mean([relative_entropy(span, mixed) for span in spans], weights))


def relative_entropy(span: Buckets, mixed: Buckets) -> float:
    """KL(q || Q). Where Q is 0 although q is not, the member's weight is 0."""
    return math.fsum(
        share * (math.log(share) - math.log(mixed[cut]))
        for cut, share in span.items()
        if share > 0.0 and mixed[cut] > 0.0
    )


def normalised_divergence(spans: Sequence[Buckets], weights: Sequence[float]) -> float:
    """JSD / H(w), in [0, 1]; 0 where fewer than two members count, with at least a millionth of all weight each."""
    shares = shares_of(weights)
    if sum(share >= 1e-6 for share in shares) < 2:
        return 0.0
    return unit(divergence(spans, weights) / -math.fsum(share * math.log(share) for share in shares if share > 0.0))


def agreement_of(spans: Sequence[Buckets], weights: Sequence[float]) -> float:
    """1 - min(1, JSD / ln 2)."""
    return unit(1.0 - min(1.0, divergence(spans, weights) / math.log(2.0)))


# --- all of it, at one frontier ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measures:
    """The measures of the aligned tokens, not rounded; the defaults are those where nothing was measured."""

    diversity_index: float = 0.5
    di_source: Literal["logprobs", "fallback"] = "fallback"
    sync_lag_ms: float | None = None
    arrival_skew_ms: float | None = None
    di_low: float | None = None
    di_covered: float | None = None
    coverage: float | None = None
    di_span: float | None = None
    span_bytes: int | None = None
    jsd: float | None = None
    entropy_total: float | None = None
    entropy_within: float | None = None
    coverage_mass: float | None = None
    agreement: float | None = None
    agreement_source: AgreementSource | None = None


@dataclass(frozen=True)
class Frontier:
    """x, the members concerned when it was last measured, where their texts parted before it, and the measures. With
    fewer than two members nothing is compared."""

    x: int | None = None
    concerned: tuple[int, ...] = ()
    parted: int | None = None
    measures: Measures = Measures()

    @property
    def compares(self) -> Compares | None:
        if len(self.concerned) < 2:
            return None
        return "next" if self.parted is None else "place"


def frontier_after(before: Frontier, steps: Sequence[Step], weights: Sequence[float], limits: Limits) -> Frontier:
    """The frontier at the end of the last of these windows. `weights` are the members' confidence weights."""
    step, members = steps[-1], steps[-1].window.members
    in_step = step.mode == "step"
    if before.x is None and not in_step and step.window.expected(limits, in_step=False):
        return before
    compared = sorted(step.stepping) if in_step else step.running
    # The first x is for all stepping members: it waits for text of each.
    least_end = -1 if in_step and before.x is None else before.x or 0
    concerned = tuple(number for number in compared if step.released[number] > least_end)
    if not concerned:
        # The members at x have ended, and the running ones have not come so far; unless no member runs.
        return Frontier(before.x) if step.running else before
    least = min(step.released[number] for number in concerned)
    kept = [members[number].kept_tokens(limits.unaligned_tokens) for number in concerned]
    starts = [one.start for tokens in kept for one in tokens if one.start < least]
    x = max(starts if before.x is None else [before.x, *starts], default=None)
    # In step, text before the byte at which the last of them joined was not released together.
    is_apart = in_step and x is not None and x < step.since
    if x is None or (x, concerned) == (before.x, before.concerned):
        return replace(before, measures=replace(before.measures, sync_lag_ms=None)) if is_apart else before
    parted = parted_at([members[number].answer for number in concerned], x)
    aligned = [one for tokens in kept for one in tokens if one.start <= x < one.end]
    if len(aligned) < len(concerned):
        return Frontier(x, concerned, parted)
    releases = [] if is_apart else [window_of_release(steps, number, x) for number in concerned]
    return Frontier(x, concerned, parted, measures_of(aligned, [weights[number] for number in concerned], x, releases))


def window_of_release(steps: Sequence[Step], number: int, x: int) -> int:
    """The first window in which the member's text could be released past x."""
    return next(step.window.index for step in steps if step.limits[number] > x)


def parted_at(answers: Sequence[bytes], x: int) -> int | None:
    """The first byte before x at which two of the answers differ."""
    return next((byte for byte in range(x) if len({answer[byte] for answer in answers}) > 1), None)


def measures_of(aligned: Sequence[Accepted], weights: Sequence[float], x: int, releases: Sequence[int]) -> Measures:
    """The measures of these tokens, all of which cover x. `releases` are the windows in which they were released past
    x, empty where they were not released together."""
    proposals = [proposal_of(one.token, one.start) for one in aligned]
    shares = shares_of(weights)
    measured = [number for number, proposal in enumerate(proposals) if proposal.has_logprobs]
    is_measured = len(measured) == len(proposals)
    length = min(one.end - x for one in aligned)
    spans = [span_of(proposal, one.start, x, length) for proposal, one in zip(proposals, aligned, strict=True)]
    coverage_mass = math.fsum(shares[number] * (1.0 - (spans[number][LEFT_OUT])) for number in measured)
    written: list[Buckets] = [
        {proposal.own[x - one.start :][:length]: 1.0} for proposal, one in zip(proposals, aligned, strict=True)
    ]
    agreement, source = _agreement_and_source(spans, written, measured, shares, coverage_mass)
    releases_ns = [window_start_ns(window) for window in releases]
    arrivals = [one.token.arrival_ns for one in aligned]
    counted = [proposals[number] for number in measured]
    counted_weights = [weights[number] for number in measured]
    return Measures(
        diversity_index=diversity_index(proposals, weights) if is_measured else 0.5,
        di_source="logprobs" if is_measured else "fallback",
        sync_lag_ms=(max(releases_ns) - min(releases_ns)) / NS_PER_MS if len(releases) > 1 else None,
        arrival_skew_ms=(max(arrivals) - min(arrivals)) / NS_PER_MS if len(aligned) > 1 else None,
        di_low=diversity_low(proposals, weights) if is_measured else None,
        di_covered=diversity_index(counted, counted_weights) if measured else None,
        coverage=unit(math.fsum(shares[number] for number in measured)),
        di_span=span_diversity(spans, weights) if is_measured else None,
        span_bytes=length,
        jsd=normalised_divergence(spans, weights) if is_measured else None,
        entropy_total=entropy(mixture(spans, weights)) if is_measured else None,
        entropy_within=entropy_within(spans, weights) if is_measured else None,
        coverage_mass=unit(coverage_mass),
        agreement=agreement,
        agreement_source=source,
    )


def _agreement_and_source(
    spans: Sequence[Buckets],
    written: Sequence[Buckets],
    measured: Sequence[int],
    shares: Sequence[float],
    coverage_mass: float,
) -> tuple[float | None, AgreementSource | None]:
    """`written` is each member's own text as a certainty: it counts for members that were not measured, and for all
    where too little was."""
    if sum(share >= 1e-6 for share in shares) < 2:
        return None, None
    if round(coverage_mass, 9) < 0.5:
        return agreement_of(written, shares), "text"
    counted = [span if number in measured else written[number] for number, span in enumerate(spans)]
    return agreement_of(counted, shares), "logprobs" if len(measured) == len(spans) else "mixed"
