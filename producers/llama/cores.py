"""Stub until the llama branch is merged."""

import os


def available_cpus() -> int:
    return len(os.sched_getaffinity(0))


def threads_for(cpus: int, models: int) -> int:
    return max(1, cpus // max(models, 1))
