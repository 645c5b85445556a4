"""The memory that this machine has, and what of it this process may take."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

import msgspec


class MachineMemory(msgspec.Struct, frozen=True):
    """Bytes. `limit_bytes` is what this process and its neighbours in a container may take; 0 where nothing is
    told."""

    total_bytes: int
    available_bytes: int = 0
    limit_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """What this process and its neighbours may take together: the container's limit, or all there is."""
        return self.limit_bytes or self.total_bytes


def read_memory() -> MachineMemory:
    """What the system says now."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = cgroup = ""
    with contextlib.suppress(OSError):
        meminfo = Path("/proc/meminfo").read_text()
    with contextlib.suppress(OSError):
        cgroup = Path("/proc/self/cgroup").read_text()
    limits = [_limit_in(path) for path in limit_files(cgroup)]
    return MachineMemory(
        total, available_bytes(meminfo), min((limit for limit in limits if 0 < limit < total), default=0)
    )


def available_bytes(meminfo: str) -> int:
    """What /proc/meminfo says that new programs can have without swapping; 0 where it does not say."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()
        if name == "MemAvailable" and amount and amount[0].isdigit():
            return int(amount[0]) * 1024
    return 0


def limit_files(cgroup: str) -> list[Path]:
    """Where the limits of a process stand, by its /proc/self/cgroup: its own group's and those of the groups above."""
    roots = [Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    for line in cgroup.splitlines():
        number, _, path = line.partition("::")
        if number == "0" and path.startswith("/"):
            own = PurePosixPath(path.lstrip("/"))
            roots += [Path("/sys/fs/cgroup", group, "memory.max") for group in (own, *own.parents)]
    return roots


def _limit_in(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
