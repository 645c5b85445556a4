"""The memory of this machine, and how much of it this process may use.

psutil reports the machine's memory. On Linux, control groups of version 1 or 2 may allow this process less: its own
group, and every group above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class MachineMemory(NamedTuple):
    """Bytes. `available_bytes` can be allocated now without swapping; file caches count as free. `limit_bytes` is the
    least limit of the control groups; 0 where none of them allows less than the machine has."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        """What the processes of this control group may use together: its limit, or all memory."""
        return self.limit_bytes or self.total_bytes


class _GroupFiles(NamedTuple):
    """Where a version of control groups is mounted, and its names of files and of file caches in memory.stat."""

    mount: str
    limit: str
    used: str
    caches: tuple[str, str]


_V1 = _GroupFiles(
    "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)  # fmt: skip
_V2 = _GroupFiles("sys/fs/cgroup", "memory.max", "memory.current", ("active_file", "inactive_file"))


def read_memory(root: Path = Path("/")) -> MachineMemory:
    """The memory at this moment. `root` is the folder that contains proc and sys, with the control groups."""
    import psutil  # most processes never ask, and it takes 1.2 MB

    machine = psutil.virtual_memory()
    available, limits = machine.available, []
    for folder, files in _groups(root):
        limit, used = _number(folder / files.limit), _number(folder / files.used)
        if limit is None or limit >= machine.total:
            continue
        limits.append(limit)
        if used is not None:
            caches = [value for name, value in _pairs(folder / "memory.stat") if name in files.caches]
            available = min(available, max(limit - used + sum(caches), 0))
    return MachineMemory(machine.total, min(available, *limits, machine.total), min(limits, default=0))


def _groups(root: Path) -> Iterator[tuple[Path, _GroupFiles]]:
    """The folders of this process's groups that count memory, and of all groups above them.

    In a container the path may be the host's, which does not exist here; the container's limit is then at the mount.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            files = _V1
        elif number == "0" and not controllers:
            files = _V2
        else:
            continue
        # "..": the group is outside the container, and its folder cannot be reached from here.
        own = PurePosixPath("/" if ".." in path else path)
        for group in (own, *own.parents):
            yield root / files.mount / str(group).lstrip("/"), files


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    for line in _lines(path):
        name, _, number = line.partition(" ")
        if number.isdecimal():
            yield name, int(number)


def _number(path: Path) -> int | None:
    """The number in the file; None where there is no file, or no number in it ("max")."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
