"""Running a role: an asyncio program that ends with SIGTERM, SIGINT or its supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, NoReturn

from runtime.lifeline import end_with_supervisor, has_lost_parent
from schemas.errors import CouncilError, Refused


class RoleParser(argparse.ArgumentParser):
    """The flags of a role. Roles read REDIS_URL; an error does not quote a URL that was given as an argument."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"[a-z+]+://", message)
        super().error(f"{message[: found.end()]}…; Redis is set as REDIS_URL, not as an argument" if found else message)


def run_role(work: Coroutine[Any, Any, None]) -> int:
    """Runs an asyncio role to its end, and returns its exit code. An error is one sentence on standard error.

    The exit code is 2 for input that is refused, and 1 for something that is missing for now.
    """
    import uvloop  # the aggregator and the supervisor do not use it

    try:
        uvloop.run(work)
    except CouncilError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


class StopEvents(NamedTuple):
    """`asked` is set when this process is asked to end, `at_once` when it must not finish anything first: by a second
    signal, or where its supervisor has ended."""

    asked: asyncio.Event
    at_once: asyncio.Event


def stop_event() -> asyncio.Event:
    """An event that is set when this process is asked to end: SIGTERM, SIGINT, or the end of its supervisor."""
    return stop_events().asked


def stop_events() -> StopEvents:
    """The events of a process that finishes something before it ends."""
    events = StopEvents(asyncio.Event(), asyncio.Event())

    def stop() -> None:
        if events.asked.is_set() or has_lost_parent():
            events.at_once.set()
        events.asked.set()

    _call_at_the_end(stop)
    return events


async def run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`, and cancels it when this process is asked to end. Raises what it raises."""
    running = asyncio.create_task(work)
    # Once: a second cancellation would interrupt what the work does at its end.
    _call_at_the_end(lambda: running.cancelling() or running.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _call_at_the_end(stop: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    end_with_supervisor()
