"""Which backend serves a model."""

from __future__ import annotations

import math

from producers.backend import Backend
from producers.ngram.backend import NgramBackend
from producers.openai import OpenAIBackend
from schemas.errors import Refused


def backend_for(model: str, url: str | None, tokens_per_s: float | None = None) -> Backend:
    """The n-gram model of that name, or the model at the OpenAI-compatible server `url`. Raises Refused."""
    if tokens_per_s is not None and not (math.isfinite(tokens_per_s) and tokens_per_s > 0):
        raise Refused("bad_pace", f"--tokens-per-s is {tokens_per_s:g}: give a number above 0.")
    if model.startswith("ngram:"):
        return NgramBackend(model, tokens_per_s)
    if not url:
        raise Refused("no_backend", f"{model!r} is no n-gram model: name its server with --backend http://HOST:PORT.")
    return OpenAIBackend(model, url)
