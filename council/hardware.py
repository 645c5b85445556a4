"""The memory of this machine, and of its graphics cards where they tell it cheaply."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import msgspec

_MIB = 2**20
# The tool takes 20 ms to 1 s; a driver that hangs takes it along.
_NVIDIA_S = 2.0


class Memory(msgspec.Struct, frozen=True):
    """Bytes. `limit_bytes` is what this process and its neighbours in a container may take; 0 where nothing is
    told."""

    total_bytes: int
    available_bytes: int = 0
    limit_bytes: int = 0


class Card(msgspec.Struct, frozen=True):
    """A graphics card and its own memory, in bytes."""

    name: str
    total_bytes: int
    free_bytes: int


def read_memory() -> Memory:
    """What the system says now."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = cgroup = ""
    with contextlib.suppress(OSError):
        meminfo = Path("/proc/meminfo").read_text()
    with contextlib.suppress(OSError):
        cgroup = Path("/proc/self/cgroup").read_text()
    limits = [_limit_in(path) for path in limit_files(cgroup)]
    return Memory(total, available_bytes(meminfo), min((limit for limit in limits if 0 < limit < total), default=0))


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


def read_cards() -> tuple[Card, ...]:
    """The graphics cards that have memory of their own; none where the system does not tell."""
    return nvidia_cards(_asked_nvidia()) + amd_cards(Path("/sys/class/drm"))


def _asked_nvidia() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        return subprocess.run(
            [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_NVIDIA_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""


def nvidia_cards(table: str) -> tuple[Card, ...]:
    """The cards in nvidia-smi's table of name, total and free MiB; lines that are none are left out."""
    rows = csv.reader(table.splitlines(), skipinitialspace=True)
    return tuple(
        Card(row[0], int(row[1]) * _MIB, int(row[2]) * _MIB)
        for row in rows
        if len(row) == 3 and row[1].strip().isdecimal() and row[2].strip().isdecimal()
    )


def amd_cards(drm: Path) -> tuple[Card, ...]:
    """The cards whose driver (amdgpu) shows their memory in /sys/class/drm."""
    found = []
    for total_file in sorted(drm.glob("card*/device/mem_info_vram_total")):
        total, used = _limit_in(total_file), _limit_in(total_file.with_name("mem_info_vram_used"))
        if total:
            found.append(Card(f"AMD {total_file.parent.parent.name}", total, max(0, total - used)))
    return tuple(found)
