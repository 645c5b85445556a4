"""CPU time and memory of processes, from /proc (Linux only)."""

from __future__ import annotations

import contextlib
import os
import re
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
    """Measures these processes, which have names, from its creation on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began_s = time.monotonic()
        self._before_s = {name: _cpu_s(pid) for name, pid in self._pids.items()}

    def cpu_s(self) -> dict[str, float]:
        """The CPU seconds of each since then."""
        return {name: _cpu_s(pid) - self._before_s[name] for name, pid in self._pids.items()}

    def read(self) -> dict[str, Usage]:
        """The usage of each since then."""
        elapsed_s = time.monotonic() - self._began_s
        used_s = self.cpu_s()
        return {name: Usage(used_s[name] / elapsed_s, rss_bytes(pid)) for name, pid in self._pids.items()}


def _cpu_s(pid: int) -> float:
    """User and system time of all its threads (proc(5): fields 14 and 15 of stat; field 2 may contain blanks)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


class Idle(msgspec.Struct, frozen=True):
    """An idle process: CPU as a share of one core, how often a thread woke, memory with its part of shared pages."""

    cpu: float
    wakes_per_s: float
    pss_bytes: int


class IdleMeter:
    """Measures these processes, which have names, from its creation on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._usage = UsageMeter(pids)
        self._began_s = time.monotonic()
        self._before = {name: _wakes(pid) for name, pid in self._pids.items()}

    def read(self) -> dict[str, Idle]:
        """The usage of each since then. Raises OSError where one has ended."""
        elapsed_s, usage = time.monotonic() - self._began_s, self._usage.read()
        return {
            name: Idle(usage[name].cpu, (_wakes(pid) - self._before[name]) / elapsed_s, _pss_bytes(pid))
            for name, pid in self._pids.items()
        }


def _wakes(pid: int) -> int:
    """Voluntary context switches: how often its threads began to wait."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(found[1]) for text in statuses if (found := re.search(r"^voluntary\w+:\s+(\d+)", text, re.M)))


def _pss_bytes(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def family(root: int) -> dict[str, int]:
    """The pid of a process and of each of its descendants, by the name of the program."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return {_name(pid): pid for pid in found}


def _name(pid: int) -> str:
    """The module of a Python process, and a producer's model, its last argument; else the program."""
    program, *words = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    if "-m" not in words:
        return Path(program.split()[0]).name
    module = words[words.index("-m") + 1]
    return f"{module} {words[-1]}" if module == "producers" else module
