"""A council without sessions: how long it takes to start, and the CPU and memory that it uses while it waits.

council up --Ready--> POST /api/sessions --first token in a frame--> cancelled --some seconds--> idle: CPU, memory

The council is started with its command, with processes for all its models, a private Redis and the page.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiohttp
import msgspec
import uvloop
from rich.table import Table

from bench.report import Aim, BenchReport, table_of
from bench.usage import Idle, IdleMeter, family
from council.models.store import stored_path
from council.running.keeper import find_server, start_server, wait_until_it_answers
from runtime.socket_folder import new_socket_folder

_STORED = "smollm2"
# Four members, as in the mid tier; they need no file.
MODELS = "ngram:word-3,ngram:char-6,ngram:bpe-3,ngram:word-4"
_AIMED_CPU, _AIMED_BYTES, _AIMED_START_S = 0.01, 250 * 2**20, 5.0
# By then the work after a session is done: its end, its events, closed connections.
_SETTLE_S = 6.0
_START_S = 120.0
_PINGER = """
import socket, sys, time
with socket.socket(socket.AF_UNIX) as redis:
    redis.connect(sys.argv[1])
    while True:
        redis.sendall(b"PING\\r\\n")
        redis.recv(64)
        time.sleep(1.0)
"""
_IDLE_CAPTION = (
    "CPU in % of one core and wakes (voluntary context switches of all threads) from /proc/<pid> over the same "
    "interval, after a session has ended. PSS: resident memory, where a page that n processes share counts 1/n for "
    "each. Bare, in the same run: the same Redis server with one Python process that only sends a PING each second."
)
_START_CAPTION = (
    "From the start of `council up`, with all files in the page cache. A session is opened over HTTP as soon as the "
    "council prints its address; the first token is read from /frames. Bare: `council --help`, which starts nothing."
)


class _Start(msgspec.Struct, frozen=True):
    """Seconds from the start of the command, for a council of these models."""

    models: str
    ready: float
    first_token: float


def measure(seconds: float, models: str = MODELS) -> BenchReport:
    """Measures a council of these models that is idle for `seconds`. Raises RuntimeError where it does not start."""
    starts: list[_Start] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bare_s = _help_s(folder)
        if stored_path(_STORED):
            with _started(folder, _STORED, starts):
                pass
        with _started(folder, models, starts) as pid:
            time.sleep(_SETTLE_S)
            with _bare_redis() as bare_pids:
                council, bare = IdleMeter(family(pid)), IdleMeter(bare_pids)
                time.sleep(seconds)
                idle, bare_idle = council.read(), bare.read()
    start, start_aim = _start_table(bare_s, starts)
    table, *aims = _idle_table(idle, bare_idle, seconds)
    return BenchReport((start, table), (start_aim, *aims))


@contextmanager
def _started(folder: str, models: str, starts: list[_Start]) -> Iterator[int]:
    """The pid of a council that has written a first token. Adds the times of its start to `starts`."""
    began_s = time.monotonic()
    with _council(folder, models) as (pid, address):
        ready_s = time.monotonic() - began_s
        starts.append(_Start(models, ready_s, uvloop.run(_first_token_s(address)) - began_s))
        yield pid


def _help_s(folder: str) -> float:
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-m", "council", "--help"], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began_s


@contextmanager
def _council(folder: str, models: str) -> Iterator[tuple[int, str]]:
    """(pid, the page's address) of a council that is ready. Raises RuntimeError where it ends instead."""
    command = [sys.executable, "-m", "council", "up", "--no-open", "--port", "0", "--tier", "mid", "--models", models]
    environment = os.environ | {"TMPDIR": folder, "XDG_DATA_HOME": folder}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("council: Open "):
                yield process.pid, line.split()[2].rstrip(",")
                return
        raise RuntimeError(f"the council did not start: {''.join(lines)}")
    finally:
        process.terminate()
        process.wait()


async def _first_token_s(address: str) -> float:
    """The monotonic time at which the first token of a session was read. Cancels the session. Raises RuntimeError."""
    async with asyncio.timeout(_START_S), aiohttp.ClientSession(address) as client:
        async with client.post("/api/sessions", json={"prompt": "What is a list?"}) as reply:
            opened = await reply.json()
            if reply.status != 201:
                raise RuntimeError(f"the council does not open a session: {opened['error']['message']}")
        session = opened["session"]
        async with client.ws_connect(f"/frames?session={session}") as frames:
            async for message in frames:
                if msgspec.json.decode(message.data)["tokens"]:
                    first_s = time.monotonic()
                    await client.post(f"/api/sessions/{session}/cancel")
                    return first_s
    raise RuntimeError("the session ended without a token")


@contextmanager
def _bare_redis() -> Iterator[dict[str, int]]:
    """The pids of a Redis and of its only client, by name."""
    binary = find_server()
    assert binary is not None
    folder = new_socket_folder("bench")
    redis = start_server(binary, folder)
    try:
        wait_until_it_answers(redis, folder)
        with subprocess.Popen([sys.executable, "-c", _PINGER, f"{folder}/redis.sock"]) as pinger:
            try:
                yield {"bare Redis": redis.pid, "bare Python": pinger.pid}
            finally:
                pinger.kill()
    finally:
        redis.kill()
        redis.wait()
        shutil.rmtree(folder)


def _start_table(bare_s: float, starts: Sequence[_Start]) -> tuple[Table, Aim]:
    """The aim is for the real model, where its file exists."""
    table = table_of("Starting a council", _START_CAPTION, ("", "seconds", "/ bare"))
    table.add_row("bare", f"{bare_s:.2f}", "1.0")
    for start in starts:
        for name, seconds in (("ready", start.ready), ("first token in a frame", start.first_token)):
            table.add_row(f"{start.models}: {name}", f"{seconds:.2f}", f"{seconds / bare_s:.1f}")
    first = starts[0]
    wanted = f"{first.models}: from council up to the first token in at most {_AIMED_START_S:g} s"
    return table, Aim(wanted, f"{first.first_token:.2f} s", first.first_token <= _AIMED_START_S)


def _idle_table(idle: dict[str, Idle], bare: dict[str, Idle], seconds: float) -> tuple[Table, Aim, Aim]:
    table = table_of(f"An idle council ({seconds:.0f} s)", _IDLE_CAPTION, ("process", "CPU %", "wakes/s", "PSS MiB"))
    for name, one in idle.items():
        table.add_row(name, *_cells(one))
    table.add_section()
    whole = _sum(idle)
    table.add_row("the council in all", *_cells(whole))
    for name, one in bare.items():
        table.add_row(name, *_cells(one))
    cpu = Aim(f"an idle council under {_AIMED_CPU:.0%} of a core", f"{whole.cpu:.2%}", whole.cpu < _AIMED_CPU)
    wanted = f"an idle council under {_AIMED_BYTES / 2**20:.0f} MiB (PSS)"
    memory = Aim(wanted, f"{whole.pss_bytes / 2**20:.0f} MiB", whole.pss_bytes < _AIMED_BYTES)
    return table, cpu, memory


def _sum(parts: dict[str, Idle]) -> Idle:
    every = parts.values()
    return Idle(
        sum(one.cpu for one in every), sum(one.wakes_per_s for one in every), sum(one.pss_bytes for one in every)
    )


def _cells(idle: Idle) -> tuple[str, str, str]:
    return f"{100 * idle.cpu:.2f}", f"{idle.wakes_per_s:.1f}", f"{idle.pss_bytes / 2**20:.1f}"
