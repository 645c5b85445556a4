"""`python -m producers.llama.server ORDER`: llama.cpp's own server for one model, on a unix socket of its producer.

It is a process of its own because llama.cpp's bindings keep Python's lock while they load: 16 s for a file of 3 GB, in
which a producer could write no sign of life. So a model also leaves memory completely, and a crash ends only its own
process.

    producer ──stdin──▶ its end ends the server, however the producer ended
             ◀─stdout── one line of JSON, a LoadReport, when the model is loaded, or does not fit
             ◀─stderr── llama.cpp's log of what went wrong
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from producers.llama.file import gguf_facts
from producers.llama.footprint import LoadPlan, plan_for
from producers.llama.threads import threads_for, usable_cpus
from runtime.lifeline import die_with_parent
from runtime.memory import read_memory
from schemas.errors import Refused

if TYPE_CHECKING:
    from xllamacpp import CommonParams

# What is computed in one go, and cannot be cancelled: some seconds at most. On a CPU more makes no prompt faster.
BATCH_TOKENS = 256
_ONLY_ERRORS = 1


class Order(msgspec.Struct, frozen=True):
    """What to serve and where; the server removes the socket's folder. `threads` is 0 for as many as a model uses that
    is alone on this machine."""

    path: str
    socket: str
    slots: int
    producer_pid: int
    threads: int = 0


class LoadReport(msgspec.Struct, frozen=True):
    """The model is loaded as planned, or the plan does not fit."""

    plan: LoadPlan
    vram_bytes: int = 0


def main() -> int:
    """Serves until standard input ends; returns the exit code where the model is not loaded."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    # While llama.cpp loads, no thread of this process can read standard input.
    die_with_parent()
    if os.getppid() != order.producer_pid:
        return 1
    import xllamacpp

    try:
        facts = gguf_facts(order.path)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    free_vram = _free_vram_bytes()
    plan = plan_for(facts, order.slots, read_memory().available_bytes, free_vram)
    if not plan.fits:
        _report(LoadReport(plan))
        return 1
    params = _params(order, plan)
    if free_vram and not plan.is_on_gpu:
        params.n_gpu_layers = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        # Another thread writes its log, which contains the reason: nothing else must be written in between.
        return 1
    _report(LoadReport(plan, max(free_vram - _free_vram_bytes(), 0)))
    # From here on the end of standard input ends the server, because it has a folder to remove.
    die_with_parent(0)
    while os.read(0, 4_096):
        pass
    shutil.rmtree(Path(order.socket).parent, ignore_errors=True)
    # At once: no result of what is being computed is needed. The server object must live until here.
    os._exit(int(server is None))


def _params(order: Order, plan: LoadPlan) -> CommonParams:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order.path
    params.hostnames = [order.socket]
    params.n_parallel = order.slots
    params.n_ctx = order.slots * plan.footprint.context_tokens
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order.threads or threads_for(usable_cpus(), 1)
    # Each slot sends one request at a time; the other threads are for looks at the server.
    params.n_threads_http = order.slots + 2
    params.fit_params = params.ui = params.warmup = False
    # Each slot has its own cache, which only its own answer fills: no sharing, no copies of old ones.
    params.kv_unified = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    # Models with a sliding window keep the whole cache, as `footprint.py` counts it, so that each stretch continues
    # where the last one ended. Otherwise everything is computed anew; with checkpoints, everything after the last one.
    params.swa_full = True
    params.n_ctx_checkpoints = 0
    params.endpoint_metrics = True
    params.verbosity = _ONLY_ERRORS
    return params


def _free_vram_bytes() -> int:
    import xllamacpp

    kinds = xllamacpp.ggml_backend_dev_type
    return sum(
        int(device["memory_free"])
        for device in xllamacpp.get_device_info()
        if device["type"] == kinds.GGML_BACKEND_DEVICE_TYPE_GPU
    )


def _report(report: LoadReport) -> None:
    os.write(1, msgspec.json.encode(report) + b"\n")
    # The producer reads no more of it: later output must not fill the pipe.
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)


if __name__ == "__main__":
    sys.exit(main())
