"""The slow reference satisfies the laws of its numbers, and agrees with scipy: the fast core is compared with it.

Laws hold to 1e-12. A council is a list of proposals, one for each member, at one frontier, with the members' weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from schemas.entries import Quality, Token
from tests.oracle.frontier import (
    LEFT_OUT,
    STAND_IN,
    Buckets,
    Proposal,
    agreement_of,
    divergence,
    diversity_index,
    diversity_low,
    entropy,
    entropy_within,
    mixture,
    normalised_divergence,
    proposal_of,
    relative_entropy,
    shares_of,
    span_diversity,
    span_of,
)
from tests.support.streams import LOGPROBS, weights

EPSILON = 1e-12
MIDDLE = 7  # a position that is not the beginning of an answer
TEXTS = ("a", "th", "the", " a", "é", "\ufffd")
PIECES = (b"a", b"b", b"th", b"the", b" a", b"\xa9", b"\xc3\xa9", b"", STAND_IN)
Listed = list[tuple[bytes, float | None]]


def token(
    text: str, top: Sequence[tuple[bytes, float | None]] = (), logprob: float | None = None, piece: bytes = b"",
    quality: Quality = "real",
) -> Token:  # fmt: skip
    return Token(0, "1-0", 0, "answer", text, 0, 0, logprob, quality, piece, msgspec.Raw(msgspec.msgpack.encode(top)))


def near(number: float) -> object:
    return pytest.approx(number, abs=EPSILON)


odd_logprobs = st.sampled_from((*LOGPROBS, -9999.0, -744.4, -1e-300))
logprobs = st.floats(-6.0, 0.0) | odd_logprobs
shares = st.sampled_from((0.0, 0.0, 1.0)) | st.floats(0.0, 1.0)
short_lists = st.lists(st.tuples(st.sampled_from(PIECES), logprobs), max_size=5)
long_lists = st.builds(
    lambda first, slope, odd: [(b"w%d" % rank, -slope * rank) for rank in range(199)] + [(first, odd)],
    st.sampled_from(PIECES), st.sampled_from((0.0, 0.01, 0.5)), odd_logprobs,
)  # fmt: skip
starts = st.sampled_from((0, MIDDLE))
tokens = st.builds(
    token, st.sampled_from(TEXTS), short_lists | short_lists | long_lists, logprobs, st.sampled_from((b"", *PIECES))
)
proposals = st.builds(proposal_of, tokens, starts)


def _councils_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[list[Any], list[float]]]:
    """A value of each of one to four members, and their weights."""
    drawn = st.lists(st.tuples(values, weights), min_size=1, max_size=4)
    return drawn.map(lambda pairs: ([value for value, _ in pairs], [weight for _, weight in pairs]))


councils = _councils_of(proposals)


@st.composite
def spans(draw: st.DrawFn) -> Buckets:
    """One member's probabilities of the common span; the cuts are the same for all."""
    drawn = draw(st.lists(shares, min_size=4, max_size=4).filter(lambda numbers: sum(numbers) > 0.0))
    return dict(zip((LEFT_OUT, b"a", b"b", b"c"), (share / sum(drawn) for share in drawn), strict=True))


span_councils = _councils_of(spans())


# --- what a member proposes -------------------------------------------------------------------------------------------


@given(tokens, starts)
def test_a_proposal_is_a_distribution_with_a_rest_whatever_the_server_sent(token: Token, start: int) -> None:
    proposal = proposal_of(token, start)
    assert all(0.0 <= share <= 1.0 for share in proposal.p.values())
    assert sum(proposal.p.values()) + proposal.r == near(1.0)
    assert proposal.t is None or 0.0 <= proposal.t <= 1.0
    assert not (start == 0 and any(piece[:1].isspace() for piece in (proposal.own, *proposal.p)))


HALF, FIFTH, TENTH = math.log(0.5), math.log(0.2), math.log(0.1)
PROPOSALS = {
    "the sampled token joins a list that lacks it": (token("c", [(b"a", HALF)], TENTH), {b"a": 0.5, b"c": 0.1}),
    "but not one that has it": (token("a", [(b"a", HALF)], TENTH), {b"a": 0.5}),
    "nor one without a number": (token("c", [(b"a", HALF)], math.nan), {b"a": 0.5}),
    "NaN and null are left out, minus infinity is 0, above 0 is 1": (
        token("a", [(b"a", math.inf), (b"b", -math.inf), (b"c", None), (b"d", math.nan)], None), {b"a": 1.0, b"b": 0.0}
    ),
    "a sum above 1 is divided": (token("a", [(b"a", 0.0), (b"b", 0.0)]), {b"a": 0.5, b"b": 0.5}),
    "two entries of one piece add up": (token("a", [(b"a", FIFTH), (b"a", TENTH)]), {b"a": 0.3}),
    "the end of a character comes after its beginning": (
        token("é", [(b"\xa9", HALF), (b"\xa8", FIFTH)], HALF, b"\xa9"), {"é".encode(): 0.5, "è".encode(): 0.2}
    ),
    "a piece that is longer than its text stays as it is": (
        token(" ", [(b" \xe6", HALF), (b"a", FIFTH)], HALF, b" \xe6"), {b" \xe6": 0.5, b"a": 0.2}
    ),
    "a stand-in gives its share to the text": (
        token("é", [(STAND_IN, HALF), (b"a", FIFTH)], TENTH, STAND_IN), {STAND_IN: 0.4, "é".encode(): 0.1, b"a": 0.2}
    ),
    "and is gone where it had no more": (
        token("é", [(STAND_IN, TENTH), (b"a", FIFTH)], HALF, STAND_IN), {"é".encode(): 0.5, b"a": 0.2}
    ),
    "and keeps it where the text's share is unknown": (token("é", [(STAND_IN, HALF)], None, STAND_IN), {STAND_IN: 0.5}),
    "a special token is a piece without bytes": (token("a", [(b"", HALF)], TENTH), {b"": 0.5, b"a": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize(("token", "p"), PROPOSALS.values(), ids=PROPOSALS.keys())
def test_a_proposal_has_the_pieces_as_they_are_in_the_answer(token: Token, p: dict[bytes, float]) -> None:
    assert proposal_of(token, MIDDLE).p == pytest.approx(p, abs=EPSILON)


def test_an_answer_begins_with_its_first_byte_that_is_not_white_space() -> None:
    proposal = proposal_of(token(" \tthe", [(b" the", HALF), (b"the", FIFTH), (b"\n", TENTH)]), 0)
    assert proposal.own == b"the"
    assert proposal.p == pytest.approx({b"the": 0.7, b"": 0.1}, abs=EPSILON)


def test_t_is_the_least_of_the_normalised_list_and_a_proposal_is_loose_where_tokens_may_share_a_piece() -> None:
    assert proposal_of(token("c", [(b"a", HALF), (b"b", FIFTH)], TENTH), MIDDLE).t == near(0.2)
    assert proposal_of(token("a", [(b"a", 0.0), (b"b", 0.0), (b"c", 0.0)]), MIDDLE).t == near(1 / 3)
    assert proposal_of(token("a", [], HALF), MIDDLE).t is None
    loose = [proposal_of(one, start).is_loose for one in (
        token("a", [(b"a", HALF)]), token("a", [], HALF), token("a", [(b"a", HALF), (b"a", FIFTH)]),
    ) for start in (0, MIDDLE)]  # fmt: skip
    assert loose == [True, False, True, True, True, True]


@pytest.mark.parametrize(
    ("one", "has_logprobs"),
    [
        (token("a", [(b"a", HALF)]), True),
        (token("a", [], HALF), True),
        (token("a", [], math.nan), False),
        (token("a", [(b"a", None)]), False),
        (token("a", [(b"a", HALF)], HALF, quality="placeholder"), False),
        (token("a", quality="missing"), False),
    ],
)
def test_a_member_has_logprobs_where_any_number_was_measured(one: Token, has_logprobs: bool) -> None:
    assert proposal_of(one, MIDDLE).has_logprobs == has_logprobs


# --- diversity --------------------------------------------------------------------------------------------------------


def _room(one: Proposal, piece: bytes) -> float:
    """How much of the rest may belong to this piece."""
    if one.is_loose or piece == b"" or STAND_IN in piece:
        return one.r
    return 0.0 if piece in one.p else one.t or 0.0


def _true_index(
    council: Sequence[Proposal], weights: Sequence[float], order: Sequence[bytes], parts: list[float]
) -> float:
    """The index where what each list left out goes to the pieces in this order: as much as is allowed, or a part of
    it, and the rest to pieces of its own."""
    truths = []
    for one in council:
        true, r = dict(one.p), one.r
        for piece, part in zip(order, parts, strict=True):
            more = part * min(r, _room(one, piece))
            true[piece], r = true.get(piece, 0.0) + more, r - more
        truths.append(true)
    pieces = {piece for true in truths for piece in true}
    means = (sum(w * true.get(piece, 0.0) for w, true in zip(weights, truths, strict=True)) for piece in pieces)
    return 1.0 - max(means, default=0.0)


def _pieces_of(council: Sequence[Proposal]) -> list[bytes]:
    """Every listed piece, and two that no member lists."""
    return [*sorted({piece for one in council for piece in one.p}), b"not", b"listed"]


@given(councils, st.data())
def test_the_true_diversity_lies_within_its_bounds(
    drawn: tuple[list[Proposal], list[float]], data: st.DataObject
) -> None:
    """However the rests are spread: up to t over unlisted pieces, and without a bound over loose pieces and in loose
    proposals. A piece that no member lists counts as one token: not one without bytes, nor a stand-in."""
    council, weights = drawn
    order = data.draw(st.permutations(_pieces_of(council)))
    parts = data.draw(st.lists(st.sampled_from((0.0, 0.5, 1.0)), min_size=len(order), max_size=len(order)))
    true = _true_index(council, shares_of(weights), order, parts)
    assert diversity_low(council, weights) - EPSILON <= true <= diversity_index(council, weights) + EPSILON


@given(councils)
def test_the_lower_bound_of_diversity_is_reached(drawn: tuple[list[Proposal], list[float]]) -> None:
    """Where all rests go to one piece, listed or not."""
    council, weights = drawn
    least = min(_true_index(council, shares_of(weights), [piece], [1.0]) for piece in _pieces_of(council))
    assert diversity_low(council, weights) == near(max(0.0, least))


@given(councils, st.randoms(use_true_random=False))
def test_diversity_does_not_depend_on_the_order_of_the_members(
    drawn: tuple[list[Proposal], list[float]], random: Random
) -> None:
    pairs = list(zip(*drawn, strict=True))
    random.shuffle(pairs)
    council, weights = zip(*pairs, strict=True)
    for number in (diversity_index, diversity_low):
        assert number(council, weights) == near(number(*drawn))


@given(councils, st.floats(0.0, 1.0))
def test_diversity_does_not_change_when_a_member_is_doubled(
    drawn: tuple[list[Proposal], list[float]], part: float
) -> None:
    council, weights = drawn
    assume(any(weights))  # Weights that sum to 0 are replaced by equal ones.
    for number in (diversity_index, diversity_low):
        doubled = number((*council, council[0]), (weights[0] * part, *weights[1:], weights[0] * (1.0 - part)))
        assert doubled == near(number(council, weights))


@given(st.lists(weights, min_size=1, max_size=4), starts)
def test_diversity_is_0_when_all_are_certain_of_one_piece(weights: list[float], start: int) -> None:
    council = [proposal_of(token("a", [(b"a", 0.0)], 0.0), start)] * len(weights)
    assert diversity_index(council, weights) == diversity_low(council, weights) == near(0.0)


def _gap(council: Sequence[Proposal], weights: Sequence[float]) -> float:
    return diversity_index(council, weights) - diversity_low(council, weights)


@given(councils, short_lists, starts, st.floats(0.0, 1.0))
def test_the_next_most_probable_token_never_widens_the_bounds(
    drawn: tuple[list[Proposal], list[float]], top: Listed, start: int, part: float
) -> None:
    """A token with a new piece; for one without bytes see the next test."""
    council, weights = drawn
    before = proposal_of(token("a", top), start)
    most = before.r if before.t is None else min(before.r, before.t)
    assume(most * part > 0.0)
    after = proposal_of(token("a", [*top, (b"new", math.log(most * part))]), start)
    assert _gap([*council, after], [*weights, 1.0]) <= _gap([*council, before], [*weights, 1.0]) + EPSILON


@pytest.mark.parametrize("piece", [b"", STAND_IN])
def test_bounds_include_a_loose_piece_only_once_it_is_listed(piece: bytes) -> None:
    """Any unlisted token may belong to it: a bound that always included it would be 1 - r wherever a list leaves
    something out. So the bounds widen when it is listed, and only then hold for all of its tokens."""
    top: Listed = [(b"a", HALF), (b"b", TENTH)]
    unlisted, listed = proposal_of(token("a", top), MIDDLE), proposal_of(token("a", [*top, (piece, TENTH)]), MIDDLE)
    top_2: Listed = [(b"a", TENTH)]
    unlisted_2, listed_2 = (proposal_of(token("a", [*top_2, *more]), MIDDLE) for more in ([], [(piece, TENTH)]))
    assert (_gap([unlisted], [1.0]), _gap([listed], [1.0])) == (near(0.0), near(0.0))
    assert (_gap([unlisted_2], [1.0]), _gap([listed_2], [1.0])) == (near(0.0), near(0.8))


# --- the common span --------------------------------------------------------------------------------------------------


@given(tokens, starts, st.integers(0, 5), st.integers(1, 3))
def test_the_probabilities_of_the_span_sum_to_1(token: Token, start: int, into: int, length: int) -> None:
    proposal = proposal_of(token, start)
    assume(into < len(proposal.own))
    q = span_of(proposal, start, start + into, length)
    assert sum(q.values()) == near(1.0)
    assert all(share >= 0.0 and (cut is None or len(cut) <= length) for cut, share in q.items())


SPANS = {
    "all is kept where the token starts": (0, [(b"tea", HALF), (b"", FIFTH)], {b"te": 0.5, b"": 0.2, LEFT_OUT: 0.3}),
    "what agrees with the text is kept and scaled to 1 - rest": (
        1, [(b"tea", HALF), (b"two", TENTH), (b"a", FIFTH)], {b"ea": 0.8 * 5 / 6, b"wo": 0.8 / 6, LEFT_OUT: 0.2}
    ),
    "what ends before is added to what is left out": (
        1, [(b"tea", HALF), (b"t", FIFTH), (b"", TENTH)], {b"ea": 0.5, LEFT_OUT: 0.5}
    ),
    "cut bytes add up, shorter ones stay": (1, [(b"tea", HALF), (b"tear", FIFTH), (b"te", TENTH)],
        {b"ea": 0.7, b"e": 0.1, LEFT_OUT: 0.2}),
    "where nothing is kept, the token's own bytes count": (
        1, [(b"t", HALF), (b"a", FIFTH)], {b"ea": 0.2, LEFT_OUT: 0.8}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("into", "top", "q"), SPANS.values(), ids=SPANS.keys())
def test_the_span_has_the_bytes_past_the_frontier(into: int, top: Listed, q: Buckets) -> None:
    found = span_of(proposal_of(token("tea", top), MIDDLE), MIDDLE, MIDDLE + into, 2)
    assert found == pytest.approx(q, abs=EPSILON)


@given(councils, st.integers(1, 3))
def test_tokenizers_only_add_diversity_where_all_tokens_start_at_the_frontier(
    drawn: tuple[list[Proposal], list[float]], length: int
) -> None:
    council, weights = drawn
    found = [span_of(one, MIDDLE, MIDDLE, length) for one in council]
    assert span_diversity(found, weights) <= diversity_index(council, weights) + EPSILON


ENDINGS = [bytes(letters) for letters in itertools.product(b"ab", repeat=5)]


@given(st.lists(shares, min_size=len(ENDINGS), max_size=len(ENDINGS)), st.data())
def test_the_span_does_not_depend_on_how_text_is_cut(masses: list[float], data: st.DataObject) -> None:
    """The text continues in one of 32 ways. A tokenizer cuts each of them somewhere past the span, and its list is
    complete."""
    likely = {text: mass for text, mass in zip(ENDINGS, masses, strict=True) if mass > 1e-9}
    assume(likely)
    chances = {text: mass / sum(likely.values()) for text, mass in likely.items()}
    into, length = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 2))
    drawn = data.draw(st.sampled_from(sorted(chances)))
    expected: Buckets = {LEFT_OUT: 0.0}
    for text, chance in chances.items():
        if text[:into] == drawn[:into]:
            cut = text[into : into + length]
            expected[cut] = expected.get(cut, 0.0) + chance
    total = sum(expected.values())
    first_cuts = {text: text[: data.draw(st.integers(into + length, 5))] for text in chances}
    pieces: dict[bytes, float] = {}
    for text, piece in first_cuts.items():
        pieces[piece] = pieces.get(piece, 0.0) + chances[text]
    top = [(piece, math.log(chance)) for piece, chance in pieces.items()]
    q = span_of(proposal_of(token(first_cuts[drawn].decode(), top), MIDDLE), MIDDLE, MIDDLE + into, length)
    assert q == pytest.approx({cut: share / total for cut, share in expected.items()}, abs=EPSILON)


# --- disagreement -----------------------------------------------------------------------------------------------------


@given(span_councils)
def test_entropies_and_divergence_agree_with_scipy(drawn: tuple[list[Buckets], list[float]]) -> None:
    spans, weights = drawn
    # Where half of a share is 0, scipy returns infinity.
    assume(all(share == 0.0 or share > 1e-300 for span in spans for share in span.values()))
    mixed, rows = mixture(spans, weights), [list(span.values()) for span in spans]
    assert entropy(mixed) == near(scipy_entropy([mixed[cut] for cut in spans[0]]))
    within = sum(w * scipy_entropy(row) for w, row in zip(shares_of(weights), rows, strict=True))
    assert entropy_within(spans, weights) == near(within)
    assert divergence(spans, weights) == near(entropy(mixed) - within)
    for span, row, share in zip(spans, rows, shares_of(weights), strict=True):
        if share > 0.0:
            assert relative_entropy(span, mixed) == near(scipy_entropy(row, [mixed[cut] for cut in span]))
    if len(rows) > 1:
        assert divergence(spans[:2], [1.0, 1.0]) == near(jensenshannon(*rows[:2]) ** 2)
        assert normalised_divergence(spans[:2], [3.0, 3.0]) == near(jensenshannon(*rows[:2], base=2) ** 2)


@given(span_councils)
def test_divergence_and_agreement_lie_between_0_and_1(drawn: tuple[list[Buckets], list[float]]) -> None:
    assert 0.0 <= normalised_divergence(*drawn) <= 1.0
    assert 0.0 <= agreement_of(*drawn) <= 1.0


@given(spans(), st.lists(weights, min_size=1, max_size=4))
def test_members_with_the_same_probabilities_agree(span: Buckets, weights: list[float]) -> None:
    spans = [dict(reversed(span.items())) if number % 2 else span for number in range(len(weights))]
    assert (normalised_divergence(spans, weights), agreement_of(spans, weights)) == (near(0.0), near(1.0))


@given(st.lists(weights, min_size=1, max_size=4))
def test_members_that_are_certain_of_different_pieces_have_the_largest_divergence(weights: list[float]) -> None:
    spans: list[Buckets] = [{b"%d" % number: 1.0} for number in range(len(weights))]
    assert normalised_divergence(spans, weights) == near(1.0 if sum(w > 0.0 for w in shares_of(weights)) > 1 else 0.0)


def test_two_groups_among_three_disagree_and_a_weight_of_0_changes_nothing() -> None:
    here: Buckets = {b"a": 1.0}
    there: Buckets = {b"b": 1.0}
    assert agreement_of([here, there], [1.0, 1.0]) == near(0.0)
    assert agreement_of([here, there, here], [1.0, 0.0, 1.0]) == near(1.0)
    two_groups = 1 - (math.log(3) - 2 / 3 * math.log(2)) / math.log(2)
    assert agreement_of([here, there, here], [1.0, 1.0, 1.0]) == near(two_groups)
