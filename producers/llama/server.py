"""`python -m producers.llama.server ORDER`: llama.cpp's own server for one model, on a unix socket of its producer's.

It is a process of its own because llama.cpp's bindings keep Python's lock while they load: 16 s for a file of 3 GB, in
which a producer could give no sign of life. So a model also leaves memory whole, and takes nobody with it when it
breaks.

    producer ──stdin──▶ its end ends the server, however the producer went
             ◀─stdout── one line of JSON, a Report, when the model is loaded, or does not fit
             ◀─stderr── llama.cpp's words about what went wrong
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from producers.llama.footprint import LoadPlan, available_bytes, plan_for
from producers.llama.header import gguf_facts
from producers.llama.threads import threads_for, usable_cpus
from schemas.errors import Refused

if TYPE_CHECKING:
    from xllamacpp import CommonParams

_PR_SET_PDEATHSIG = 1
# What is computed in one go, and cannot be taken back: some seconds at most. More makes no prompt faster on a CPU.
BATCH_TOKENS = 256
_ONLY_ERRORS = 1


class Order(msgspec.Struct, frozen=True):
    """What to serve and where; the socket's folder is the server's to remove. `threads` is 0 for as many as a model
    uses that is alone on this machine."""

    path: str
    socket: str
    slots: int
    producer_pid: int
    threads: int = 0


class LoadReport(msgspec.Struct, frozen=True):
    """That the model is loaded as planned, or that the plan does not fit."""

    plan: LoadPlan
    vram_bytes: int = 0


def main() -> int:
    """Serves until standard input ends; the exit code where it does not come to that."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    _die_with_producer(signal.SIGKILL)
    if os.getppid() != order.producer_pid:
        return 1
    import xllamacpp

    try:
        facts = gguf_facts(order.path)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    free_vram = _free_vram_bytes()
    plan = plan_for(facts, order.slots, available_bytes(), free_vram)
    if not plan.fits:
        _report(LoadReport(plan))
        return 1
    params = _params(order, plan)
    if free_vram and not plan.is_on_gpu:
        params.n_gpu_layers = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        # Its log says more, and is written by another thread: nothing of ours must get in between.
        return 1
    _report(LoadReport(plan, max(free_vram - _free_vram_bytes(), 0)))
    # From here on the end of standard input is the signal: there is a folder to remove.
    _die_with_producer(0)
    while os.read(0, 4_096):
        pass
    shutil.rmtree(Path(order.socket).parent, ignore_errors=True)
    # Without another word: whatever is being computed is nobody's any more. The server lives until here.
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
    # Each slot asks one question at a time; the others are for a look at the server.
    params.n_threads_http = order.slots + 2
    params.fit_params = params.ui = params.warmup = False
    # Each slot has its own cache, which nothing but its own answer fills: no sharing, no copies of old ones.
    params.kv_unified = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    # Models with a sliding window keep the whole cache, as `footprint.py` counts it, so that each stretch goes on where
    # the last one ended. Without it all is computed anew; with checkpoints, all behind the last of these.
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
    # Nobody reads on: what else may be printed must not fill the pipe.
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)


def _die_with_producer(signal_number: int) -> None:
    """The signal that Linux sends when the producer dies; 0 for none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


if __name__ == "__main__":
    sys.exit(main())
