"""A real model server for the tests: llama.cpp's own, with a model that is built here in a second or two."""

from __future__ import annotations

import pytest

from producers.llama.backend import llama_trouble

TROUBLE = llama_trouble()
needs_llama = pytest.mark.skipif(TROUBLE is not None, reason=TROUBLE or "")


def skip_without_llama() -> None:
    """For fixtures: leaves out the test where llama.cpp cannot run."""
    if TROUBLE:
        pytest.skip(TROUBLE)
