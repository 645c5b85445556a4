"""`python -m bench.bare_writer URL BYTES ENTRIES_PER_S`: XADDs in one pipeline a window, until its standard input ends.

It prints "ready" before it begins.
"""

from __future__ import annotations

import select
import sys
import time

from bench.module_process import READY
from bench.waiting import sleep_until
from schemas.grid import FRAME_RATE_HZ, NS_PER_S
from transport.redis.connection import Command, Pipe

_MAXLEN = 100_000


def main() -> None:
    url, entry_bytes, entries_per_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    pipe, began_ns, written = Pipe(url), time.time_ns(), 0
    command: Command = ("XADD", "bench:bare", "MAXLEN", "~", _MAXLEN, "*", "e", b"x" * entry_bytes)
    print(READY, flush=True)
    batch = 0
    while not select.select([0], [], [], 0)[0]:
        batch += 1
        sleep_until(began_ns + batch * NS_PER_S // FRAME_RATE_HZ)
        due = int(batch * entries_per_s / FRAME_RATE_HZ)
        pipe.run([command] * (due - written))
        written = due


if __name__ == "__main__":
    main()
