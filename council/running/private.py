"""`python -m council.running.private`, with COUNCIL_PLAN: a council for one caller.

It prints its Redis URL on standard output when it is ready.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import msgspec

from council.running.supervisor import CouncilPlan, Supervisor
from schemas.errors import CouncilError


def main() -> int:
    """Runs the plan of COUNCIL_PLAN until the standard input ends; the exit code."""
    plan = msgspec.json.decode(os.environ.pop("COUNCIL_PLAN"), type=CouncilPlan)
    supervisor = Supervisor(plan, lambda sentence: print(f"council: {sentence}", file=sys.stderr))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, supervisor.stop)

    def wait_for_caller() -> None:
        while os.read(0, 4096):
            pass
        supervisor.stop()

    threading.Thread(target=wait_for_caller, daemon=True).start()
    try:
        supervisor.start()
        if not supervisor.is_stopping:
            print(json.dumps({"url": supervisor.redis_url}), flush=True)
        supervisor.run()
    except CouncilError as error:
        print(f"council: {error}", file=sys.stderr)
        return 1
    finally:
        supervisor.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
