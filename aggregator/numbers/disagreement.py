"""How much the members disagree about the common span, and how unsure each of them is.

    Q               sum of w_m q_m: the council's distribution
    entropy_total   H(Q): how unsure the council is                    nats
    entropy_within  sum of w_m H(q_m): how unsure its members are      nats
    JSD             sum of w_m KL(q_m || Q) = total - within           nats, at most H(w)

JSD is the generalised Jensen-Shannon divergence (Lin, Divergence measures based on the Shannon entropy, IEEE
Transactions on Information Theory 37, 1991). It is the mutual information of a text and the member that writes it: the
disagreement of an ensemble (Houlsby et al., Bayesian active learning, arXiv:1112.5745, 2011). What lists leave out is
one bucket of all members: leaving out the same share is not a disagreement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import mul

import msgspec

from aggregator.numbers.arithmetic import clamp, plain_sum
from aggregator.numbers.span import Span

_LN2 = math.log(2.0)
_TINY = math.ulp(0.0)
# A member with a smaller share does not count: the quotient of two small numbers would be mostly rounding.
LEAST_SHARE = 1e-6


class Disagreement(msgspec.Struct, frozen=True, gc=False):
    """In nats: entropy_total H(Q) >= 0, entropy_within >= 0, divergence (JSD) in [0, H(w)]. variation_ratio is
    1 - max Q over the known texts, in [0, 1]."""

    entropy_total: float
    entropy_within: float
    divergence: float
    variation_ratio: float


def shannon_entropy(probabilities: Iterable[float]) -> float:
    """H = - sum of p ln p in nats, >= 0, of probabilities that sum to 1; those that are 0 add nothing."""
    return max(0.0, -plain_sum([p * math.log(p) for p in probabilities if p > 0.0]))


def disagreement_of(spans: Sequence[Span], weights: Sequence[float]) -> Disagreement:
    """The disagreement of these members. The weights sum to 1; members with weight 0 do not count."""
    weighted = [(span, weight) for span, weight in zip(spans, weights, strict=True) if weight > 0.0]
    mixed = mixture([span.probabilities for span, _ in weighted], [weight for _, weight in weighted])
    if not all(mixed.values()):
        # A weight of 1e-300 times a probability of 1e-300 is 0, which has no logarithm.
        mixed = {text: p or _TINY for text, p in mixed.items()}
    rest = plain_sum([weight * span.rest for span, weight in weighted])
    log_rest = math.log(rest) if rest > 0.0 else 0.0
    of_council = rest * log_rest + plain_sum(map(mul, mixed.values(), map(math.log, mixed.values())))
    of_members = 0.0
    for span, weight in weighted:
        q = span.probabilities
        of_itself = plain_sum(map(mul, q.values(), map(math.log, q.values())))
        if span.rest > 0.0:
            of_itself += span.rest * math.log(span.rest)
        of_members += weight * of_itself
    # sum w_m KL(q_m || Q) = sum w_m sum q_m ln q_m - sum w_m sum q_m ln Q, and sum w_m q_m is Q.
    divergence = max(0.0, of_members - of_council)
    most = clamp(1.0 - max(mixed.values(), default=0.0))
    return Disagreement(max(0.0, -of_council), max(0.0, -of_members), divergence, most)


def mixture(distributions: Sequence[Mapping[bytes, float]], weights: Sequence[float]) -> dict[bytes, float]:
    """sum of w_m p_m(b) for each b, in [0, 1]. The weights sum to 1, one for each distribution."""
    mixed: dict[bytes, float] = {}
    for distribution, weight in zip(distributions, weights, strict=True):
        for piece, p in distribution.items():
            if piece in mixed:
                mixed[piece] += weight * p
            else:
                mixed[piece] = weight * p
    return mixed


def normalised_divergence(divergence: float, weights: Sequence[float]) -> float:
    """jsd = JSD / H(w), in [0, 1]: 0 where all q_m are the same, 1 where each member is certain of another text.

    0 where fewer than two weights count.
    """
    if len([weight for weight in weights if weight >= LEAST_SHARE]) < 2:
        return 0.0
    return clamp(divergence / shannon_entropy(weights))


def agreement_of(divergence: float) -> float:
    """a = 1 - min(1, JSD / ln 2), in [0, 1]: 0 where two halves of the weight are certain of different texts.

    ln 2 and not H(w): with H(w) two groups among three members would have an agreement of about a half.
    """
    return 1.0 - min(1.0, divergence / _LN2)
