"""`python -m consumers.decipher`: composes the events of the sessions on REDIS_URL."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

from consumers.decipher.follower import Decipher
from transport.log import log_to_stderr
from transport.process import Standing, end_with_supervisor, redis_of_role, run_role


async def follow() -> None:
    """Follows until SIGTERM or SIGINT. Raises Refused."""
    url = redis_of_role()
    running = asyncio.create_task(Decipher(url, Standing("decipher"), log_to_stderr("decipher")).run())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    loop.add_signal_handler(signal.SIGINT, running.cancel)
    end_with_supervisor()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def main() -> int:
    argparse.ArgumentParser(prog="python -m consumers.decipher", description=__doc__).parse_args()
    return run_role(follow())


if __name__ == "__main__":
    sys.exit(main())
