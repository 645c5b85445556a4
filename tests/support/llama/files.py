"""Real model files that may be on this machine: nothing is downloaded for a test or a benchmark."""

from __future__ import annotations

from pathlib import Path

from council.models.store import MODELS, models_folder

SMOLLM2 = MODELS["smollm2"]


def smollm2_path() -> Path:
    """The path at which the council keeps SmolLM2; the file may be missing."""
    return (models_folder() or Path("/")) / SMOLLM2.file
