"""What processes use, by the kernel's own books (/proc, so Linux only)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(msgspec.Struct, frozen=True):
    """CPU as a share of one core (1.0: all of it) over an interval; resident bytes at its end."""

    cpu: float
    rss_bytes: int


class UsageMeter:
    """Measures from its creation on, for these processes by name."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began_s = time.monotonic()
        self._before_s = {name: _cpu_s(pid) for name, pid in self._pids.items()}

    def cpu_s(self) -> dict[str, float]:
        """The CPU seconds that each has used since."""
        return {name: _cpu_s(pid) - self._before_s[name] for name, pid in self._pids.items()}

    def read(self) -> dict[str, Usage]:
        """What each has used since."""
        elapsed_s = time.monotonic() - self._began_s
        used_s = self.cpu_s()
        return {name: Usage(used_s[name] / elapsed_s, rss_bytes(pid)) for name, pid in self._pids.items()}


def _cpu_s(pid: int) -> float:
    """User and system time of all its threads (proc(5): fields 14 and 15 of stat; field 2 may hold blanks)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def rss_bytes(pid: int) -> int:
    """What a process holds of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
