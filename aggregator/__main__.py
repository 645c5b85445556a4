"""`python -m aggregator`: closes the windows of the sessions on REDIS_URL. Start more of them to share the sessions."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from aggregator.loop import AggregatorLoop
from runtime.check import add_check
from runtime.environment import redis_from_environment
from runtime.lifeline import end_with_supervisor
from runtime.log import log_to_stderr
from runtime.role import RoleParser
from schemas.errors import Refused
from transport.register import ProcessRegistration


def main() -> int:
    parser = RoleParser(prog="python -m aggregator", description=__doc__)
    add_check(parser, "aggregator")
    parser.parse_args()
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    end_with_supervisor()
    log = log_to_stderr("aggregator")
    try:
        url = redis_from_environment()
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    registration = ProcessRegistration("aggregator")
    registration.ready = True
    AggregatorLoop(url, registration, log, lambda: stopping).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
