"""The slow reference over windows: means, kinds that must persist to be shown, and the ranges of all numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.entries import Token, pack_top
from schemas.frames import Compares, InterferenceKind
from schemas.sessions import ENTRY_VERSION, EnergyProfile, Member, Opening, Weighting
from tests.oracle.frames import confidence_weights, oracle_frames, smoothed_certainty
from tests.oracle.frontier import LEFT_OUT, measures_of, parted_at, span_diversity
from tests.oracle.interference import Wave, resonates, shown_agreement, shown_interference, wave_of
from tests.oracle.members import Accepted, MemberHistory, WindowEnd
from tests.support.streams import Recorded, profiles, recorded

Measured = tuple[float | None, Compares | None]


def test_agreement_is_a_mean_over_30_windows_of_place_without_a_break() -> None:
    assert shown_agreement([(0.2, "next"), (0.9, "next")]) == 0.9
    assert shown_agreement([(0.2, "next"), (0.9, "place")]) == 0.9
    half: Measured = (0.5, "place")
    assert shown_agreement([(0.0, "place"), *[half] * 29]) == round(14.5 / 30, 9)
    assert shown_agreement([(0.0, "place"), *[half] * 30]) == 0.5
    assert shown_agreement([(0.0, "place"), (None, "place"), (0.5, "place")]) == 0.5
    assert shown_agreement([(0.5, "place"), (None, "place")]) is None
    assert shown_agreement([(None, None)]) is None


def test_interference_is_shown_from_its_18th_window_and_resonance_from_its_48th() -> None:
    def shown(agreements: Sequence[float | None]) -> str:
        """C, d or n for each window."""
        kinds: list[InterferenceKind] = ["neutral"]
        for count in range(1, len(agreements) + 1):
            kinds.append(shown_interference(kinds[-1], agreements[:count]))
        return "".join(kind[0] for kind in kinds[1:])

    assert shown([0.6] * 19) == "n" * 17 + "cc"
    assert shown([0.6] * 18 + [0.4] * 17 + [0.6] + [0.4] * 18) == "n" * 17 + "c" * 36 + "d"
    assert shown([0.6] * 18 + [0.5] * 18) == "n" * 17 + "c" * 18 + "n"
    assert shown([0.6] * 18 + [None] + [0.6] * 18) == "n" * 17 + "c" + "n" * 18 + "c"
    assert shown([0.6] * 17 + [0.599999999] + [0.6] * 17) == "n" * 35
    one: tuple[InterferenceKind, bool] = ("constructive", True)
    assert [resonates([one] * count) for count in (47, 48)] == [False, True]
    assert not resonates([*[one] * 47, ("constructive", False)])
    assert not resonates([*[one] * 47, ("destructive", True)])


def test_the_wave_is_higher_than_every_member_or_lower_than_their_mean() -> None:
    assert wave_of(0.5, [0.4, 0.6], 1.0) == Wave(0.75, True, False)
    assert wave_of(0.5, [0.4, 0.6], 0.0) == Wave(0.25, False, True)
    assert wave_of(0.9, [0.9], 1.0) == Wave(1.0, True, False)
    assert wave_of(0.5, [0.5, 0.5], 0.5) == wave_of(0.5, [0.5, 0.5], None) == Wave(0.5, False, False)
    assert wave_of(0.0, [], 1.0) == Wave(0.0, False, False)


def _token(top: list[tuple[bytes, float]]) -> Token:
    return Token(0, "1-0", 0, "answer", "a", 0, 0, None, "real", b"", pack_top(top))


def _accepted(token: Token) -> Accepted:
    return Accepted(token, 0, 0, 0, 0, 1)


@given(st.lists(st.sampled_from((None, 0.0, 0.25, 1.0)), max_size=5), profiles)
def test_a_smoothed_certainty_is_a_mean_of_those_that_were_measured(
    kinds: list[float | None], profile: EnergyProfile
) -> None:
    tops: dict[float | None, list[tuple[bytes, float]]] = {
        None: [], 0.0: [(b"a", -1.0), (b"b", -1.0)], 1.0: [(b"a", 0.0), (b"b", -math.inf)],
        0.25: [(b"a", math.log(0.785)), (b"b", math.log(0.215))],
    }  # fmt: skip
    groups = [[_accepted(_token(tops[kind]))] for kind in kinds]
    smoothed = smoothed_certainty(groups, profile)
    measured = [kind for kind in kinds if kind is not None]
    assert min(measured, default=0.5) - 0.01 <= smoothed <= max(measured, default=0.5) + 0.01


@pytest.mark.parametrize(("weighting", "expected"), [("fixed", [1.0, 3.0, 2.0]), ("certainty", [0.5, 3.0, 0.0])])
def test_a_confidence_weight_is_the_given_one_or_that_times_the_certainty(
    weighting: Weighting, expected: list[float]
) -> None:
    members = tuple(Member(f"model-{number}", weight) for number, weight in enumerate((1.0, 3.0, 2.0)))
    tops: tuple[list[tuple[bytes, float]], ...] = (
        [], [(b"a", 0.0), (b"b", -math.inf)], [(b"a", -1.0), (b"b", -1.0)],
    )  # fmt: skip
    histories = tuple(MemberHistory(accepted=[_accepted(_token(top))]) for top in tops)
    opening = Opening(ENTRY_VERSION, "s1", "Why?", members, weighting=weighting)
    assert confidence_weights(opening, WindowEnd(0, 0, "", Counter(), histories, "mid")) == expected


SURE, HALF, LITTLE = [(b"a", 0.0)], [(b"a", math.log(0.5)), (b"b", math.log(0.5))], [(b"b", math.log(0.3))]
NOTHING: list[tuple[bytes, float]] = []


@pytest.mark.parametrize(
    ("tops", "source", "coverage_mass", "agreement"),
    [
        ([SURE, SURE], "logprobs", 1.0, 1.0),
        ([HALF, HALF], "logprobs", 1.0, 1.0),
        ([HALF, NOTHING], "mixed", 0.5, 1.0 - 0.75 * math.log2(4 / 3)),
        ([LITTLE, NOTHING], "text", 0.15, 1.0),
        ([NOTHING, NOTHING], "text", 0.0, 1.0),
        ([SURE], None, 1.0, None),
    ],
)
def test_text_counts_for_members_that_were_not_measured_and_for_all_where_less_than_half_was(
    tops: list[list[tuple[bytes, float]]], source: str | None, coverage_mass: float, agreement: float | None
) -> None:
    """All members write a."""
    found = measures_of([_accepted(_token(top)) for top in tops], [1.0] * len(tops), 0, [0] * len(tops))
    assert found.agreement_source == source
    assert found.coverage_mass == pytest.approx(coverage_mass, abs=1e-12)
    assert found.agreement == (None if agreement is None else pytest.approx(agreement, abs=1e-12))


def test_one_text_of_different_tokenizers_agrees() -> None:
    """Byte 1 is the frontier: one token covers it and the other starts at it. Both wrote h after it."""
    the = Token(0, "1-0", 0, "answer", "the", 0, 0)
    cuts = [Accepted(the, 0, 0, 0, 0, 3), Accepted(msgspec.structs.replace(the, text="h"), 0, 0, 0, 1, 2)]
    found = measures_of(cuts, [1.0, 1.0], 1, [0, 0])
    assert (found.span_bytes, found.agreement, found.agreement_source) == (1, 1.0, "text")


def test_what_was_left_out_is_not_a_text_of_the_span() -> None:
    assert span_diversity([{LEFT_OUT: 0.9, b"a": 0.1}], [1.0]) == 0.9


def test_texts_part_at_the_first_byte_that_differs_before_the_frontier() -> None:
    assert [parted_at([b"abcd", b"abxd"], x) for x in (0, 2, 3, 4)] == [None, None, 2, 2]
    assert parted_at([b"ab"], 2) is None


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(recorded())
def test_every_number_of_a_frame_lies_in_its_range(session: Recorded) -> None:
    for frame in oracle_frames(session.stream, session.windows):
        m, alignment, interference = frame.measures, frame.alignment, frame.interference
        units = (m.di_covered, m.coverage, m.di_span, m.jsd, m.coverage_mass, m.agreement, interference.wave)
        assert all(number is None or 0.0 <= number <= 1.0 for number in (*units, frame.energy))
        assert (m.di_low is None) == (m.jsd is None) == (m.di_source == "fallback")
        if m.di_low is not None and m.entropy_total is not None and m.entropy_within is not None:
            assert 0.0 <= m.di_low <= m.diversity_index == (m.di_covered or 0.0) <= 1.0
            assert -2e-9 <= m.entropy_total - m.entropy_within <= math.log(len(frame.members)) + 2e-9
        assert (m.agreement is None) == (m.agreement_source is None)
        x, parted = alignment.frontier_bytes, alignment.diverged_at_bytes
        assert (alignment.shared_prefix is None) == (alignment.compares is None) >= (x is None)
        assert alignment.shared_prefix is None or alignment.shared_prefix == (parted is None)
        assert parted is None or parted < (x or 0)
        assert m.span_bytes is None or m.span_bytes > 0
        assert not interference.resonance or (interference.kind == "constructive" and interference.amplified)
        assert m.agreement is not None or interference.kind == "neutral"
