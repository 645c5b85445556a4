"""The position of a replay: pure, so a test sets the time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.replay.timeline import FASTEST, SLOWEST, Timeline
from schemas.control import Play
from schemas.grid import NS_PER_S, window_start_ns

LAST = 599
END_NS = window_start_ns(LAST + 1)


def timeline(rate: float = 1.0, *, paused: bool = False) -> Timeline:
    return Timeline(0, LAST, rate=rate, paused=paused, now_s=100.0)


def test_the_position_moves_at_the_rate_and_stops_at_the_end() -> None:
    for rate in (0.25, 1.0, 4.0):
        line = timeline(rate)
        assert line.position_ns(102.0) == int(2 * rate * NS_PER_S)
        assert line.position_ns(100.0 + 11 / rate) == END_NS
        assert line.is_over(100.0 + 11 / rate)


def test_a_pause_and_a_hold_stop_the_position() -> None:
    line = timeline()
    line.order(Play(paused=True), 101.0)
    assert line.position_ns(105.0) == NS_PER_S
    line.order(Play(paused=False), 106.0)
    line.hold(True, 107.0)
    assert line.position_ns(109.0) == 2 * NS_PER_S
    line.hold(False, 110.0)
    assert line.position_ns(110.5) == int(2.5 * NS_PER_S)


def test_at_rate_0_the_position_is_as_far_as_frames_are_computed() -> None:
    line = timeline(0.0)
    assert line.position_ns(200.0) == 0
    line.computed_ns = 3 * NS_PER_S
    assert line.position_ns(200.0) == 3 * NS_PER_S
    line.computed_ns = END_NS + NS_PER_S
    assert line.position_ns(200.0) == END_NS


def test_a_step_is_one_window_and_a_seek_shows_the_given_window() -> None:
    line = timeline(paused=True)
    line.order(Play(window=100), 101.0)
    assert line.playback(101.0).window == 100
    line.order(Play(step=1), 101.0)
    assert line.playback(101.0).window == 101
    line.order(Play(step=-5), 101.0)
    assert line.playback(101.0).window == 96
    line.order(Play(window=10**12), 101.0)
    assert line.playback(101.0) == line.playback(500.0)
    assert (line.playback(101.0).window, line.playback(101.0).is_over) == (LAST, True)
    line.order(Play(window=-7), 102.0)
    assert line.playback(102.0).window == 0


@pytest.mark.parametrize(("rate", "becomes"), [(1000.0, FASTEST), (0.01, SLOWEST), (-3.0, SLOWEST), (0.0, 0.0)])
def test_a_rate_out_of_range_becomes_the_nearest_one(rate: float, becomes: float) -> None:
    line = timeline()
    line.order(Play(rate=rate), 101.0)
    assert line.rate == becomes
    line.order(Play(rate=math.nan), 101.0)
    assert line.rate == becomes


WORDS = st.builds(
    Play,
    rate=st.none() | st.floats(0, 100),
    paused=st.none() | st.booleans(),
    window=st.none() | st.integers(-10, LAST + 10),
    step=st.integers(-5, 5),
)


@given(st.lists(st.tuples(st.floats(0, 5), WORDS | st.booleans()), max_size=30))
def test_between_orders_the_position_never_falls_and_never_leaves_the_recording(
    steps: list[tuple[float, Play | bool]],
) -> None:
    line, now = timeline(), 100.0
    for wait_s, step in steps:
        before = line.position_ns(now)
        now += wait_s
        line.computed_ns = min(END_NS, line.computed_ns + NS_PER_S)
        assert before <= line.position_ns(now) <= END_NS
        if isinstance(step, bool):
            at = line.position_ns(now)
            line.hold(step, now)
            # At rate 0 it is at once as far as frames are computed, when it moves again.
            assert at <= line.position_ns(now) <= (at + NS_PER_S if line.rate else max(at, line.computed_ns))
        else:
            line.order(step, now)
        assert 0 <= line.position_ns(now) <= END_NS
        assert -1 <= line.playback(now).window <= LAST


def test_the_achieved_rate_counts_neither_pauses_nor_the_time_after_the_end() -> None:
    line = timeline(2.0)
    line.order(Play(paused=True), 101.0)
    line.order(Play(paused=False), 150.0)
    assert line.achieved_rate(1_000.0) == pytest.approx(2.0)
    assert timeline(paused=True).achieved_rate(200.0) is None


def test_an_entry_has_a_lateness_unless_it_was_skipped() -> None:
    line = timeline()
    assert line.late_s(NS_PER_S, 101.5) == pytest.approx(0.5)
    line.order(Play(window=300), 102.0)
    assert line.late_s(NS_PER_S, 103.0) is None
    line.order(Play(paused=True), 103.0)
    assert line.late_s(9 * NS_PER_S, 103.0) is None
