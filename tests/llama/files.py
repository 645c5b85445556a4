"""Real model files that may be on this machine: nothing is downloaded for a test or a benchmark."""

from __future__ import annotations

import os
from pathlib import Path

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    """Where the council keeps SmolLM2, whether it is there or not."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "council" / "models" / SMOLLM2
