"""The 60 Hz grid, in integers.

A sixtieth of a second is not a whole number of nanoseconds, so neither a float nor a rounded period is used for it: a
period of 16 ms drifts by 144 s an hour, and floor(t / (1/60)) is wrong at 1.6 % of the grid's points. Window k is
half-open:

    k        0                1                2                3
    start_ns 0       16_666_667       33_333_334       50_000_000         = ceil(k * 10^9 / 60)
             |----------------|----------------|----------------|--->

Times are in nanoseconds unless the name has another unit.
"""

from __future__ import annotations

FRAME_RATE_HZ = 60
NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


def window_start_ns(window_index: int) -> int:
    """The first nanosecond of a window, counted from the grid's origin."""
    return -(-window_index * NS_PER_S // FRAME_RATE_HZ)


def window_index_at(t_ns: int) -> int:
    """The window that contains `t_ns`: window_start_ns(k) <= t_ns < window_start_ns(k + 1). Negative for negative
    times."""
    return t_ns * FRAME_RATE_HZ // NS_PER_S


def next_grid_point_ns(t_ns: int) -> int:
    """The first point of the global grid at or after `t_ns`. For the opening entry it is the session's origin."""
    return window_start_ns(window_index_at(t_ns - 1) + 1)


def last_ms_of_window(origin_ns: int, window_index: int) -> int:
    """The last millisecond of Redis's clock whose entries belong to this window of a session with this origin."""
    return (origin_ns + window_start_ns(window_index + 1) - 1) // NS_PER_MS


def window_of_entry(origin_ns: int, entry_ms: int) -> int:
    """The window of an entry, by its id's millisecond. Entries before the origin belong to window 0."""
    return max(0, window_index_at(entry_ms * NS_PER_MS - origin_ns))


def due_ms(origin_ns: int, window_index: int) -> int:
    """The first millisecond at which a new entry can no longer belong to the window."""
    return -(-(origin_ns + window_start_ns(window_index + 1)) // NS_PER_MS)


def is_due(origin_ns: int, window_index: int, now_ms: int) -> bool:
    """True once Redis's clock, floored to `now_ms`, has passed the window."""
    return now_ms >= due_ms(origin_ns, window_index)
