"""Running a role: one asyncio program from its start to SIGTERM, SIGINT or the end of its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from runtime.lifeline import end_with_supervisor
from schemas.errors import CouncilError, Refused


def run_role(work: Coroutine[Any, Any, None]) -> int:
    """Runs an asyncio role to its end; its exit code. What goes wrong is one sentence on standard error.

    2 for what is refused; 1 for what is missing: that may be there at the next start.
    """
    import uvloop  # the aggregator and the supervisor do without

    try:
        uvloop.run(work)
    except CouncilError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


def stop_event() -> asyncio.Event:
    """An event that is set when this process is asked to end: SIGTERM, SIGINT, or the end of its supervisor."""
    stopping = asyncio.Event()
    _at_the_end(stopping.set)
    return stopping


async def run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends by itself or this process is asked to end; then it is cancelled. Raises what it
    raises."""
    running = asyncio.create_task(work)
    _at_the_end(running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _at_the_end(stop: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    end_with_supervisor()
