"""`python -m bench [--seconds 60] [--only NAME]`: measures this machine and prints tables. Nothing is asserted.

The measured processes are real, on a private Redis. Machines are shared and noisy, so every number is printed beside a
limit that was measured in the same run. A benchmark that fails is reported, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial

from rich.console import Console

from bench import chat, consensus, core, crowd, fanout, gguf, idle, latency, minute, producer, recording
from bench.report import Aim, BenchReport, aims_table
from council.running.keeper import NO_SERVER, find_server

_BENCHMARKS: dict[str, Callable[[float], BenchReport]] = {
    "chat": chat.measure,
    "consensus": consensus.measure,
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


def main() -> int:
    """The exit code: 0 where every benchmark was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="how long each measures at most (consensus 60, core 10, fanout 6 a row, gguf 30 a file, minute 75, "
        "producer 12; chat and crowd take twice as long, recording 30 s longer)",
    )
    parser.add_argument("--only", choices=_BENCHMARKS, help="run one of them only")
    parser.add_argument(
        "--models", default=idle.MODELS, metavar="A,B", help="the models of the idle council (default: %(default)s)"
    )
    arguments = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    server = find_server()
    if server is None:
        console.print(NO_SERVER, highlight=False)
        return 2
    console.print(_machine(server), highlight=False)
    chosen = _BENCHMARKS | {"idle": partial(idle.measure, models=arguments.models)}
    if arguments.only:
        chosen = {arguments.only: chosen[arguments.only]}
    failed = _measure_all(chosen, arguments.seconds, console)
    console.print(f"load average after: {_load()}", highlight=False)
    for name, reason in failed.items():
        console.print(f"{name} failed: {reason}", highlight=False, markup=False)
    return 1 if failed else 0


def _measure_all(
    benchmarks: dict[str, Callable[[float], BenchReport]], seconds: float, console: Console
) -> dict[str, str]:
    """Prints each benchmark's tables when it ends, and all aims at the end. Returns the reason of each failure."""
    aims: list[Aim] = []
    failed: dict[str, str] = {}
    for name, measure in benchmarks.items():
        console.print(f"[dim]measuring: {name}, {seconds:g} s at most ...[/]")
        try:
            report = measure(seconds)
        except Exception as error:  # noqa: BLE001 - the tables of the other benchmarks must not be lost
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        for table in report.tables:
            console.print(table)
        aims += report.aims
    if aims:
        console.print(aims_table(aims))
    return failed


def _machine(server: str) -> str:
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    product = version.partition(" sha=")[0].replace(" server v=", " ")
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{product}; load average before: {_load()}"
    )


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
