"""Keeping an appointment with the wall clock; how late a machine is for one limits everything that ticks."""

from __future__ import annotations

import time

from schemas.grid import NS_PER_S


def sleep_until(due_ns: int) -> int:
    """Sleeps until `due_ns` of Unix time; returns how many nanoseconds later it is then."""
    wait_ns = due_ns - time.time_ns()
    if wait_ns > 0:
        time.sleep(wait_ns / NS_PER_S)
    return time.time_ns() - due_ns
