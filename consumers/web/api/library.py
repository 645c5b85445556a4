"""The library of recordings for the handlers. Files are read in threads, so that live clients do not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from recordings.folder import Library
from schemas.errors import Refused

T = TypeVar("T")
# Each occupies a core; the live sessions need the others.
_MOST_WHOLE_FILES = 2


class AsyncLibrary:
    """The recordings of one folder; one thread at a time uses its index."""

    def __init__(self, library: Library) -> None:
        self._library, self._lock = library, threading.Lock()
        self._whole_files = 0

    async def run(self, work: Callable[[Library], T]) -> T:
        """The result of `work`, which runs in a thread. Raises what `work` raises; Refused if the folder cannot be
        used."""
        return await asyncio.to_thread(self._locked, work)

    def _locked(self, work: Callable[[Library], T]) -> T:
        with self._lock:
            return work(self._library)

    async def path(self, name: str) -> Path:
        """The file of a recording. Raises Refused if it does not exist."""
        return await self.run(lambda library: library.path(name))

    async def read_whole(self, work: Callable[[], T]) -> T:
        """The result of `work`, which reads a whole file in a thread. Raises Refused if too many are being read."""
        if self._whole_files >= _MOST_WHOLE_FILES:
            raise Refused(
                "library_busy", f"{_MOST_WHOLE_FILES} recordings are being read already: try again in a moment.",
                status=503,
            )  # fmt: skip
        self._whole_files += 1
        try:
            return await asyncio.to_thread(work)
        finally:
            self._whole_files -= 1
