"""The producer's hold on the process in which llama.cpp runs: started, asked, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from producers.backend import BackendFailed, OutOfMemory, Resident
from producers.llama.exchange import answer_of, events_of
from producers.llama.footprint import LoadPlan
from producers.llama.server import LoadReport, Order
from producers.servers.faults import one_line
from runtime.socket_folder import new_socket_folder, socket_folders

_FOLDER_NAME, _SOCKET_NAME = "llama", "llama.sock"
_KEPT_WORDS_BYTES = 8_192
_MAX_REPORT_BYTES = 4_096
_MAX_REASON_CHARS = 200
# A killed process is gone in no time, but for one that the system still frees gigabytes of.
_REAP_S = 10.0
# A process that breaks closes its socket first.
_DYING_S = 2.0
_NO_MEMORY = (
    "failed to allocate",
    "unable to allocate",
    "insufficient memory",
    "out of memory",
    "MemoryError",
    "bad_alloc",
)
# A line of its log: the time, E for an error, who says it.
_LOGGED = re.compile(r"[\d.]+ E +(.*)")
_LOADING = "error loading model: "


class LlamaChild:
    """One loaded model. `start` it, `ask` it, `stop` it; it is never started twice."""

    def __init__(self, model: str, path: str, slots: int, threads: int) -> None:
        self._model, self._path, self._slots, self._threads = model, path, slots, threads
        self._folder = ""
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._words = bytearray()
        self._report: LoadReport | None = None
        self._is_stopped = False

    @property
    def is_running(self) -> bool:
        return self._report is not None and self._process is not None and self._process.returncode is None

    @property
    def context_tokens(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return self._report.plan.footprint.context_tokens if self._report else 0

    @property
    def socket(self) -> str:
        return f"{self._folder}/{_SOCKET_NAME}"

    async def start(self) -> None:
        """Returns when the model is loaded. Raises OutOfMemory, BackendFailed."""
        try:
            report = await self._started()
            if report is None:
                raise load_failure(self._model, *await self._last_words(_REAP_S))
            if not report.plan.fits:
                raise self._too_large(report.plan)
            self._report = report
        except BaseException:
            await self.stop()
            raise

    async def ask(self, path: str, question: object | None = None) -> bytes:
        """Raises ServerFault with the server's own words; BackendFailed where it is no more."""
        try:
            return await answer_of(self.socket, path, question)
        except OSError as error:
            failure = await self._failure(error)
        raise failure

    async def stream(self, path: str, question: object) -> AsyncGenerator[bytes, None]:
        """The data of each event of the answer. Raises as ask()."""
        try:
            async with contextlib.aclosing(events_of(self.socket, path, question)) as events:
                async for event in events:
                    yield event
            return
        except OSError as error:
            failure = await self._failure(error)
        raise failure

    def resident(self) -> Resident:
        """The memory it takes. What was reckoned counts, until it has more to itself: weights come in as they are
        used."""
        if self._report is None or self._process is None:
            raise RuntimeError("start() comes before resident()")
        own_bytes = _own_memory_bytes(self._process.pid)
        vram_bytes = self._report.vram_bytes
        return Resident(
            self._model,
            own_bytes if vram_bytes else max(self._report.plan.footprint.model_bytes, own_bytes),
            vram_bytes,
        )

    async def stop(self) -> None:
        """Ends it, whatever it does; says nothing where it has ended."""
        process, self._report, self._is_stopped = self._process, None, True
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _REAP_S)
        if self._listening is not None:
            self._listening.cancel()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _failure(self, error: OSError) -> BackendFailed:
        """Why it cannot be asked. One that broke off is stopped: it can be loaded again."""
        if not isinstance(error, ConnectionError | FileNotFoundError):
            return BackendFailed(f"{self._model} cannot be asked: {error.strerror or error}")
        sentence = f"{self._model} broke off: {_reason(*await self._last_words(_DYING_S))}"
        await self.stop()
        return BackendFailed(sentence)

    async def _started(self) -> LoadReport | None:
        """What it reports; None where it ends without a report."""
        # Open to this user alone, as mkdtemp makes it: no port, and nobody else's door.
        self._folder = _socket_folder()
        order = Order(self._path, self.socket, self._slots, os.getpid(), self._threads)
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "producers.llama.server", msgspec.json.encode(order).decode()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_REPORT_BYTES,
            # A Ctrl-C in the terminal is the council's business.
            start_new_session=True,
        )
        if self._is_stopped:
            raise BackendFailed(f"{self._model} was stopped while it was loaded")
        assert process.stdout is not None
        assert process.stderr is not None
        self._listening = asyncio.create_task(self._listen(process.stderr))
        try:
            return msgspec.json.decode(await process.stdout.readline(), type=LoadReport)
        except (ValueError, msgspec.MsgspecError):
            return None

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        """Keeps the last of what it says, and lets it say more."""
        while words := await stderr.read(_KEPT_WORDS_BYTES):
            self._words += words
            del self._words[:-_KEPT_WORDS_BYTES]

    def _too_large(self, plan: LoadPlan) -> OutOfMemory:
        taken = plan.footprint
        return OutOfMemory(
            f"{self._model} needs {_gb(taken.needed_bytes)} of memory ({_gb(taken.weights_bytes)} of weights, "
            f"{_gb(taken.contexts_bytes)} for {self._slots} contexts of {taken.context_tokens} tokens), and "
            f"{_gb(plan.free_bytes or 0)} are free: close other programs, or name a smaller model"
        )

    async def _last_words(self, patience_s: float) -> tuple[int | None, list[str]]:
        """(exit code, the lines that it said) of a process that ends, or of one that does not."""
        if self._process is None or self._listening is None:
            return None, []
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), patience_s)
            await asyncio.wait_for(asyncio.shield(self._listening), patience_s)
        lines = self._words.decode("utf-8", "replace").splitlines()
        return self._process.returncode, [line.strip() for line in lines if line.strip()]


def load_failure(model: str, code: int | None, said: list[str]) -> BackendFailed:
    """Why a model was not loaded, in llama.cpp's words."""
    sentence = f"{model} cannot be loaded: {_reason(code, said)}"
    lacks_memory = code == -signal.SIGKILL or any(map(_is_about_memory, said))
    return OutOfMemory(sentence) if lacks_memory else BackendFailed(sentence)


def _reason(code: int | None, said: list[str]) -> str:
    """llama.cpp tells the reason first and what came of it after; Python does the reverse."""
    if code is not None and code < 0:
        return f"llama.cpp was ended by the system ({signal.strsignal(-code) or -code})"
    logged = [found[1] for line in said if (found := _LOGGED.match(line))]
    about_memory = [line for line in logged if _is_about_memory(line)]
    about_file = [line.partition(_LOADING)[2] for line in logged if _LOADING in line]
    if reasons := about_memory or about_file or logged:
        return f"llama.cpp says: {one_line(reasons[0], _MAX_REASON_CHARS)}"
    return one_line(said[-1], _MAX_REASON_CHARS) if said else "llama.cpp does not say why"


def _is_about_memory(line: str) -> bool:
    return any(words in line for words in _NO_MEMORY)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 10**9:.2f} GB"


def _own_memory_bytes(pid: int) -> int:
    """What the process shares with no file; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1_024 for line in lines if line.startswith("RssAnon:")), 0)


def _socket_folder() -> str:
    """A folder of this process's own. What processes left that died without a word is swept away."""
    for left in socket_folders(_FOLDER_NAME):
        pid = left.name.split("-")[-2]
        if pid.isdigit() and not _is_running(int(pid)):
            with contextlib.suppress(OSError):
                shutil.rmtree(left)
    return str(new_socket_folder(f"{_FOLDER_NAME}-{os.getpid()}"))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's
    return True
