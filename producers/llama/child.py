"""The process in which llama.cpp runs, as its producer uses it: start, request, end."""

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
from producers.servers.faults import MAX_MESSAGE_CHARS, one_line
from runtime.socket_folder import new_socket_folder, socket_folders

_FOLDER_NAME, _SOCKET_NAME = "llama", "llama.sock"
_KEPT_LOG_BYTES = 8_192
_MAX_REPORT_BYTES = 4_096
# A killed process ends at once, unless the system has to free gigabytes of its memory.
_REAP_S = 10.0
# A process that crashes closes its socket first.
_DYING_S = 2.0
_NO_MEMORY = (
    "failed to allocate",
    "unable to allocate",
    "insufficient memory",
    "out of memory",
    "MemoryError",
    "bad_alloc",
)
# A line of its log: the time, E for an error, the function that reports it.
_LOGGED = re.compile(r"[\d.]+ E +(.*)")
_LOADING = "error loading model: "


class LlamaChild:
    """One loaded model. start() is called once."""

    def __init__(self, model: str, path: str, slots: int, threads: int) -> None:
        self._model, self._path, self._slots, self._threads = model, path, slots, threads
        self._folder = ""
        self._process: asyncio.subprocess.Process | None = None
        self._log_reader: asyncio.Task[None] | None = None
        self._log = bytearray()
        self._report: LoadReport | None = None
        self._is_stopped = False

    @property
    def is_running(self) -> bool:
        return self._report is not None and self._process is not None and self._process.returncode is None

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self._report.plan.footprint.context_tokens if self._report else 0

    @property
    def socket(self) -> str:
        return f"{self._folder}/{_SOCKET_NAME}"

    async def start(self) -> None:
        """Returns when the model is loaded. Raises OutOfMemory, BackendFailed."""
        try:
            report = await self._started()
            if report is None:
                raise load_failure(self._model, *await self._end_of_log(_REAP_S))
            if not report.plan.fits:
                raise self._too_large(report.plan)
            self._report = report
        except BaseException:
            await self.stop()
            raise

    async def ask(self, path: str, question: object | None = None) -> bytes:
        """The body of the answer. Raises ServerFault with the server's message; BackendFailed where it has ended."""
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
        """The memory that it takes: the planned number, until the process has more of its own. Weights come into memory
        as they are used."""
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
        """Ends it, whatever it does. It may have ended before."""
        process, self._report, self._is_stopped = self._process, None, True
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _REAP_S)
        if self._log_reader is not None:
            self._log_reader.cancel()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _failure(self, error: OSError) -> BackendFailed:
        """Why a request failed. A process that crashed is stopped, so that the model can be loaded again."""
        if not isinstance(error, ConnectionError | FileNotFoundError):
            return BackendFailed(f"{self._model} cannot be used: {error.strerror or error}")
        sentence = f"{self._model} stopped unexpectedly: {_reason(*await self._end_of_log(_DYING_S))}"
        await self.stop()
        return BackendFailed(sentence)

    async def _started(self) -> LoadReport | None:
        """Its report; None where it ends without one."""
        # Accessible to this user alone, as mkdtemp makes it, and without a port.
        self._folder = _socket_folder()
        order = Order(self._path, self.socket, self._slots, os.getpid(), self._threads)
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "producers.llama.server", msgspec.json.encode(order).decode()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_REPORT_BYTES,
            # Ctrl-C in the terminal is for the supervisor.
            start_new_session=True,
        )
        if self._is_stopped:
            raise BackendFailed(f"{self._model} was stopped while it was loaded")
        assert process.stdout is not None
        assert process.stderr is not None
        self._log_reader = asyncio.create_task(self._read_log(process.stderr))
        try:
            return msgspec.json.decode(await process.stdout.readline(), type=LoadReport)
        except (ValueError, msgspec.MsgspecError):
            return None

    async def _read_log(self, stderr: asyncio.StreamReader) -> None:
        """Keeps the end of its log, and reads on, so that the pipe is never full."""
        while part := await stderr.read(_KEPT_LOG_BYTES):
            self._log += part
            del self._log[:-_KEPT_LOG_BYTES]

    def _too_large(self, plan: LoadPlan) -> OutOfMemory:
        taken = plan.footprint
        return OutOfMemory(
            f"{self._model} needs {_gb(taken.needed_bytes)} of memory ({_gb(taken.weights_bytes)} of weights, "
            f"{_gb(taken.contexts_bytes)} for {self._slots} contexts of {taken.context_tokens} tokens), and "
            f"{_gb(plan.free_bytes)} are free: close other programs, or name a smaller model"
        )

    async def _end_of_log(self, within_s: float) -> tuple[int | None, list[str]]:
        """(exit code, the last lines of its log) of a process that is ending; the code is None where it is not."""
        if self._process is None or self._log_reader is None:
            return None, []
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), within_s)
            await asyncio.wait_for(asyncio.shield(self._log_reader), within_s)
        lines = self._log.decode("utf-8", "replace").splitlines()
        return self._process.returncode, [line.strip() for line in lines if line.strip()]


def load_failure(model: str, code: int | None, log: list[str]) -> BackendFailed:
    """Why a model was not loaded, in llama.cpp's words."""
    sentence = f"{model} cannot be loaded: {_reason(code, log)}"
    lacks_memory = code == -signal.SIGKILL or any(map(_is_about_memory, log))
    return OutOfMemory(sentence) if lacks_memory else BackendFailed(sentence)


def _reason(code: int | None, log: list[str]) -> str:
    """llama.cpp logs the reason first and its consequences after; Python does the reverse."""
    if code is not None and code < 0:
        return f"the system ended llama.cpp ({signal.strsignal(-code) or -code})"
    logged = [found[1] for line in log if (found := _LOGGED.match(line))]
    about_memory = [line for line in logged if _is_about_memory(line)]
    about_file = [line.partition(_LOADING)[2] for line in logged if _LOADING in line]
    if reasons := about_memory or about_file or logged:
        return f"llama.cpp reports: {one_line(reasons[0], MAX_MESSAGE_CHARS)}"
    return one_line(log[-1], MAX_MESSAGE_CHARS) if log else "llama.cpp reports no reason"


def _is_about_memory(line: str) -> bool:
    return any(words in line for words in _NO_MEMORY)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 10**9:.2f} GB"


def _own_memory_bytes(pid: int) -> int:
    """The memory of the process that is not a file's; 0 where the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1_024 for line in lines if line.startswith("RssAnon:")), 0)


def _socket_folder() -> str:
    """A folder of this process's own. Removes the folders of processes that were killed."""
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
        pass  # another user's
    return True
