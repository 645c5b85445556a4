"""The scheduler of the test server, as Ollama's: which models exist, which are in memory, how long, and what waits.

    request --> loaded? --yes--> a slot of its runner: OLLAMA_NUM_PARALLEL answers at once
                   |
                   no --> the queue (OLLAMA_MAX_QUEUE, else "server busy")
                            --> room for one more (OLLAMA_MAX_LOADED_MODELS, memory)? load it
                            --> no: the idle model with the shortest keep_alive is evicted; none idle: wait
                            --> no other model is there and it does not fit: "requires more system memory"

One load at a time; the queue waits for it. A model is unloaded when it was idle for its keep_alive. Tags of one file of
weights share one runner.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

CHAT_TEMPLATE = "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
FOR_EVER_S = (2**63 - 1) / 1e9
GB = 10**9
_HOURS = (timedelta(hours=hour) for hour in itertools.count())


@dataclass
class StoredModel:
    """A pulled model. Models with the same `weights` share the file; `behaves` names its fault."""

    name: str
    size_bytes: int = 1_300_000_000
    family: str = "llama"
    parameter_size: str = "1.2B"
    quantization: str = "Q4_K_M"
    template: str = CHAT_TEMPLATE
    capabilities: tuple[str, ...] = ("completion",)
    renderer: str = ""
    weights: str = ""
    on_gpu: float = 1.0
    has_draft: bool = False
    remote_host: str = ""
    behaves: str = ""
    # Ollama lists the latest first: the last one of the arguments.
    modified_at: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC) + next(_HOURS))

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"manifest of {self.name} {self.template}".encode()).hexdigest()

    @property
    def blob(self) -> str:
        return hashlib.sha256(f"weights of {self.weights or self.name}".encode()).hexdigest()

    @property
    def memory_bytes(self) -> int:
        """A model needs memory for its weights and its context."""
        return self.size_bytes + self.size_bytes // 10


@dataclass
class Limits:
    """Limits that a test may change at any time. `load_s` is the duration of a load."""

    memory_bytes: int = 64 * GB
    max_loaded: int = 3
    parallel: int = 1
    max_queue: int = 512
    load_s: float = 0.0
    tokens_per_s: float = 2_000.0
    keep_alive_s: float = 300.0


class NoRunner(Exception):
    """No runner for a request: Ollama's status and message for that."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Runner:
    """A model in memory. `users` are the requests that use it."""

    model: StoredModel
    loaded_with: dict[str, Any]
    keep_alive_s: float
    slots: asyncio.Semaphore
    loading: bool = True
    users: int = 0
    expires_at: datetime | None = None
    expiry: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Pending:
    model: StoredModel
    loaded_with: dict[str, Any]
    keep_alive_s: float | None
    granted: asyncio.Future[Runner]


class Books:
    """The scheduler. `may_load` is set; while a test has cleared it, no load ends."""

    def __init__(self, models: tuple[StoredModel, ...], limits: Limits) -> None:
        self.models = {model.name: model for model in models}
        self.limits = limits
        self.loaded: dict[str, Runner] = {}
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        # The model that is to be evicted, and is still in use.
        self.leaving = ""
        self.nothing_loads = asyncio.Event()
        self.nothing_loads.set()
        self._queue: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._at_work = False

    def stored(self, name: str) -> StoredModel | None:
        """The model with this name: with the tag or without, in upper or lower case."""
        name = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
        name = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        return next((model for model in self.models.values() if model.name.lower() == name), None)

    async def acquire(self, model: StoredModel, options: Mapping[str, Any], keep_alive_s: float | None) -> Runner:
        """A runner that is ready, in use until release(). Raises NoRunner."""
        loaded_with = {
            "num_ctx": options.get("num_ctx", 4096),
            "draft_num_predict": options.get("draft_num_predict", 4 if model.has_draft else 0),
        }
        runner = self.loaded.get(model.blob)
        if runner and not runner.loading and runner.loaded_with == loaded_with:
            self._use(runner, keep_alive_s)
            return runner
        if self._at_work and len(self._queue) >= self.limits.max_queue:
            raise NoRunner(503, "server busy, please try again.  maximum pending requests exceeded")
        pending = _Pending(model, loaded_with, keep_alive_s, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._at_work = True
        self._wake.set()
        try:
            return await pending.granted
        except asyncio.CancelledError:
            if pending.granted.done() and not pending.granted.cancelled() and not pending.granted.exception():
                self.release(pending.granted.result())
            raise

    def release(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users == 0:
            self._rest(runner)

    def expire(self, model: StoredModel) -> None:
        """Unloads the model as soon as it is not in use."""
        if runner := self.loaded.get(model.blob):
            runner.keep_alive_s = 0.0
            runner.expires_at = datetime.now(UTC)
            if runner.users == 0 and not runner.loading:
                self._rest(runner)

    def forget(self) -> None:
        """Unloads everything at once, as when the process ends."""
        for runner in self.loaded.values():
            if runner.expiry:
                runner.expiry.cancel()
        self.loaded.clear()

    async def schedule(self) -> None:
        """Serves the queue until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                pending = self._queue.popleft()
                try:
                    if not pending.granted.cancelled():
                        runner = await self._ready(pending)
                        self._use(runner, pending.keep_alive_s)
                        if pending.granted.cancelled():
                            self.release(runner)
                        else:
                            pending.granted.set_result(runner)
                except NoRunner as refusal:
                    if not pending.granted.cancelled():
                        pending.granted.set_exception(refusal)
            self._at_work = False

    def _use(self, runner: Runner, keep_alive_s: float | None) -> None:
        runner.users += 1
        if runner.expiry:
            runner.expiry.cancel()
            runner.expiry = None
        if keep_alive_s is not None:
            runner.keep_alive_s = keep_alive_s

    def _rest(self, runner: Runner) -> None:
        if runner.expiry:
            runner.expiry.cancel()
        if runner.keep_alive_s <= 0:
            self._unload(runner)
            return
        runner.expires_at = datetime.now(UTC) + timedelta(seconds=runner.keep_alive_s)
        if runner.keep_alive_s < FOR_EVER_S:
            runner.expiry = asyncio.get_running_loop().call_later(runner.keep_alive_s, self._unload, runner)

    def _unload(self, runner: Runner) -> None:
        if self.loaded.get(runner.model.blob) is runner:
            del self.loaded[runner.model.blob]
            self.unloads.append(runner.model.name)
        runner.gone.set()

    async def _ready(self, pending: _Pending) -> Runner:
        """The runner of the model, which is loaded when there is room. Raises NoRunner."""
        model, limits = pending.model, self.limits
        while True:
            runner = self.loaded.get(model.blob)
            if runner and runner.loaded_with == pending.loaded_with:
                return runner
            free = limits.memory_bytes - sum(other.model.memory_bytes for other in self.loaded.values())
            if runner:
                await self._leave(runner)
            elif self.loaded and (len(self.loaded) >= limits.max_loaded or model.memory_bytes > free):
                by_patience = sorted(self.loaded.values(), key=lambda other: (other.keep_alive_s, other.model.blob))
                await self._leave(next((other for other in by_patience if not other.users), by_patience[0]))
            elif model.memory_bytes > free:
                needs, has = human_bytes(model.memory_bytes), human_bytes(max(0, free))
                raise NoRunner(500, f"model requires more system memory ({needs}) than is available ({has})")
            else:
                return await self._load(pending)

    async def _leave(self, runner: Runner) -> None:
        runner.keep_alive_s = 0.0
        if runner.users == 0:
            self._rest(runner)
        self.leaving = runner.model.name
        await runner.gone.wait()
        self.leaving = ""

    async def _load(self, pending: _Pending) -> Runner:
        limits, model = self.limits, pending.model
        keep_alive_s = limits.keep_alive_s if pending.keep_alive_s is None else pending.keep_alive_s
        runner = Runner(model, pending.loaded_with, keep_alive_s, asyncio.Semaphore(limits.parallel))
        self.loaded[model.blob] = runner
        self.nothing_loads.clear()
        try:
            await self.may_load.wait()
            await asyncio.sleep(limits.load_s)
        finally:
            self.nothing_loads.set()
        runner.loading = False
        self.loads.append(model.name)
        return runner


def keep_alive_seconds(value: object) -> float:
    """A keep_alive as Ollama reads it: a number of seconds, or a duration such as 10m or 1h30m. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if value >= 0 else FOR_EVER_S
    if not isinstance(value, str):
        raise ValueError(f"Unsupported type: '{type(value).__name__}'")
    if value.lstrip("+-") == "0":
        return 0.0
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", value):
        raise ValueError(f'time: missing unit in duration "{value}"')
    if not re.fullmatch(r"[-+]?(\d+(\.\d*)?(ns|us|ms|s|m|h))+", value):
        raise ValueError(f'time: invalid duration "{value}"')
    parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)", value)
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    return FOR_EVER_S if value.startswith("-") and seconds else seconds


def human_bytes(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
