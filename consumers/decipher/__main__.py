"""`python -m consumers.decipher`: composes the events of the sessions on REDIS_URL."""

from __future__ import annotations

import argparse
import sys

from consumers.decipher.follower import Decipher
from runtime.environment import redis_from_environment
from runtime.log import log_to_stderr
from runtime.role import run_role, run_until_stopped
from transport.register import ProcessRegistration


async def follow() -> None:
    """Follows until SIGTERM or SIGINT. Raises Refused."""
    url = redis_from_environment()
    await run_until_stopped(Decipher(url, ProcessRegistration("decipher"), log_to_stderr("decipher")).run())


def main() -> int:
    argparse.ArgumentParser(prog="python -m consumers.decipher", description=__doc__).parse_args()
    return run_role(follow())


if __name__ == "__main__":
    sys.exit(main())
