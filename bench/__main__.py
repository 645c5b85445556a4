"""`python -m bench [--seconds 60] [--only NAME]`: measures this machine and prints tables; nothing is asserted.

The processes that are measured are real, on a private Redis. Machines are shared and noisy, so every number stands
beside a limit that was measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys

from rich.console import Console

from bench import core, crowd, fanout, gguf, idle, latency, minute, producer, recording
from bench.report import Aim, aims_table
from council.running.keeper import find_server

_BENCHMARKS = {
    "core": core.measure,
    "crowd": crowd.measure,
    "fanout": fanout.measure,
    "gguf": gguf.measure,
    "idle": idle.measure,
    "latency": latency.measure,
    "minute": minute.measure,
    "producer": producer.measure,
    "recording": recording.measure,
}
_PLAIN_WIDTH = 112


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="how long each measures (core 10 at most, fanout 6 a row, gguf 30 a file, minute 75, producer 12; crowd "
        "twice as long; recording 30 s longer)",
    )
    parser.add_argument("--only", choices=_BENCHMARKS, help="one of them alone")
    parser.add_argument(
        "--models", default=idle.MODELS, metavar="A,B", help="the models of the idle council (default: %(default)s)"
    )
    arguments = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    aims: list[Aim] = []
    console.print(_machine(), highlight=False)
    for name, measure in _BENCHMARKS.items():
        if arguments.only in (None, name):
            console.print(f"[dim]measuring: {name}, {arguments.seconds:g} s at most ...[/]")
            report = idle.measure(arguments.seconds, arguments.models) if name == "idle" else measure(arguments.seconds)
            for table in report.tables:
                console.print(table)
            aims += report.aims
    if aims:
        console.print(aims_table(aims))
    console.print(f"load average after: {_load()}", highlight=False)


def _machine() -> str:
    version = subprocess.run([find_server() or "redis-server", "--version"], capture_output=True, text=True, check=True)
    redis = version.stdout.split("v=")[-1].split()[0]
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"Redis {redis}; load average before: {_load()}"
    )


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


if __name__ == "__main__":
    main()
