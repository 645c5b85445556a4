"""Locks on files that other processes may remove or replace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


def is_at(file: IO[bytes] | IO[str], path: Path) -> bool:
    """True while `path` is the path of this open file. To be checked after each flock(): the lock on a file that was
    removed or replaced in the meantime protects nothing."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
