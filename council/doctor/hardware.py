"""The memory of this machine's graphics cards, where it can be read quickly."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import msgspec

_MIB = 2**20
# nvidia-smi takes 20 ms to 1 s; it hangs where the driver hangs.
_NVIDIA_S = 2.0


class Card(msgspec.Struct, frozen=True):
    """A graphics card and its own memory, in bytes."""

    name: str
    total_bytes: int
    free_bytes: int


def read_cards() -> tuple[Card, ...]:
    """The graphics cards with memory of their own; empty where the system does not report it."""
    return nvidia_cards(_nvidia_table()) + amd_cards(Path("/sys/class/drm"))


def _nvidia_table() -> str:
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
    """The cards in nvidia-smi's table of name, total and free MiB; invalid lines are ignored."""
    rows = csv.reader(table.splitlines(), skipinitialspace=True)
    return tuple(
        Card(row[0], int(row[1]) * _MIB, int(row[2]) * _MIB)
        for row in rows
        if len(row) == 3 and row[1].strip().isdecimal() and row[2].strip().isdecimal()
    )


def _bytes_in(path: Path) -> int:
    """The number in a file of /sys; 0 if there is no number."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def amd_cards(drm: Path) -> tuple[Card, ...]:
    """The cards whose driver (amdgpu) reports their memory in /sys/class/drm."""
    found = []
    for total_file in sorted(drm.glob("card*/device/mem_info_vram_total")):
        total, used = _bytes_in(total_file), _bytes_in(total_file.with_name("mem_info_vram_used"))
        if total:
            found.append(Card(f"AMD {total_file.parent.parent.name}", total, max(0, total - used)))
    return tuple(found)
