"""The laws of the mixture: the core under any timing against the definition, and what follows from that."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.frames import MixtureSpan
from tests.aggregator.core.test_consensus_law import NEAR, answer_of, has_a_tie, unhurried
from tests.oracle.mixture import Place
from tests.support.toy_councils import Timing, Toy, ToyRun, timings, toy_members


def check_span(ours: MixtureSpan, place: Place, most: int) -> None:
    """A span of the core against the oracle's, whose shares are exact."""
    assert (ours.start, ours.end) == (place.start, place.end)
    if place.share is None:
        assert (ours.share, ours.top) == (None, ())
        return
    assert ours.share is not None
    assert abs(ours.share - float(place.share)) <= NEAR, (ours, place)
    assert len(ours.top) == min(most, len(place.groups)), (ours, place)
    for text in ours.top:
        assert abs(text.share - float(place.groups[text.text])) <= NEAR, (ours, place)
    assert all(one.share >= other.share for one, other in pairwise(ours.top))
    left_out = place.groups.keys() - {text.text for text in ours.top}
    assert all(float(place.groups[text]) <= ours.top[-1].share + NEAR for text in left_out), (ours, place)
    assert 0 <= ours.share <= 1
    assert sum(text.share for text in ours.top) <= 1 + NEAR * most


@settings(unhurried, max_examples=50)
@given(toy_members(), timings, st.sampled_from((20, 20, 1, 3)))
def test_the_mixture_is_the_members_own_lists_whatever_the_timing(toys: list[Toy], timing: Timing, most: int) -> None:
    run = ToyRun(toys, timing, mixture=most).to_the_end()
    places = answer_of(toys).mixture
    assert len(run.mixture) == len(places), (run.mixture, places)
    for ours, place in zip(run.mixture, places, strict=True):
        check_span(ours, place, most)


def mixture_of(toys: Sequence[Toy]) -> list[MixtureSpan]:
    return ToyRun(toys, Timing(), mixture=20).to_the_end().mixture


def are_near(ones: Sequence[MixtureSpan], others: Sequence[MixtureSpan]) -> bool:
    """True where all numbers are the same but for their last digit."""
    for one, other in zip(ones, others, strict=True):
        shares, same = ({text.text: text.share for text in span.top} for span in (one, other))
        shares[""], same[""] = (shares.get("", 0), same.get("", 0))
        if (one.start, one.end, one.share is None, len(shares)) != (
            other.start, other.end, other.share is None, len(same),
        ):  # fmt: skip
            return False
        if any(abs(same[text] - share) > NEAR for text, share in shares.items()):
            return False
        if abs((one.share or 0) - (other.share or 0)) > NEAR:
            return False
    return True


@settings(unhurried, max_examples=25)
@given(toy_members(), st.randoms(use_true_random=False), st.sampled_from((0.125, 3.0, 1e6)))
def test_the_order_of_members_and_the_scale_of_weights_change_nothing(
    toys: list[Toy], chance: random.Random, scale: float
) -> None:
    assume(not any(has_a_tie(toys, agreement) for agreement in answer_of(toys).partings))
    shuffled = [replace(toy, weight=scale * toy.weight) for toy in toys]
    chance.shuffle(shuffled)
    assert are_near(mixture_of(toys), mixture_of(shuffled))


@settings(unhurried, max_examples=25)
@given(toy_members())
def test_one_model_twice_has_that_models_mixture(toys: list[Toy]) -> None:
    one, twice = [toys[0]], [toys[0], replace(toys[0], weight=2.0)]
    assert are_near(mixture_of(one), mixture_of(twice))
