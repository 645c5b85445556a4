"""Whether a loop keeps up, over many ticks."""

from __future__ import annotations

from aggregator.pace import Pace

TICK_S = 1 / 60


def paced(pace: Pace, share: float, ticks: int, at_s: float = 0.0) -> float:
    """Ticks that use this share of a tick's time (more than 1: they are late); returns when the last one ended."""
    for _ in range(ticks):
        began_s = at_s + max(0.0, 1 - share) * TICK_S
        at_s = began_s + share * TICK_S
        pace.add(at_s - began_s, at_s)
    return at_s


def test_one_late_tick_changes_nothing_and_a_second_of_late_ticks_does() -> None:
    """A third busy; one tick of 150 ms; a third busy; then every tick takes longer than a tick."""
    pace = Pace()
    at_s = paced(pace, 0.33, 120)
    at_s = paced(pace, 9.0, 1, at_s)
    assert pace.keeps_up
    at_s = paced(pace, 0.33, 60, at_s)
    assert 0.3 < pace.busy < 0.4
    at_s = paced(pace, 1.2, 50, at_s)
    assert not pace.keeps_up
    assert not any(pace.asks_now() for _ in range(20))
    paced(pace, 0.5, 60, at_s)
    assert pace.keeps_up


def test_a_busier_loop_asks_less_often_and_at_every_fourth_tick_at_least() -> None:
    asked = []
    for share in (0.01, 0.2, 0.4, 0.6, 0.74):
        pace = Pace()
        paced(pace, share, 600)
        asked.append(sum(pace.asks_now() for _ in range(120)))
    assert asked == sorted(asked, reverse=True)
    assert (asked[0], asked[-1]) == (120, 30)
