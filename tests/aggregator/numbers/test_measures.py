"""The fast core's measures against the slow reference's, function by function, to 1e-12: frames are rounded to 1e-9.

token --> proposal --> diversity, its bounds
             |--> span --> entropies, divergence, agreement
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.numbers.disagreement import agreement_of, disagreement_of, normalised_divergence
from aggregator.numbers.diversity import diversity
from aggregator.numbers.measures import AlignedMember, measures_at
from aggregator.numbers.proposal import Proposal, has_many_tokens, proposal_of
from aggregator.numbers.span import Span, certain_span, span_of
from schemas.entries import Quality, Token
from tests.oracle import frontier as slow
from tests.oracle.test_frames import odd_logprobs, short_lists, starts, tokens, weights

EPSILON = 1e-12
Council = tuple[list[tuple[Token, int]], list[float]]


def near(number: object) -> object:
    return pytest.approx(number, abs=EPSILON)


def councils(least: int = 1) -> st.SearchStrategy[Council]:
    """Tokens of one to six members with their starts, and weights, some all 0, or beyond a product."""
    drawn = st.lists(
        st.tuples(tokens, starts, weights | st.sampled_from((0.0, 1e-300, 1e300))), min_size=least, max_size=6
    )
    return drawn.map(lambda all_: ([(token, start) for token, start, _ in all_], [weight for _, _, weight in all_]))


@given(tokens, starts)
def test_proposals_agree_with_the_oracle(token: Token, start: int) -> None:
    ours, theirs = proposal_of(token, start), slow.proposal_of(token, start)
    assert (ours.own, ours.has_logprobs) == (theirs.own, theirs.has_logprobs)
    if ours.has_logprobs:
        assert ours.probabilities == near(theirs.p)
        assert ours.rest == near(theirs.r)
        assert ours.unlisted == near(slow.upper_bound_of_an_unlisted_piece(theirs))
        assert ours.likeliest == near(max(theirs.p.values()))
        assert set(ours.loose_pieces) == {piece for piece in ours.probabilities if has_many_tokens(piece)}


@given(councils())
def test_diversity_and_its_bound_agree_with_the_oracle(council: Council) -> None:
    drawn, given_weights = council
    measured = [(token, start) for token, start in drawn if proposal_of(token, start).has_logprobs]
    shares = slow.shares_of(given_weights[: len(measured)])
    if measured:
        index, low = diversity([proposal_of(*one) for one in measured], shares)
        theirs = [slow.proposal_of(*one) for one in measured]
        assert index == near(slow.diversity_index(theirs, shares))
        assert low == near(slow.diversity_low(theirs, shares))
        assert 0.0 <= low <= index <= 1.0


@given(tokens, starts, st.integers(0, 4), st.integers(1, 6))
def test_spans_agree_with_the_oracle(token: Token, start: int, offset: int, length: int) -> None:
    ours, theirs = proposal_of(token, start), slow.proposal_of(token, start)
    if ours.has_logprobs and offset < len(ours.own):
        span = span_of(ours, offset, length)
        expected = slow.span_of(theirs, start, start + offset, length)
        assert span.rest == near(expected.pop(slow.LEFT_OUT, 0.0))
        assert span.probabilities == near({cut: p for cut, p in expected.items() if p or cut in span.probabilities})
        assert sum(span.probabilities.values()) + span.rest == near(1.0)
        assert all(p > 0.0 for p in span.probabilities.values())


@given(councils(), st.integers(1, 6))
def test_entropies_and_divergence_agree_with_the_oracle(council: Council, length: int) -> None:
    drawn, given_weights = council
    proposals = [(proposal_of(*one), slow.proposal_of(*one)) for one in drawn]
    both = [pair for pair in proposals if pair[0].has_logprobs]
    shares = slow.shares_of(given_weights[: len(both)])
    if both:
        spans = [span_of(ours, 0, length) for ours, _ in both]
        expected = [slow.span_of(theirs, 0, 0, length) for _, theirs in both]
        found = disagreement_of(spans, shares)
        assert found.entropy_total == near(slow.entropy(slow.mixture(expected, shares)))
        assert found.entropy_within == near(slow.entropy_within(expected, shares))
        assert found.divergence == near(slow.divergence(expected, shares))
        assert found.divergence == near(found.entropy_total - found.entropy_within)
        assert found.variation_ratio == near(slow.span_diversity(expected, shares))
        assert agreement_of(found.divergence) == near(slow.agreement_of(expected, shares))
        jsd = normalised_divergence(found.divergence, shares)
        assert 0.0 <= jsd <= 1.0
        # Where one member has all of the weight but 1e-12, both numbers of the quotient are smaller than their errors.
        if min((share for share in shares if share > 0.0), default=0.0) > 1e-6:
            assert jsd == pytest.approx(slow.normalised_divergence(expected, shares), abs=1e-9)


@given(councils(), st.integers(0, 3))
def test_no_measure_is_nan_or_infinite_or_out_of_its_range_whatever_a_server_sends(
    council: Council, offset: int
) -> None:
    drawn, given_weights = council
    aligned = [
        AlignedMember(-offset if start else 0, 9, proposal_of(token, start))
        for token, start in drawn
        if len(proposal_of(token, start).own) > offset
    ]
    if aligned:
        measures = measures_at(0, aligned, given_weights[: len(aligned)])
        for name, number in msgspec.structs.asdict(measures).items():
            if isinstance(number, float):
                assert math.isfinite(number)
                assert 0.0 <= number <= (math.inf if name.startswith("entropy") else 1.0)


def listed(top: Sequence[tuple[bytes, float]], logprob: float | None = None, quality: Quality = "real") -> Token:
    return Token(0, "1-0", 0, "answer", "the", 0, 0, logprob, quality, b"", msgspec.Raw(msgspec.msgpack.encode(top)))


@pytest.mark.parametrize("count", [2, 20, 200])
def test_a_list_of_any_length_is_read_completely_and_in_any_order(count: int) -> None:
    top = [(b"w%d" % rank, -0.1 * rank - 6.0) for rank in range(count)]
    ordered, turned = proposal_of(listed(top), 5), proposal_of(listed(top[::-1]), 5)
    assert len(ordered.probabilities) == count
    assert ordered.probabilities == turned.probabilities
    assert ordered.rest == near(turned.rest)
    assert ordered.unlisted == turned.unlisted == near(math.exp(-0.1 * (count - 1) - 6.0))


@given(short_lists, odd_logprobs)
def test_probabilities_never_sum_to_more_than_1(top: list[tuple[bytes, float]], logprob: float | None) -> None:
    proposal = proposal_of(listed(top, logprob), 5)
    assert sum(proposal.probabilities.values()) + proposal.rest <= 1.0 + EPSILON


def test_where_several_tokens_map_to_a_listed_piece_it_may_have_what_the_list_left_out() -> None:
    """At position 0 " the" and "the" are one piece: of the list [" the" 0.5] all of the rest may be "the" as well."""
    top = [(b" the", math.log(0.5))]
    inside, first = proposal_of(listed(top), 5), proposal_of(listed(top), 0)
    assert diversity([inside], [1.0]) == (near(0.5), near(0.5))
    assert diversity([first], [1.0]) == (near(0.5), near(0.0))


def test_a_piece_without_bytes_never_makes_the_span_more_diverse_than_the_pieces() -> None:
    """All tokens start at x, and most end the answer there: b"" has its own bucket, else di_span would be 0.6."""
    proposal = proposal_of(listed([(b"", math.log(0.6)), (b"the", math.log(0.4))]), 5)
    span = span_of(proposal, 0, 3)
    index, _ = diversity([proposal], [1.0])
    assert span.probabilities == near({b"": 0.6, b"the": 0.4})
    assert disagreement_of([span], [1.0]).variation_ratio <= index + EPSILON


def test_a_chunk_of_any_length_is_cut_without_reading_it_byte_by_byte() -> None:
    """A server that sends its whole answer at once: the frontier is a million bytes into one token."""
    text = "so " * 400_000
    token = Token(
        0, "1-0", 0, "answer", text, 0, 0, -0.5, "real", b"", msgspec.Raw(msgspec.msgpack.encode([(b"s", -1.0)]))
    )
    proposal = proposal_of(token, 5)
    span = span_of(proposal, 1_000_000, 3)
    assert span.probabilities == near({text[1_000_000:1_000_003].encode(): 1.0 - span.rest})


def test_a_certain_span_has_the_text_that_the_member_wrote() -> None:
    proposal = Proposal(b"hello")
    assert certain_span(proposal, 1, 3) == Span({b"ell": 1.0}, 0.0)
    assert certain_span(proposal, 1, 3, 0.25) == Span({b"ell": 0.75}, 0.25)
    assert certain_span(proposal, 1, 3, 1.0) == Span({}, 1.0)
