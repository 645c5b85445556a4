"""The progress of a long command: a bar on standard error, if that is a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A shorter command shows no bar.
_SHOWN_AFTER_S = 0.7


@contextlib.contextmanager
def progress_of(path: Path, words: str) -> Iterator[Callable[[int], None] | None]:
    """A function for the number of bytes that were read; None where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(path, words)
    try:
        yield bar.set
    finally:
        bar.end()


class _Bar:
    """A bar that appears if the work takes long."""

    def __init__(self, path: Path, words: str) -> None:
        self._path, self._words = path, words
        self._due = time.monotonic() + _SHOWN_AFTER_S
        self._shown: Any = None
        self._task: Any = None
        self._at = -1

    def set(self, at_bytes: int) -> None:
        if at_bytes == self._at:
            return
        self._at = at_bytes
        if self._shown is None and time.monotonic() >= self._due:
            from rich.console import Console  # imported here: most commands end before
            from rich.progress import Progress

            self._shown = Progress(console=Console(stderr=True), transient=True)
            self._task = self._shown.add_task(self._words, total=max(1, self._path.stat().st_size))
            self._shown.start()
        if self._shown is not None:
            self._shown.update(self._task, completed=at_bytes)

    def end(self) -> None:
        if self._shown is not None:
            self._shown.stop()
