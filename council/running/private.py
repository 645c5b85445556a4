"""`python -m council.running.private`, with COUNCIL_PLAN: a council for one caller.

It prints one line of JSON with its Redis URL on standard output when it is ready, and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import msgspec

from council.running.supervisor import CouncilPlan, Supervisor
from runtime.lifeline import end_with_parent
from schemas.errors import CouncilError

# The supervisor ends its processes within five seconds; this process ends a little later.
END_S = 6.0


def main() -> int:
    """Runs the plan of COUNCIL_PLAN until the standard input ends; the exit code."""
    plan = msgspec.json.decode(os.environ.pop("COUNCIL_PLAN"), type=CouncilPlan)
    supervisor = Supervisor(plan, lambda sentence: print(f"council: {sentence}", file=sys.stderr))
    signal.signal(signal.SIGTERM, supervisor.stop)
    end_with_parent(END_S)
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
