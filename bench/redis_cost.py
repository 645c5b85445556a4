"""The cost of an XADD in Redis alone: the limit for everything that is written to it.

Measured with `redis-benchmark`, or where that is not on the PATH with one connection of our own.
"""

from __future__ import annotations

import shutil
import subprocess
import time

from bench.private_roles import PrivateRoles
from bench.usage import UsageMeter
from transport.redis.connection import Command

_KEY = "bench:xadd"
# A multiple of both pipeline lengths; long enough for the kernel's CPU times, whose unit is 10 ms.
_COUNT = 150_016

XADD_WRITER = "redis-benchmark" if shutil.which("redis-benchmark") else "one Python connection"


def xadd_us(roles: PrivateRoles, entry_bytes: int) -> float:
    """CPU microseconds of Redis for each XADD of this size, its system calls included: pipelines of 64, on 50
    connections where redis-benchmark writes."""
    meter = UsageMeter({"redis": roles.redis_pid})
    _write(roles, entry_bytes, clients=50, pipeline=64)
    cpu_s = meter.cpu_s()["redis"]
    roles.pipe.run([("UNLINK", _KEY)])
    return cpu_s / _COUNT * 1e6


def xadds_per_s(roles: PrivateRoles, entry_bytes: int, pipeline: int) -> float:
    """The XADDs of this size that Redis executes in a second, from one connection with pipelines of this length."""
    per_s = _write(roles, entry_bytes, clients=1, pipeline=pipeline)
    roles.pipe.run([("UNLINK", _KEY)])
    return per_s


def _write(roles: PrivateRoles, entry_bytes: int, clients: int, pipeline: int) -> float:
    """Writes the entries; how many a second."""
    program = shutil.which("redis-benchmark")
    if program:
        where = ["-s", roles.url.removeprefix("unix://"), "-c", str(clients), "-P", str(pipeline), "-n", str(_COUNT)]
        command = [program, *where, "--csv", "XADD", _KEY, "*", "e", "x" * entry_bytes]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # "XADD ...","97560.98", and since Redis 7.0 further columns.
        return float(output.strip().splitlines()[-1].split('","')[1].strip('"'))
    xadd: Command = ("XADD", _KEY, "*", "e", b"x" * entry_bytes)
    began_s = time.monotonic()
    for _ in range(_COUNT // pipeline):
        roles.pipe.run([xadd] * pipeline)
    return _COUNT / (time.monotonic() - began_s)
