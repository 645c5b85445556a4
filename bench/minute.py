"""A minute of a full council: six members at 100 tokens a second each, through every real process, window by window.

In the same run: a bare tick (a timer, one XADD, a blocking XREAD) in the middle of each window, where it disturbs the
aggregator least. After it: bare XADDs at the same rate, the least that Redis and a writer need.
"""

from __future__ import annotations

import os
import time

import msgspec
from rich.table import Table

from bench.frame_reader import Receipts, frame_reader, receipts_of
from bench.members import TOP_K, models_of
from bench.module_process import module_process
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, quantile, table_of
from bench.usage import Usage, UsageMeter
from bench.waiting import sleep_until
from schemas import keys
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, window_index_at, window_start_ns
from transport.sessions import origin_ns

_MEMBERS = 6
_TOKENS_PER_S = 100
# A session has at most 8192 tokens of a member, which is 81 s; a few seconds of it are not measured.
_LONGEST_S = 75.0
_WARM_UP_S = 2.0
_BARE_S = 10.0
_AIMED_CPU = 0.15
_WINDOW_MS = 1000 / FRAME_RATE_HZ
_MODELS = models_of(_MEMBERS)
_BARE_KEY = "bench:tick"
_FRAME_BYTES = 900
_PAST_POINT_NS = NS_PER_MS
_SAMPLED_ENTRIES = 1_000

_WINDOWS_CAPTION = (
    f"Six real producer processes whose backend yields a token with a top-{TOP_K} list every 10 ms (an n-gram answer "
    "would end by itself), the aggregator and DECIPHER. A reader in a process of its own blocks in XREAD on the "
    "frames. Times: from a window's end until the reader has its frame; late: by more than one window. Bare tick, in "
    "the same run: a timer 1 ms past the middle of each window, one XADD of 900 bytes on a connection of its own, a "
    "blocking XREAD in the same reader; its times count from the middle."
)
_PROCESSES_CAPTION = (
    "CPU over the same interval from /proc/<pid>/stat, in % of one core. Bare, right after it, without the roles: one "
    "process writes as many entries of the same size to the same Redis, in one pipeline a window. The council also "
    "reads each entry back, closes and commits 60 windows a second, and composes their events. In brackets: the "
    "processes that measure."
)


class _MinuteRun(msgspec.Struct, frozen=True):
    """Results of the time from `began_ns` to `ended_ns`. `ticks`: the middle of its window by the id of a bare tick."""

    began_ns: int
    ended_ns: int
    origin_ns: int
    receipts: Receipts
    ticks: dict[str, int]
    entries_per_s: float
    entry_bytes: int
    usage: dict[str, Usage]
    bare_usage: dict[str, Usage]


def measure(seconds: float) -> BenchReport:
    """Measures for min(seconds, 75). Raises RuntimeError where a process dies meanwhile."""
    with PrivateRoles() as roles:
        run = _run(roles, min(seconds, _LONGEST_S))
    windows, windows_aim = _windows(run)
    processes, cpu_aim = _processes(run)
    return BenchReport((windows, processes), (windows_aim, cpu_aim))


def _run(roles: PrivateRoles, seconds: float) -> _MinuteRun:
    for model in _MODELS:
        roles.start(f"producer {model}", "bench.steady_producer", model, "--tokens-per-s", str(_TOKENS_PER_S))
    roles.start("aggregator", "aggregator")
    roles.start("decipher", "consumers.decipher")
    roles.wait_until_ready()
    opening, opened = roles.open_session(_MODELS)
    with frame_reader(roles.url, opening.session, _BARE_KEY) as reader:
        time.sleep(_WARM_UP_S)
        measuring = {"(the reader)": reader.pid, "(the bare ticks)": os.getpid()}
        meter = UsageMeter({"Redis": roles.redis_pid, **roles.pids, **measuring})
        entries_before = roles.count_entries(opening.session)
        began_ns = time.time_ns()
        ticks = _tick(roles, began_ns + int(seconds * NS_PER_S))
        ended_ns = time.time_ns()
        usage = meter.read()
        entries = roles.count_entries(opening.session) - entries_before
        roles.check()
        roles.cancel_session(opening.session)
        receipts = receipts_of(reader)
    entries_per_s, entry_bytes = entries / (ended_ns - began_ns) * NS_PER_S, _entry_bytes(roles, opening.session)
    roles.end()
    bare_usage = _bare_usage(roles, entry_bytes, entries_per_s, min(seconds, _BARE_S))
    return _MinuteRun(
        began_ns, ended_ns, origin_ns(opened), receipts, ticks, entries_per_s, entry_bytes, usage, bare_usage
    )  # fmt: skip


def _entry_bytes(roles: PrivateRoles, session: str) -> int:
    """The mean size of the session's last entries."""
    (entries,) = roles.pipe.run([("XREVRANGE", keys.tokens(session), "+", "-", "COUNT", _SAMPLED_ENTRIES)])
    return round(sum(len(fields[1]) for _, fields in entries) / len(entries))


def _tick(roles: PrivateRoles, until_ns: int) -> dict[str, int]:
    """One bare XADD 1 ms past the middle of each window of the global grid."""
    ticks, index = dict[str, int](), window_index_at(time.time_ns()) + 1
    while True:
        middle_ns = (window_start_ns(index) + window_start_ns(index + 1)) // 2
        if middle_ns > until_ns:
            return ticks
        sleep_until(middle_ns + _PAST_POINT_NS)
        (entry_id,) = roles.pipe.run([("XADD", _BARE_KEY, "*", "e", b"x" * _FRAME_BYTES)])
        ticks[entry_id.decode()] = middle_ns
        index += 1


def _bare_usage(roles: PrivateRoles, entry_bytes: int, entries_per_s: float, seconds: float) -> dict[str, Usage]:
    """The CPU that Redis and a writer use for the same load of entries alone."""
    with module_process("bench.bare_writer", roles.url, str(entry_bytes), str(entries_per_s)) as writer:
        writer.line()
        meter = UsageMeter({"Redis": roles.redis_pid, "a bare writer": writer.pid})
        time.sleep(seconds)
        usage = meter.read()
        writer.end()
    return usage


def _windows(run: _MinuteRun) -> tuple[Table, Aim]:
    first = window_index_at(run.began_ns - run.origin_ns)
    after = window_index_at(run.ended_ns - run.origin_ns)
    frames = [receipt for receipt in run.receipts.frames if first <= receipt.window_index < after]
    delays_ms = [
        (receipt.read_ns - run.origin_ns - window_start_ns(receipt.window_index + 1)) / NS_PER_MS for receipt in frames
    ]
    bare = [(run.receipts.bare[entry_id] - middle_ns) / NS_PER_MS for entry_id, middle_ns in run.ticks.items()]
    tokens = sum(len(receipt.tokens) for receipt in frames)
    seconds = (run.ended_ns - run.began_ns) / NS_PER_S
    table = table_of(
        f"A minute of six members at {_TOKENS_PER_S} tokens/s ({seconds:.0f} s of it)",
        _WINDOWS_CAPTION,
        ("", "expected", "committed", "late", "late %", "p50 ms", "p99 ms", "max ms"),
    )
    table.add_row("windows", str(after - first), str(len(frames)), *_delay_cells(delays_ms))
    table.add_row("bare ticks", str(len(bare)), "", *_delay_cells(bare))
    ratios = [f"{quantile(delays_ms, share) / quantile(bare, share):.2f}" for share in (0.5, 0.99, 1.0)]
    table.add_row("windows / bare ticks", "", "", "", "", *ratios)
    table.add_section()
    expected_tokens = round(_MEMBERS * _TOKENS_PER_S * seconds)
    table.add_row("tokens", f"about {expected_tokens}", str(tokens))
    late, missing = _late(delays_ms), after - first - len(frames)
    measured = f"{late} of {after - first} late, {missing} missing (bare ticks late: {_late(bare)})"
    return table, Aim("every window on time (within one window of its end)", measured, late == missing == 0)


def _late(delays_ms: list[float]) -> int:
    return sum(ms > _WINDOW_MS for ms in delays_ms)


def _delay_cells(delays_ms: list[float]) -> list[str]:
    late = _late(delays_ms)
    shares = [f"{quantile(delays_ms, share):.2f}" for share in (0.5, 0.99, 1.0)]
    return [str(late), f"{100 * late / len(delays_ms):.2f}", *shares]


def _processes(run: _MinuteRun) -> tuple[Table, Aim]:
    table = table_of(
        f"The cost of that minute ({run.entries_per_s:.0f} entries/s of {run.entry_bytes} bytes)",
        _PROCESSES_CAPTION,
        ("process", "CPU %", "bare CPU %", "/ bare", "RSS MiB"),
    )
    bare_redis, bare_writer = run.bare_usage["Redis"], run.bare_usage["a bare writer"]
    for name, usage in run.usage.items():
        bare = bare_redis if name == "Redis" else None
        table.add_row(name, *_cpu_cells(usage.cpu, bare.cpu if bare else None), f"{usage.rss_bytes / 2**20:.0f}")
    table.add_section()
    producers = sum(usage.cpu for name, usage in run.usage.items() if name.startswith("producer"))
    council = sum(usage.cpu for name, usage in run.usage.items() if not name.startswith("("))
    table.add_row("six producers / one bare writer", *_cpu_cells(producers, bare_writer.cpu), "")
    table.add_row("the council / Redis and the writer", *_cpu_cells(council, bare_writer.cpu + bare_redis.cpu), "")
    cpu = run.usage["aggregator"].cpu
    aim = Aim(f"aggregator under {_AIMED_CPU:.0%} of a core", f"{cpu:.1%}", cpu < _AIMED_CPU)
    return table, aim


def _cpu_cells(cpu: float, bare: float | None) -> list[str]:
    return [f"{100 * cpu:.1f}", *(["", ""] if bare is None else [f"{100 * bare:.1f}", f"{cpu / bare:.1f}"])]
