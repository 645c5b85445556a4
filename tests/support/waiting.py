"""Waiting for conditions, instead of sleeping for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# Long, because machines are shared. A condition that is true at once costs nothing.
TIMEOUT_S = 30.0
_POLL_S = 0.02


def wait_until(condition: Callable[[], T], description: str, timeout_s: float = TIMEOUT_S) -> T:
    """The first truthy value of `condition`. Fails with the description after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {description}"
        time.sleep(_POLL_S)
    return value


async def until(condition: Callable[[], Awaitable[T]], description: str, timeout_s: float = TIMEOUT_S) -> T:
    """As wait_until, for conditions that are awaited."""
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {description}"
        await asyncio.sleep(_POLL_S)
    return value
