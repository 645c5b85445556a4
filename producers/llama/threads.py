"""How many threads llama.cpp computes with."""

from __future__ import annotations

import os
import sys

# More are of no use: to draw a token is to read the whole model once, and the memory's bandwidth is what that takes.
_MOST_THREADS = 8


def threads_for(cpus: int, models: int) -> int:
    """Threads of each of so many models that are served at once.

    One core is left for the council itself. Threads wait for each other at every step of a token, and whatever takes a
    core from one of them stops all: on two cores beside a busy process, two threads wrote a third of the tokens that
    one writes, with gaps of 480 ms; alone they write a fifth more.
    """
    return min(max((cpus - 1) // max(models, 1), 1), _MOST_THREADS)


def usable_cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
