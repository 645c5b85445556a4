"""Stub until the store branch is merged."""

import os
from pathlib import Path


def stored_path(name: str) -> Path | None:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "council" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return path if name == "smollm2" and path.is_file() else None
