"""A chat through /v1, beside the member's own server asked directly and beside a proxy that only forwards.

first chunk    client --> llama.cpp     client --> proxy --> llama.cpp     client --> web .. producer --> llama.cpp
CPU a token    clients --> proxy --> paced server, and at the same time clients --> web .. producer --> paced server

The web process gets the tokens through Redis, from the producer. The model is `council:MEMBER`: its tokens wait for no
frame.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.table import Table

from bench.chat_client import first_text_s
from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from bench.module_process import ModuleProcess, module_process
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, quantile, table_of
from bench.usage import UsageMeter
from schemas.sessions import MAX_TOKENS_LIMIT
from transport.register import read_processes

_STREAMS = 4
# As a small model writes on one machine.
_TOKENS_PER_S = 50
# An answer of MAX_TOKENS_LIMIT tokens takes 164 s.
_LONGEST_S = 60.0
_WARM_UP_S = 1.0
# The web process opens five sessions a second.
_ROUND_S = 0.25
_ANSWER_TOKENS = 8
_AIMED_MS, _AIMED_RATIO = 3.0, 1.3
_DIRECT, _PROXY, _COUNCIL = "its own server", "a proxy that only forwards", "/v1, council:MEMBER"
_WEB = "the web process"
_FIRST_CAPTION = (
    f"From before the connection until the first text; each path in turn, {{rounds}} times. The server is llama.cpp's "
    f"with a model of 1 MB; answers have {_ANSWER_TOKENS} tokens at temperature 0."
)
_CPU_CAPTION = (
    f"{_STREAMS} streams through the proxy and, at the same time, {_STREAMS} through /v1, each of {_TOKENS_PER_S} "
    "tokens a second, which are a real llama.cpp server's events at a steady pace. CPU in % of one core from "
    "/proc/<pid>/stat. Events: what a client of all streams received a second. The proxy and the web process are what "
    "a client talks to; producer and aggregator also do what a council is for."
)


class _Cpu(msgspec.Struct, frozen=True):
    """CPU seconds of each process, and the events a second that clients received from the proxy and from /v1."""

    used_s: dict[str, float]
    events_per_s: dict[str, int]


def measure(seconds: float) -> BenchReport:
    """Measures the first chunk and then the CPU, each for min(seconds, 60). Raises RuntimeError where a process dies,
    or an answer has no text."""
    seconds = min(seconds, _LONGEST_S)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = gguf_model(Path(folder))
        server = stack.enter_context(llama_server(model, slots=2 * _STREAMS, context=MAX_TOKENS_LIMIT + 256))
        paced = stack.enter_context(module_process("bench.paced_server", server, str(_TOKENS_PER_S))).line().split()[0]
        roles = stack.enter_context(PrivateRoles())
        roles.start("the aggregator", "aggregator")
        roles.start("the producer", "producers", "paced", "--backend", paced)
        roles.start("another producer", "producers", "tiny", "--backend", server)
        roles.start(_WEB, "consumers.web", "--port", "0")
        roles.wait_until_ready()
        (port,) = (record.detail["port"] for record in read_processes(roles.pipe) if record.role == "web")
        web = f"http://127.0.0.1:{port}"
        proxy, paced_proxy = (stack.enter_context(module_process("bench.chat_proxy", url)) for url in (server, paced))
        paths = {_DIRECT: (server, "tiny"), _PROXY: (proxy.line(), "tiny"), _COUNCIL: (web, "council:tiny")}
        firsts_ms = _first_ms(paths, seconds)
        cpu = _cpu(stack, roles, paced_proxy, web, seconds)
        roles.check()
    first, first_aim = _first_table(firsts_ms)
    table, cpu_aim = _cpu_table(cpu, seconds)
    return BenchReport((first, table), (first_aim, cpu_aim))


def _first_ms(paths: dict[str, tuple[str, str]], seconds: float) -> dict[str, list[float]]:
    """The times to the first text, by path. The first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in paths}
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s or len(found[_DIRECT]) < 2:
        began_s = time.monotonic()
        for name, (url, model) in paths.items():
            found[name].append(1_000 * first_text_s(url, model, _ANSWER_TOKENS))
        time.sleep(max(0.0, began_s + _ROUND_S - time.monotonic()))
    return {name: times[1:] for name, times in found.items()}


def _cpu(stack: ExitStack, roles: PrivateRoles, proxy: ModuleProcess, web: str, seconds: float) -> _Cpu:
    clients = {
        name: stack.enter_context(module_process("bench.chat_client", url, model, str(_STREAMS)))
        for name, url, model in ((_PROXY, proxy.line(), "paced"), (_WEB, web, "council:paced"))
    }
    for client in clients.values():
        client.line()
    time.sleep(_WARM_UP_S)
    counted = {name: pid for name, pid in roles.pids.items() if name != "another producer"}
    meter = UsageMeter({_PROXY: proxy.pid, **counted, "Redis": roles.redis_pid})
    time.sleep(seconds)
    used_s = meter.cpu_s()
    return _Cpu(used_s, {name: int(client.end()) for name, client in clients.items()})


def _first_table(firsts_ms: dict[str, list[float]]) -> tuple[Table, Aim]:
    caption = _FIRST_CAPTION.format(rounds=len(firsts_ms[_DIRECT]))
    columns = ("", "p50 ms", "p99 ms", "p50 - its own", "p50 / its own")
    table = table_of("A chat through /v1: the first chunk", caption, columns)
    direct = quantile(firsts_ms[_DIRECT], 0.5)
    for name, times in firsts_ms.items():
        p50 = quantile(times, 0.5)
        table.add_row(name, f"{p50:.2f}", f"{quantile(times, 0.99):.2f}", f"{p50 - direct:.2f}", f"{p50 / direct:.2f}")
    more = quantile(firsts_ms[_COUNCIL], 0.5) - direct
    return table, Aim(f"the first chunk through /v1 within {_AIMED_MS:g} ms", f"{more:.2f} ms", more <= _AIMED_MS)


def _cpu_table(cpu: _Cpu, seconds: float) -> tuple[Table, Aim]:
    tokens = _STREAMS * _TOKENS_PER_S * seconds
    columns = ("process", "CPU %", "µs/token", "/ the proxy", "events/s")
    table = table_of(f"A chat through /v1: CPU ({seconds:.0f} s)", _CPU_CAPTION, columns)
    bare_s = cpu.used_s[_PROXY]
    for name in dict.fromkeys([_PROXY, _WEB, *cpu.used_s]):
        used_s, events = cpu.used_s[name], cpu.events_per_s.get(name, "")
        table.add_row(
            name, f"{100 * used_s / seconds:.1f}", f"{1e6 * used_s / tokens:.0f}", f"{used_s / bare_s:.2f}", f"{events}"
        )
    ratio = cpu.used_s[_WEB] / bare_s
    wanted = f"a token through /v1 costs the web process at most {_AIMED_RATIO:g} times the proxy"
    return table, Aim(wanted, f"{ratio:.2f} times", ratio <= _AIMED_RATIO)
