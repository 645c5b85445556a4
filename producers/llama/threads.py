"""How many threads llama.cpp computes with."""

from __future__ import annotations

import os
import sys

# More do not help: each token reads the whole model once, and the memory's bandwidth limits that.
_MOST_THREADS = 8


def threads_for(cpus: int, models: int) -> int:
    """The threads of each of so many models that are served at once.

    One core is left for the council itself. Threads wait for each other at every step of a token, and a process that
    takes a core from one of them stops all: on two cores beside a busy process, two threads generated a third of the
    tokens of one thread, with gaps of 480 ms; without it they generate a fifth more.
    """
    return min(max((cpus - 1) // max(models, 1), 1), _MOST_THREADS)


def usable_cpus() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
