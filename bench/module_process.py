"""Writers, readers and clients of a benchmark: modules that run in a process of their own, apart from what is measured.

with module_process("bench.bare_writer", url, "200", "600") as writer:
    writer.line()                    "ready", or another first line
    ...
    output = writer.end()            closes its standard input, at which it ends; what it printed since
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

READY = "ready"
_END_S = 20.0


class ModuleProcess:
    """A running module, with pipes to its standard input and output."""

    def __init__(self, module: str, process: subprocess.Popen[bytes]) -> None:
        self._module, self._process = module, process
        self.pid = process.pid

    def line(self) -> str:
        """The next line that it prints. Raises RuntimeError where it ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended early, with exit code {self._process.wait(_END_S)}")
        return line.decode().strip()

    def end(self) -> bytes:
        """Closes its standard input; the rest of its output. Raises subprocess.TimeoutExpired after 20 s."""
        output, _ = self._process.communicate(timeout=_END_S)
        return output


@contextmanager
def module_process(module: str, *arguments: str, given: bytes = b"") -> Iterator[ModuleProcess]:
    """`python -m MODULE ARGUMENTS`, with the line `given` on its standard input. It is killed when the context ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        try:
            if given:
                assert process.stdin is not None
                process.stdin.write(given + b"\n")
                process.stdin.flush()
            yield ModuleProcess(module, process)
        finally:
            process.kill()
