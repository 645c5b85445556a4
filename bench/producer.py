"""What a token costs its producer: a real llama.cpp server's stream with top-20 lists, beside the same with bare httpx.

llama.cpp --> pacer --500 events/s each--> producer process --> Redis
                                      |--> the backend alone
                                      `--> bare httpx, and httpx with json.loads

All read at the same time, each in a process of its own, under the same event loop.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from bench.report import Aim, BenchReport, table_of
from bench.stage import Stage
from bench.stream_reader import KINDS
from bench.usage import Usage, UsageMeter
from schemas import keys
from schemas.sessions import MAX_TOKENS_LIMIT

TOKENS_PER_S = 500
# An answer has at most MAX_TOKENS_LIMIT tokens, 16 s; not all processes begin at once, and the first second is not
# measured.
LONGEST_S = MAX_TOKENS_LIMIT / TOKENS_PER_S - 4.0
_WARM_UP_S = 1.0
_BEGIN_S = 30.0
_AIMED_RATIO = 2.0
_MODEL = "tiny"
_NAMES = {
    "bytes": "bare httpx, bytes thrown away",
    "json": "httpx, each line through json.loads",
    "backend": "the backend alone, chunks thrown away",
}
_CAPTION = (
    "CPU from /proc/<pid>/stat over the same interval; uvloop in every process. The stream is a real llama.cpp "
    "server's, {event_bytes} bytes a token with its top-20 list, handed out one event each {interval_ms:g} ms, as if "
    "the model wrote that fast. The producer process also keeps, stamps and packs each token, writes it to Redis "
    "within 4 ms, looks for words and state, and renews its lease and record."
)


class _ProducerRun(msgspec.Struct, frozen=True):
    """`tokens` were written to Redis in `seconds`; `usage` by what was measured."""

    seconds: float
    tokens: int
    usage: dict[str, Usage]


def measure(seconds: float) -> BenchReport:
    """Measures min(seconds, LONGEST_S). Raises RuntimeError where a process dies meanwhile."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = stack.enter_context(llama_server(gguf_model(Path(folder)), slots=1, context=2 * MAX_TOKENS_LIMIT))
        pacer = stack.enter_context(_process("bench.pacer", server, str(TOKENS_PER_S)))
        url, event_bytes = pacer.said.split()
        run = _run(stack, url, min(seconds, LONGEST_S))
    return _report(run, event_bytes)


class _Process(msgspec.Struct, frozen=True):
    """A process of the measuring, and the first line it said."""

    pid: int
    said: str


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[_Process]:
    """`python -m MODULE ARGUMENTS` from its first line on until the context ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start")
        yield _Process(process.pid, line.strip())
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _run(stack: contextlib.ExitStack, url: str, seconds: float) -> _ProducerRun:
    stage = stack.enter_context(Stage())
    stage.start("producer", "producers", _MODEL, "--backend", url)
    stage.wait_until_ready()
    opening, _ = stage.open_session((_MODEL,))
    readers = {kind: stack.enter_context(_process("bench.stream_reader", kind, url, _MODEL)) for kind in KINDS}
    _wait_until_it_writes(stage, opening.session)
    time.sleep(_WARM_UP_S)
    pids = {_NAMES[kind]: reader.pid for kind, reader in readers.items()}
    meter = UsageMeter({**pids, "the producer process": stage.pids["producer"], "redis-server": stage.redis_pid})
    before, began_s = _length(stage, opening.session), time.monotonic()
    time.sleep(seconds)
    usage, tokens = meter.read(), _length(stage, opening.session) - before
    measured_s = time.monotonic() - began_s
    stage.check_roles()
    return _ProducerRun(measured_s, tokens, usage)


def _wait_until_it_writes(stage: Stage, session: str) -> None:
    deadline = time.monotonic() + _BEGIN_S
    while _length(stage, session) < TOKENS_PER_S // 10:
        stage.check_roles()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the producer wrote nothing within {_BEGIN_S:g} s")
        time.sleep(0.05)


def _length(stage: Stage, session: str) -> int:
    (length,) = stage.pipe.run([("XLEN", keys.tokens(session))])
    return int(length)


def _report(run: _ProducerRun, event_bytes: str) -> BenchReport:
    tokens_per_s = run.tokens / run.seconds
    table = table_of(
        f"A producer at {tokens_per_s:.0f} tokens/s ({run.seconds:.0f} s of it)",
        _CAPTION.format(event_bytes=event_bytes, interval_ms=1_000 / TOKENS_PER_S),
        ("process", "CPU % of a core", "us a token", "ratio", "RSS MiB"),
    )
    bare = run.usage[_NAMES["bytes"]].cpu
    for name, usage in run.usage.items():
        table.add_row(
            name,
            f"{100 * usage.cpu:.1f}",
            f"{usage.cpu / tokens_per_s * 1e6:.0f}",
            f"{usage.cpu / bare:.2f}",
            f"{usage.rss_bytes / 2**20:.0f}",
        )
    ratio = run.usage["the producer process"].cpu / bare
    wanted = f"a producer costs at most {_AIMED_RATIO:g}x bare httpx a token"
    return BenchReport((table,), (Aim(wanted, f"{ratio:.2f}x", ratio <= _AIMED_RATIO),))
