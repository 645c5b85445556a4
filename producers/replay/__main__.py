"""`python -m producers.replay`: plays the replays of the recordings in the library, for the sessions on REDIS_URL.

COUNCIL_RECORDINGS names the folder (default: the user's data folder).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from producers.replay.process import ReplayProcess
from recordings.folder import library_of_role
from transport.log import log_to_stderr
from transport.process import Standing, end_with_supervisor, redis_of_role, run_role


async def serve(folder: Path | None) -> None:
    """Plays until SIGTERM or SIGINT. Raises Refused."""
    url = redis_of_role()
    library = library_of_role(folder)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    end_with_supervisor()
    await ReplayProcess(url, library, Standing("replay"), log_to_stderr("replay"), stopping).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m producers.replay", description=__doc__)
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="the library's folder")
    return run_role(serve(parser.parse_args().recordings))


if __name__ == "__main__":
    sys.exit(main())
