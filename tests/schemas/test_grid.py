"""The 60 Hz grid in integers: windows, their indexes, and their due times."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from schemas import grid

large = st.integers(-(2**80), 2**80) | st.integers(-1_000, 1_000)


@given(large)
def test_a_window_begins_at_a_sixtieth_of_a_second_and_contains_its_first_nanosecond(window_index: int) -> None:
    start_ns = grid.window_start_ns(window_index)
    assert start_ns == math.ceil(Fraction(window_index * 10**9, 60))
    assert grid.window_index_at(start_ns) == window_index
    assert grid.window_index_at(start_ns - 1) == window_index - 1


@given(large)
def test_every_nanosecond_is_in_the_window_with_its_index(t_ns: int) -> None:
    window_index = grid.window_index_at(t_ns)
    assert window_index == math.floor(Fraction(t_ns * 60, 10**9))
    assert grid.window_start_ns(window_index) <= t_ns < grid.window_start_ns(window_index + 1)


@given(large, st.sampled_from((-1, 0, 1)))
def test_the_next_grid_point_is_the_first_at_or_after(window_index: int, off_ns: int) -> None:
    t_ns = grid.window_start_ns(window_index) + off_ns
    expected = window_index + 1 if off_ns == 1 else window_index
    assert grid.next_grid_point_ns(t_ns) == grid.window_start_ns(expected)


@given(st.integers(0, 2**62), st.integers(0, 2**40), st.integers(-2, 2))
def test_a_window_is_due_from_the_millisecond_after_its_last(opened_ms: int, window_index: int, off_ms: int) -> None:
    """last_ms_of_window, window_of_entry and is_due have the same boundary between a window and the next one."""
    origin_ns = grid.next_grid_point_ns(opened_ms * grid.NS_PER_MS)
    last_ms = grid.last_ms_of_window(origin_ns, window_index)
    ms = last_ms + off_ms
    is_over = off_ms > 0
    assert (grid.window_of_entry(origin_ns, ms) > window_index) == is_over
    assert grid.is_due(origin_ns, window_index, ms) == is_over
    assert (Fraction(ms * grid.NS_PER_MS) >= origin_ns + Fraction((window_index + 1) * 10**9, 60)) == is_over


@given(st.integers(0, 2**62), st.integers(-2_000, 0))
def test_entries_before_the_origin_belong_to_window_0(opened_ms: int, off_ms: int) -> None:
    origin_ns = grid.next_grid_point_ns(opened_ms * grid.NS_PER_MS)
    assert grid.window_of_entry(origin_ns, opened_ms + off_ms) == 0
