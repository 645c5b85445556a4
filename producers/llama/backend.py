"""A GGUF file as a backend: llama.cpp, run by this producer, a stretch of tokens at a time.

    anext() ──▶ a request, its context cached ──▶ some decodes ──▶ Chunk
    anext() ─────────────────────────────────────────────────────▶ Chunk     already computed
                                              no anext(): the stretch is computed to its end, and nothing after it

llama.cpp's own stream runs ahead of its reader, to the end of the answer. Here a few tokens are requested when the
first of them is needed, after all tokens before it (`stretch.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import sys
from collections.abc import AsyncGenerator, Sequence

from producers.backend import BackendFailed, Chunk, Ending, ModelLoading, ModelWaiting, Request, Resident
from producers.llama.answer import answer_to
from producers.llama.child import LlamaChild
from producers.llama.file import gguf_facts
from producers.llama.model import LlamaModel
from producers.servers.token_prompt import Prompt, prompt_of
from producers.source import ModelSource
from schemas.errors import Refused
from schemas.models import ModelFacts

# Two sessions at once; each slot has a context of its own, which costs memory.
DEFAULT_SLOTS = 2
# GCC's OpenMP runtime: the wheels for Linux need it and do not contain it, and minimal systems lack it.
_OPENMP = "libgomp.so.1"


def require_llama(model: str) -> None:
    """Raises Refused, with what to do, where llama.cpp cannot run here."""
    if trouble := llama_trouble():
        raise Refused("no_llama", f"{model!r} needs llama.cpp. {trouble}")


def llama_trouble() -> str | None:
    """Why llama.cpp cannot run here and what to do, as "reason: advice."; None where it can. Does not import it."""
    if not hasattr(asyncio, "open_unix_connection"):
        return "This system has no Unix sockets: use Linux or macOS."
    # Only looked for: importing it loads a hundred megabytes.
    if importlib.util.find_spec("xllamacpp") is None:
        return f"The package xllamacpp is not installed: {sys.executable} -m pip install xllamacpp."
    if sys.platform == "linux" and not _can_load(_OPENMP):
        return f"The system's library {_OPENMP} is missing: install it (Debian and Ubuntu: apt install libgomp1)."
    return None


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class LlamaBackend:
    """One model, and the memory into which it is loaded: a process of its own (`server.py` has the reason)."""

    # Except the rest of a stretch, which is kept.
    pauses = True

    def __init__(self, model: str, source: ModelSource) -> None:
        """Raises Refused for a file that cannot be a model, and where llama.cpp is not installed."""
        require_llama(model)
        self._file = gguf_facts(source.path)
        self._model = model
        self._slots, self._threads = source.parallel or DEFAULT_SLOTS, source.threads
        # Slots that no answer uses, in the order in which these ended; and the tokens in the cache of each slot.
        self._free = list(range(self._slots))
        self._held: list[list[int]] = [[] for _ in self._free]
        self._permits, self._answering = asyncio.Semaphore(self._slots), 0
        self._parts: dict[int, bytes] = {}
        self._one_at_a_time = asyncio.Lock()
        self._child: LlamaChild | None = None
        self._loaded: LlamaModel | None = None

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(
            self._model,
            size_bytes=self._file.size_bytes,
            digest=self._file.digest,
            slots=self._slots,
            pauses=True,
            continues="yes",
        )

    @property
    def residence(self) -> LlamaBackend:
        return self

    @property
    def child(self) -> LlamaChild | None:
        """The process in which the model is loaded; None where it is not."""
        return self._child if self._child and self._child.is_running else None

    async def start(self) -> None:
        """Loads nothing: load() does, or the first request."""

    async def residents(self) -> tuple[Resident, ...]:
        return (self.child.resident(),) if self.child else ()

    async def load(self) -> None:
        async with self._one_at_a_time:
            if self.child:
                return
            await self._end_child()
            self._child = LlamaChild(self._model, self._file.path, self._slots, self._threads)
            await self._child.start()
            self._loaded = LlamaModel(self._model, self._child, self._file.vocabulary, self._parts)

    async def unload(self, model: str) -> None:
        """Raises BackendFailed for a model that is answering: it stays."""
        if model != self._model:
            return
        async with self._one_at_a_time:
            if self.child and self._answering:
                raise BackendFailed(f"{model} is answering {self._answering} request(s): unload it after them")
            await self._end_child()

    async def close(self) -> None:
        """Ends the process, whatever it does."""
        await self._end_child()

    async def _end_child(self) -> None:
        child, self._child, self._loaded = self._child, None, None
        if child:
            await child.stop()

    async def generate(self, request: Request) -> AsyncGenerator[Chunk | ModelLoading | ModelWaiting | Ending, None]:
        """Loads the model where it is not in memory. Raises BackendFailed, OutOfMemory."""
        if self._permits.locked():
            yield ModelWaiting()
        async with self._permits:
            self._answering += 1
            try:
                if not self.child:
                    yield ModelLoading()
                    await self.load()
                if not self._loaded:
                    raise BackendFailed(f"{self._model} was stopped")
                async with contextlib.aclosing(self._answer(request, self._loaded)) as items:
                    async for item in items:
                        yield item
            finally:
                self._answering -= 1

    async def _answer(self, request: Request, model: LlamaModel) -> AsyncGenerator[Chunk | Ending, None]:
        prompt = await prompt_of(request, model)
        slot = self._slot_for(prompt)
        self._free.remove(slot)
        try:
            async with contextlib.aclosing(
                answer_to(request, prompt, slot, self._held[slot], model, self._model)
            ) as items:
                async for item in items:
                    yield item
        finally:
            self._free.append(slot)

    def _slot_for(self, prompt: Prompt) -> int:
        """The free slot that has the most of the prompt in its cache, where the cache is used; else the slot that was
        unused longest."""
        if not prompt.continues:
            return self._free[0]
        return max(self._free, key=lambda slot: _same_start(self._held[slot], prompt.tokens))


def _same_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
