"""`python -m bench.soak [--seconds 1800]`: one long session, and whether memory stays flat while it runs.

Six real producer processes that pause for each other, as n-gram models do, the aggregator and DECIPHER, on a private
Redis. The members write the most tokens that a session may have, spread over its time. Some memory grows by design: a
session's streams grow to their bounds and are deleted with the session; producers keep what they have written until the
session ends, to write it again if Redis loses it. The memory of the aggregator and of DECIPHER must stay flat, and that
of Redis must return to its value before the session.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console

from bench.members import TOP_K, models_of
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, aims_table, table_of
from bench.usage import rss_bytes
from bench.waiting import wait_until
from schemas import keys
from schemas.frames import decode_frame
from schemas.sessions import MAX_TOKENS_LIMIT, Limits
from transport.redis.connection import accepted, info_fields
from transport.tokens import entries_read

_MEMBERS = 6
_MODELS = models_of(_MEMBERS)
# Fewer than the limit, so that no member finishes early.
_TOKENS = MAX_TOKENS_LIMIT - 192
_MOST_TOKENS_PER_S = 100.0
# A session lasts for an hour at most.
_LONGEST_S = Limits().life_ms / 1000 - 60
_EVERY_S = 10.0
# Buffers, caches and Python's own memory reach their sizes in the first minutes.
_SETTLING_S = 300.0
# Python allocates memory in pieces of up to 1 MiB: one of them in a quarter of an hour is not a leak.
_FLAT_KIB_A_MINUTE = 64.0
# Redis keeps some memory for connections and scripts.
_LEFT_OVER_KIB = 512.0
_END_S = 5.0
_STREAMS = ("tokens", "frames", "events")
_ROWS = 15
_KIB = 1024
_PLAIN_WIDTH = 112
_CAPTION = (
    f"{{members}} members that pause for each other, at most {{pace:.1f}} tokens/s each with top-{TOP_K} lists, sync "
    "step. tokens, frames, events: the entries of these streams; their bounds are {tokens:,} tokens, and ten minutes "
    "({frames:,}) of frames and their events. buffered: tokens that arrived and are not released. In KiB: used_memory "
    "of Redis, resident memory of the processes (all producers together). A sample each {every:g} s."
)


class _Sample(msgspec.Struct, frozen=True):
    """Values `at_s` seconds after the start; sizes in KiB."""

    at_s: float
    entries: tuple[int, ...]
    buffered: int
    redis: float
    aggregator: float
    decipher: float
    producers: float


def measure(seconds: float) -> BenchReport:
    """Runs a session for min(seconds, 3540). Raises RuntimeError where a process dies meanwhile."""
    seconds = min(seconds, _LONGEST_S)
    pace = min(_MOST_TOKENS_PER_S, _TOKENS / seconds)
    with PrivateRoles() as roles:
        for model in _MODELS:
            roles.start(f"producer {model}", "bench.steady_producer", model, "--tokens-per-s", str(pace), "--pauses")
        roles.start("aggregator", "aggregator")
        roles.start("decipher", "consumers.decipher")
        roles.wait_until_ready()
        before = _redis_kib(roles)
        opening, _ = roles.open_session(_MODELS)
        samples = _samples(roles, opening.session, seconds)
        roles.cancel_session(opening.session)
        left_over = _redis_kib_without(roles, opening.session) - before
        roles.end()
    return _report(samples, pace, left_over)


def _samples(roles: PrivateRoles, session: str, seconds: float) -> list[_Sample]:
    began, samples = time.monotonic(), list[_Sample]()
    for number in range(1, int(seconds / _EVERY_S) + 1):
        time.sleep(max(0.0, began + number * _EVERY_S - time.monotonic()))
        roles.check()
        samples.append(_sample(roles, session, time.monotonic() - began))
    return samples


def _sample(roles: PrivateRoles, session: str, at_s: float) -> _Sample:
    _, *streams, _, _ = keys.of_session(session)
    newest = ("XREVRANGE", keys.frames(session), "+", "-", "COUNT", 1)
    *lengths, frames = roles.pipe.run([*(("XLEN", key) for key in streams), newest])
    ((_, raw),) = entries_read(accepted(frames))
    buffered = sum(member.buffered_tokens for member in decode_frame(raw).members)
    resident = {name: rss_bytes(pid) / _KIB for name, pid in roles.pids.items()}
    producers = sum(kib for name, kib in resident.items() if name.startswith("producer"))
    redis = _redis_kib(roles)
    return _Sample(at_s, tuple(lengths), buffered, redis, resident["aggregator"], resident["decipher"], producers)


def _redis_kib(roles: PrivateRoles) -> float:
    (info,) = roles.pipe.run([("INFO", "memory")])
    return int(info_fields(accepted(info))["used_memory"]) / _KIB


def _redis_kib_without(roles: PrivateRoles, session: str) -> float:
    """The memory of Redis once the session has ended and its keys are deleted."""
    state = ("HGET", keys.state(session), "status")
    wait_until(lambda: roles.pipe.run([state]) == [b"ended"], "the session ends", _END_S)
    # DEL frees the memory before it replies, UNLINK does not.
    roles.pipe.run([("DEL", *keys.of_session(session))])
    return _redis_kib(roles)


def _report(samples: Sequence[_Sample], pace: float, left_over: float) -> BenchReport:
    columns = ("s", *_STREAMS, "buffered", "Redis", "aggregator", "DECIPHER", "producers")
    caption = _CAPTION.format(
        members=_MEMBERS, pace=pace, tokens=_MEMBERS * MAX_TOKENS_LIMIT, frames=keys.FRAMES_MAXLEN, every=_EVERY_S
    )
    table = table_of(f"Memory over a session of {samples[-1].at_s:.0f} s", caption, columns)
    every = -(-len(samples) // _ROWS)
    for one in samples[every - 1 :: every]:
        sizes = (one.redis, one.aggregator, one.decipher, one.producers)
        table.add_row(f"{one.at_s:.0f}", *(f"{count:,}" for count in (*one.entries, one.buffered)), *map(_kib, sizes))
    settled = [one for one in samples if one.at_s >= min(_SETTLING_S, samples[-1].at_s / 3)]
    minutes = [one.at_s / 60 for one in settled]
    aims = [
        _flat("the aggregator", minutes, [one.aggregator for one in settled]),
        _flat("DECIPHER", minutes, [one.decipher for one in settled]),
        Aim(
            f"Redis as before within {_LEFT_OVER_KIB:g} KiB, once the session's keys are deleted",
            f"{left_over:+.0f} KiB",
            left_over <= _LEFT_OVER_KIB,
        ),
    ]
    return BenchReport((table,), tuple(aims))


def _kib(size: float) -> str:
    return f"{size:,.0f}"


def _flat(what: str, minutes: list[float], sizes: list[float]) -> Aim:
    slope = slope_of(minutes, sizes)
    return Aim(
        f"{what}: growth of at most {_FLAT_KIB_A_MINUTE:g} KiB/min",
        f"{slope:+.1f} KiB/min over the last {minutes[-1] - minutes[0]:.1f} min",
        slope <= _FLAT_KIB_A_MINUTE,
    )


def slope_of(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the least-squares line through the points; 0 where all have the same x."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1_800.0, help=f"how long, {3 * _EVERY_S:g} to {_LONGEST_S:g}")
    arguments = parser.parse_args()
    if not 3 * _EVERY_S <= arguments.seconds <= _LONGEST_S:
        parser.error(f"--seconds is {arguments.seconds:g}: give {3 * _EVERY_S:g} to {_LONGEST_S:g}")
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    console.print(f"[dim]a session of {arguments.seconds:g} s; load average {os.getloadavg()[0]:.2f} ...[/]")
    report = measure(arguments.seconds)
    for table in report.tables:
        console.print(table)
    console.print(aims_table(list(report.aims)))
    console.print(f"load average after: {os.getloadavg()[0]:.2f}", highlight=False)
    sys.exit(0 if all(aim.is_met for aim in report.aims) else 1)


if __name__ == "__main__":
    main()
