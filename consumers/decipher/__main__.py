"""`python -m consumers.decipher`: composes the events of the sessions on REDIS_URL. Start more of them to share the
sessions."""

from __future__ import annotations

import sys

from consumers.decipher.follower import Decipher
from runtime.check import add_check
from runtime.environment import redis_from_environment
from runtime.log import log_to_stderr
from runtime.role import RoleParser, run_role, stop_event
from transport.register import ProcessRegistration


async def compose() -> None:
    """Composes until SIGTERM or SIGINT. Raises Refused."""
    url = redis_from_environment()
    await Decipher(url, ProcessRegistration("decipher"), log_to_stderr("decipher")).run(stop_event())


def main() -> int:
    parser = RoleParser(prog="python -m consumers.decipher", description=__doc__)
    add_check(parser, "decipher")
    parser.parse_args()
    return run_role(compose())


if __name__ == "__main__":
    sys.exit(main())
