"""What an XADD costs Redis itself: the limit beside which everything that is written to it stands.

`redis-benchmark -P 64`, 64 commands in a pipeline on each of 50 connections, or where that is not on the PATH one
connection with pipelines as long.
"""

from __future__ import annotations

import shutil
import subprocess

from bench.stage import Stage
from bench.usage import UsageMeter
from transport.redis.connection import Command

_KEY = "bench:xadd"
_PIPELINE = 64
# Enough for the kernel's books, which count in hundredths of a second.
_COUNT = 150_016


def xadd_us(stage: Stage, entry_bytes: int) -> float:
    """CPU microseconds of Redis for each XADD of so many bytes, all its system calls included."""
    meter = UsageMeter({"redis-server": stage.redis_pid})
    benchmark = shutil.which("redis-benchmark")
    if benchmark:
        where = ["-s", stage.url.removeprefix("unix://"), "-P", str(_PIPELINE), "-n", str(_COUNT), "-q"]
        subprocess.run(
            [benchmark, *where, "XADD", _KEY, "*", "e", "x" * entry_bytes],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    else:
        command: Command = ("XADD", _KEY, "*", "e", b"x" * entry_bytes)
        for _ in range(_COUNT // _PIPELINE):
            stage.pipe.run([command] * _PIPELINE)
    cpu_s = meter.cpu_s()["redis-server"]
    stage.pipe.run([("UNLINK", _KEY)])
    return cpu_s / _COUNT * 1e6
