"""The gate before a backend that pauses, by a clock that the test sets: which tokens pass, when a grant lapses and
when the state is read again."""

from __future__ import annotations

import pytest

from producers.member.grants import LAPSE_S, MOST_WATCHED_S, WINDOW_S, GrantGate, next_look_s
from schemas.control import NOT_STARTED
from schemas.grid import NS_PER_MS, NS_PER_S, due_ms, next_grid_point_ns, window_start_ns

ORIGIN_NS = next_grid_point_ns(1_700_000_000 * NS_PER_S)


def gate_at(end: int, *taken: tuple[float, int, int | None]) -> GrantGate:
    """A gate whose answer ends there, and the states that it took: (time, window, grant)."""
    gate = GrantGate()
    gate.reach(end)
    for now_s, window, grant in taken:
        gate.take(window, grant, now_s)
    return gate


@pytest.mark.parametrize(
    ("end", "grant", "is_held"), [(0, 0, False), (1, 0, True), (7, 7, False), (8, 7, True), (8, None, False)]
)
def test_a_token_may_start_where_the_grant_ends(end: int, grant: int | None, is_held: bool) -> None:
    assert gate_at(end, (0.0, 0, grant)).is_held == is_held


def test_before_the_start_not_even_the_first_token_is_granted() -> None:
    """No state yet; then a window that does not let it start; then one that does."""
    assert gate_at(0).is_held
    assert gate_at(0, (0.0, 0, NOT_STARTED)).is_held
    assert not gate_at(0, (0.0, 0, NOT_STARTED), (0.1, 1, 0)).is_held


def test_a_grant_lapses_when_the_window_has_not_moved_for_ten_seconds_and_not_before() -> None:
    """
    seconds   0    1    2   ...   10     11
    window    4    4    4   ...   4      5
    held      yes  yes  yes ...   no     yes
    """
    seconds = int(LAPSE_S)
    still = [(float(second), 4, 0) for second in range(seconds + 1)]
    assert gate_at(1, *still[:-1]).is_held
    assert not gate_at(1, *still).is_held
    assert gate_at(1, *still, (LAPSE_S + 1.0, 5, 0)).is_held


def test_time_in_which_the_state_could_not_be_read_does_not_count() -> None:
    """Redis was away for an hour; the state shows the same window before and after it."""
    gate = gate_at(1, (0.0, 4, 0), (3_600.0, 4, 0))
    assert gate.is_held
    seconds = int(LAPSE_S - MOST_WATCHED_S)
    for second in range(seconds):
        gate.take(4, 0, 3_600.0 + second)
        assert gate.is_held
    gate.take(4, 0, 3_600.0 + seconds)
    assert not gate.is_held


@pytest.mark.parametrize("window", range(-1, 8))
def test_a_grant_is_looked_for_just_after_the_next_window_is_due(window: int) -> None:
    """In all three phases of the grid: within four milliseconds after the moment at which the next window may be
    committed, whenever the last one was read."""
    may_be_committed_ns = due_ms(ORIGIN_NS, window + 1) * NS_PER_MS
    for seen_ns in range(window_start_ns(window + 1), window_start_ns(window + 2), 500_000):
        look_ns = ORIGIN_NS + seen_ns + next_look_s(window, ORIGIN_NS, ORIGIN_NS + seen_ns) * NS_PER_S
        assert 0 <= look_ns - may_be_committed_ns <= 4 * NS_PER_MS


@pytest.mark.parametrize(
    ("late_s", "wait_s"),
    [(0.003, 0.002), (0.005, 0.002), (0.007, 0.004), (0.015, 0.012), (0.05, WINDOW_S), (3_600.0, WINDOW_S)],
)
def test_a_late_commit_is_looked_for_again_when_it_is_twice_as_late(late_s: float, wait_s: float) -> None:
    """It is expected 3 ms after the window's end."""
    due_ns = due_ms(ORIGIN_NS, 4) * NS_PER_MS
    assert next_look_s(3, ORIGIN_NS, due_ns + round(late_s * NS_PER_S)) == pytest.approx(wait_s)


def test_a_clock_that_was_set_back_costs_two_windows_at_most() -> None:
    assert next_look_s(600, ORIGIN_NS, ORIGIN_NS) == 2 * WINDOW_S
