"""A running `council up` with a temporary folder of its own, and the processes of this machine."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import msgspec

from tests.support.council_command import COUNCIL, council, environment
from tests.support.waiting import wait_until

MODELS = "ngram:word-3,ngram:char-6"


class Up:
    """A running `council up`. `folder` is its temporary folder and its working directory."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        default_models: bool = False,
        default_port: bool = False,
        tokens_per_s: int = 20,
        **variables: str,
    ) -> None:
        self.folder = folder
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        self.environment = environment(TMPDIR=str(folder), COUNCIL_NGRAM_TOKENS_PER_S=str(tokens_per_s), **variables)
        models = [] if "--models" in arguments or default_models else ["--models", MODELS]
        self.process = subprocess.Popen(
            [*COUNCIL, "up", "--no-open", *([] if default_port else ["--port", "0"]), *models, *arguments],
            env=self.environment, stdin=subprocess.DEVNULL, stderr=self._stderr, cwd=folder,
        )  # fmt: skip
        wait_until(self._is_ready, "the council is ready", 60)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.text()
        return "Open http" in self.text()

    def text(self) -> str:
        """Its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    @property
    def address(self) -> str:
        return self.text().partition("Open ")[2].split()[0].rstrip(",")

    def status(self) -> dict[str, Any]:
        outcome = council("status", "--json", TMPDIR=str(self.folder))
        assert outcome.code == 0, outcome.said
        status: dict[str, Any] = msgspec.json.decode(outcome.out)
        return status

    def pids(self, role: str = "") -> list[int]:
        return [found["pid"] for found in self.status()["processes"] if not role or found["role"] == role]

    def family(self) -> set[int]:
        """The process ids of the supervisor and all its descendants, with Redis and its keeper."""
        found = {self.process.pid}
        while True:
            more = {pid for pid, parent in parents().items() if parent in found} - found
            if not more:
                return found
            found |= more

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self._stderr.close()


def parents() -> dict[int, int]:
    """The parent's process id by that of each process that is not a zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(entry.name)] = int(fields[1])
    return found


def command_of(pid: int) -> str:
    """The command line of a process, empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
