"""`python -m producers.replay`: plays the replays of the recordings in the library, for the sessions on REDIS_URL.

COUNCIL_RECORDINGS names the folder (default: the user's data folder).
"""

from __future__ import annotations

import sys
from pathlib import Path

from producers.replay.process import ReplayProcess
from recordings.folder import library_of_role
from runtime.check import add_check
from runtime.environment import redis_from_environment
from runtime.log import log_to_stderr
from runtime.role import RoleParser, run_role, stop_event
from transport.register import ProcessRegistration


async def serve(folder: Path | None) -> None:
    """Plays until SIGTERM or SIGINT. Raises Refused."""
    url = redis_from_environment()
    library = library_of_role(folder)
    stopping = stop_event()
    await ReplayProcess(url, library, ProcessRegistration("replay"), log_to_stderr("replay"), stopping).run()


def main() -> int:
    parser = RoleParser(prog="python -m producers.replay", description=__doc__)
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="the library's folder")
    add_check(parser, "replay")
    return run_role(serve(parser.parse_args().recordings))


if __name__ == "__main__":
    sys.exit(main())
