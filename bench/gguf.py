"""The speed of a GGUF member, beside that of llama.cpp's own server with the same file: the backend alone, no Redis.

    file --+--> llama.cpp's server over HTTP, one stream ----> tokens/s      in turn, so that both have the same machine
           `--> the member's own llama.cpp, in stretches ----> tokens/s

Measured with the same threads, top-20 lists and the same chat, from the first token of an answer to its last.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import msgspec

from bench.llama_server import llama_server
from bench.members import TOP_K
from bench.report import Aim, BenchReport, table_of
from council.models.store import MODELS, models_folder
from producers.backend import Chunk, Request
from producers.llama.backend import LlamaBackend
from producers.llama.threads import threads_for, usable_cpus
from producers.source import gguf_source

# Paths of further files, separated as in PATH. A model with a sliding window is worth a measurement.
_VARIABLE = "COUNCIL_BENCH_GGUF"
_LONGEST_S = 30.0
_ANSWER_TOKENS = 128
_LEAST_ROUNDS = 3
_AIMED_SHARE = 0.9
_PROMPT = "Tell a long story of a lighthouse keeper who finds a map in a bottle."
_CAPTION = (
    "{threads} thread(s) each. In each of {rounds} rounds both write {tokens} tokens at most, one after the other. "
    "Tokens/s and share: the median of the rounds; share: the member's tokens/s in a round divided by the server's. "
    "Gap: the longest time between two tokens in all rounds."
)


class _Pace(msgspec.Struct, frozen=True):
    """Of one answer: tokens a second, and the longest time between two tokens."""

    tokens_per_s: float
    gap_ms: float


def measure(seconds: float) -> BenchReport:
    """Measures each file that exists for min(seconds, 30); the report names those that do not."""
    reports = [
        asyncio.run(_measured(path, min(seconds, _LONGEST_S))) if path.is_file() else _missing(path)
        for path in _files()
    ]
    return BenchReport(
        tuple(table for report in reports for table in report.tables),
        tuple(aim for report in reports for aim in report.aims),
    )


def _files() -> list[Path]:
    named = os.environ.get(_VARIABLE, "").split(os.pathsep)
    return [(models_folder() or Path.home()) / MODELS["smollm2"].file, *(Path(path) for path in named if path)]


async def _measured(path: Path, seconds: float) -> BenchReport:
    threads = threads_for(usable_cpus(), 1)
    backend = LlamaBackend(*gguf_source(path, parallel=1, threads=threads))
    rounds: list[tuple[_Pace, _Pace]] = []
    with llama_server(path, slots=1, context=8_192, threads=threads) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=seconds + 60.0) as client:
            try:
                await backend.load()
                # Not counted: weights are loaded into memory when they are first used.
                await _pace(_served(client, 0)), await _pace(_member(backend, 0))
                until = time.monotonic() + seconds
                for seed in itertools.count(1):
                    if len(rounds) >= _LEAST_ROUNDS and time.monotonic() > until:
                        break
                    rounds.append((await _pace(_served(client, seed)), await _pace(_member(backend, seed))))
            finally:
                await backend.close()
    return _report(path, threads, rounds)


async def _pace(tokens: AsyncIterator[None]) -> _Pace:
    times = [time.perf_counter() async for _ in tokens]
    if len(times) < _ANSWER_TOKENS // 8:
        raise RuntimeError(f"an answer of {len(times)} tokens is too short to measure")
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return _Pace(len(gaps) / sum(gaps), 1_000 * max(gaps))


async def _member(backend: LlamaBackend, seed: int) -> AsyncIterator[None]:
    request = Request(_PROMPT, "", _ANSWER_TOKENS, 0.7, seed, TOP_K, silence_ms=30_000)
    async with aclosing(backend.generate(request)) as items:
        async for item in items:
            if isinstance(item, Chunk):
                yield None


async def _served(client: httpx.AsyncClient, seed: int) -> AsyncIterator[None]:
    messages = [{"role": "user", "content": _PROMPT}]
    prompt = (await client.post("/apply-template", json={"messages": messages})).raise_for_status().json()["prompt"]
    body = {
        "prompt": prompt,
        "n_predict": _ANSWER_TOKENS,
        "n_probs": TOP_K,
        "temperature": 0.7,
        "seed": seed,
        "stream": True,
    }
    async with client.stream("POST", "/completion", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and '"completion_probabilities":[{' in line:
                yield None


def _missing(path: Path) -> BenchReport:
    caption = f"Not measured: there is no file {path}. {_VARIABLE}=PATH adds another file."
    return BenchReport((table_of(f"A GGUF member: {path.stem}", caption, ("",)),))


def _report(path: Path, threads: int, rounds: list[tuple[_Pace, _Pace]]) -> BenchReport:
    share = statistics.median(member.tokens_per_s / served.tokens_per_s for served, member in rounds)
    table = table_of(
        f"A GGUF member: {path.stem}",
        _CAPTION.format(threads=threads, rounds=len(rounds), tokens=_ANSWER_TOKENS),
        ("", "tokens/s", "share", "longest gap ms"),
    )
    for name, paces, shown in (
        ("llama.cpp's own server over HTTP", [served for served, _ in rounds], ""),
        ("the member", [member for _, member in rounds], f"{share:.2f}"),
    ):
        table.add_row(
            name,
            f"{statistics.median(pace.tokens_per_s for pace in paces):.1f}",
            shown,
            f"{max(pace.gap_ms for pace in paces):.0f}",
        )
    wanted = f"{path.stem}: a GGUF member writes at least {_AIMED_SHARE:g} times as fast as llama.cpp's server"
    return BenchReport((table,), (Aim(wanted, f"{share:.2f}", share >= _AIMED_SHARE),))
