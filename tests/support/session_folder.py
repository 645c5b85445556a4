"""A folder for files that one test session builds once, such as models."""

from __future__ import annotations

from pathlib import Path

import pytest


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this test session share."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own
