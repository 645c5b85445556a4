"""Waiting for a moment of the wall clock, and for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable

from schemas.grid import NS_PER_S

_BETWEEN_TRIES_S = 0.05


def sleep_until(due_ns: int) -> int:
    """Sleeps until `due_ns` of Unix time; returns how many nanoseconds after it the process runs again."""
    wait_ns = due_ns - time.time_ns()
    if wait_ns > 0:
        time.sleep(wait_ns / NS_PER_S)
    return time.time_ns() - due_ns


def wait_until(condition: Callable[[], object], description: str, timeout_s: float) -> None:
    """Returns when `condition()` is true. Raises RuntimeError with the description after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout_s:g} s: {description}")
        time.sleep(_BETWEEN_TRIES_S)
