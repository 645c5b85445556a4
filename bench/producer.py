"""The cost of a token for its producer: a real llama.cpp server's stream with top-20 lists, beside httpx alone.

llama.cpp --> paced server --500 events/s each--> producer process --> Redis
                                             |--> the backend alone
                                             `--> httpx alone, and httpx with json.loads

All read at the same time, each in a process of its own, with the same event loop.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from bench.module_process import module_process
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, table_of
from bench.stream_reader import KINDS
from bench.usage import Usage, UsageMeter
from bench.waiting import wait_until
from schemas.sessions import MAX_TOKENS_LIMIT

_TOKENS_PER_S = 500
# An answer has at most MAX_TOKENS_LIMIT tokens, which is 16 s. The processes begin one after the other, and the first
# second is not measured.
_LONGEST_S = MAX_TOKENS_LIMIT / _TOKENS_PER_S - 4.0
_WARM_UP_S = 1.0
_BEGIN_S = 30.0
_AIMED_RATIO = 2.0
_MODEL = "tiny"
_NAMES = {
    "bytes": "httpx alone, bytes thrown away",
    "json": "httpx, each line through json.loads",
    "backend": "the backend alone, chunks thrown away",
}
_CAPTION = (
    "CPU in % of one core, from /proc/<pid>/stat over the same interval; uvloop in every process. The stream is a real "
    "llama.cpp server's, {event_bytes} bytes a token with its top-20 list, sent as one event each {interval_ms:g} ms. "
    "The producer process also keeps, stamps and packs each token, writes it to Redis within 4 ms, reads the control "
    "stream and the session's state, and renews its lease and its process record."
)


class _ProducerRun(msgspec.Struct, frozen=True):
    """`tokens` were written to Redis in `seconds`; `usage` by the name of each process."""

    seconds: float
    tokens: int
    usage: dict[str, Usage]


def measure(seconds: float) -> BenchReport:
    """Measures for min(seconds, 12). Raises RuntimeError where a process dies meanwhile."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        upstream = stack.enter_context(llama_server(gguf_model(Path(folder)), slots=1, context=2 * MAX_TOKENS_LIMIT))
        paced = stack.enter_context(module_process("bench.paced_server", upstream, str(_TOKENS_PER_S)))
        url, event_bytes = paced.line().split()
        run = _run(stack, url, min(seconds, _LONGEST_S))
    return _report(run, event_bytes)


def _run(stack: ExitStack, url: str, seconds: float) -> _ProducerRun:
    roles = stack.enter_context(PrivateRoles())
    roles.start("producer", "producers", _MODEL, "--backend", url)
    roles.wait_until_ready()
    opening, _ = roles.open_session((_MODEL,))
    readers = {kind: stack.enter_context(module_process("bench.stream_reader", kind, url, _MODEL)) for kind in KINDS}
    for reader in readers.values():
        reader.line()
    wait_until(
        lambda: roles.count_entries(opening.session) >= _TOKENS_PER_S // 10, "the producer writes tokens", _BEGIN_S
    )
    time.sleep(_WARM_UP_S)
    pids = {_NAMES[kind]: reader.pid for kind, reader in readers.items()}
    meter = UsageMeter({**pids, "the producer process": roles.pids["producer"], "Redis": roles.redis_pid})
    before, began_s = roles.count_entries(opening.session), time.monotonic()
    time.sleep(seconds)
    usage, tokens = meter.read(), roles.count_entries(opening.session) - before
    measured_s = time.monotonic() - began_s
    roles.check()
    return _ProducerRun(measured_s, tokens, usage)


def _report(run: _ProducerRun, event_bytes: str) -> BenchReport:
    tokens_per_s = run.tokens / run.seconds
    table = table_of(
        f"A producer at {tokens_per_s:.0f} tokens/s ({run.seconds:.0f} s of it)",
        _CAPTION.format(event_bytes=event_bytes, interval_ms=1_000 / _TOKENS_PER_S),
        ("process", "CPU %", "µs/token", "/ httpx alone", "RSS MiB"),
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
    wanted = f"a token costs its producer at most {_AIMED_RATIO:g} times httpx alone"
    return BenchReport((table,), (Aim(wanted, f"{ratio:.2f} times", ratio <= _AIMED_RATIO),))
