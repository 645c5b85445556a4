"""The measures at the frontier, from the proposals of the aligned members. Pure functions of their lists."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.numbers.arithmetic import normalised, plain_sum
from aggregator.numbers.disagreement import LEAST_SHARE, agreement_of, disagreement_of, normalised_divergence
from aggregator.numbers.diversity import diversity
from aggregator.numbers.proposal import Proposal
from aggregator.numbers.span import certain_span, span_of
from schemas.frames import FALLBACK_INDEX, AgreementSource, Measures

# Where the lists cover a smaller share of the council's probability, the texts count instead.
_LEAST_MASS = 0.5


class AlignedMember(msgspec.Struct, frozen=True):
    """A member at the frontier: its token there is [start, end) of its answer."""

    start: int
    end: int
    proposal: Proposal


def measures_at(x: int, aligned: Sequence[AlignedMember], weights: Sequence[float]) -> Measures:
    """The measures of these members, one or more, at the byte x. `weights` are confidence weights g_m >= 0.

    The agreement is not rounded: frames show its mean (Interference.shown_agreement).
    """
    shares = normalised(weights)
    proposals = [one.proposal for one in aligned]
    offsets = [x - one.start for one in aligned]
    span_bytes = min([one.end for one in aligned]) - x
    covered = [i for i, proposal in enumerate(proposals) if proposal.has_logprobs]
    spans = [
        (span_of if one.has_logprobs else certain_span)(one, offset, span_bytes)
        for one, offset in zip(proposals, offsets, strict=True)
    ]
    mass = round(min(1.0, plain_sum([shares[i] * (1.0 - spans[i].rest) for i in covered])), 9)

    is_covered = len(covered) == len(proposals)
    disagreement = disagreement_of(spans, shares) if is_covered else None
    index, low = diversity(proposals, shares) if is_covered else (FALLBACK_INDEX, None)
    covered_index: float | None = index if is_covered else None
    if covered and not is_covered:
        of_covered = normalised([weights[i] for i in covered])
        covered_index, _ = diversity([proposals[i] for i in covered], of_covered)

    agreement, source = None, _agreement_source(shares, mass, is_covered)
    if source == "text":
        spans = [certain_span(one, offset, span_bytes) for one, offset in zip(proposals, offsets, strict=True)]
    if source:
        counted = disagreement if disagreement and source == "logprobs" else disagreement_of(spans, shares)
        agreement = agreement_of(counted.divergence)
    return Measures(
        diversity_index=round(index, 9),
        di_source="logprobs" if is_covered else "fallback",
        di_low=_rounded(low),
        di_covered=_rounded(covered_index),
        coverage=round(min(1.0, plain_sum([shares[i] for i in covered])), 9),
        di_span=round(disagreement.variation_ratio, 9) if disagreement else None,
        span_bytes=span_bytes,
        jsd=round(normalised_divergence(disagreement.divergence, shares), 9) if disagreement else None,
        entropy_total=round(disagreement.entropy_total, 9) if disagreement else None,
        entropy_within=round(disagreement.entropy_within, 9) if disagreement else None,
        coverage_mass=mass,
        agreement=agreement,
        agreement_source=source,
    )


def _agreement_source(shares: Sequence[float], mass: float, is_covered: bool) -> AgreementSource | None:
    """Which members count by their lists and which as certain of what they wrote: all by lists, only some, or none.
    None where fewer than two members count."""
    if len([share for share in shares if share >= LEAST_SHARE]) < 2:
        return None
    if mass < _LEAST_MASS:
        return "text"
    return "logprobs" if is_covered else "mixed"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 9)
