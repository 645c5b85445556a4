"""Which backend serves a model."""

from __future__ import annotations

import math

from producers.backend import Backend
from producers.ngram.backend import NgramBackend
from producers.source import ModelSource
from schemas.errors import Refused


def backend_for(model: str, source: ModelSource, tokens_per_s: float | None = None, process: str = "") -> Backend:
    """The backend of `source`, for the model with this name in the council, in the producer process with the name
    `process`. Raises Refused."""
    if tokens_per_s is not None and not (math.isfinite(tokens_per_s) and tokens_per_s > 0):
        raise Refused("bad_pace", f"--tokens-per-s is {tokens_per_s:g}: give a number above 0.")
    # A process serves one model, and needs the libraries of that model's backend only.
    match source.api:
        case "ngram":
            return NgramBackend(model, tokens_per_s)
        case "gguf":
            from producers.llama.backend import LlamaBackend

            return LlamaBackend(model, source)
        case "ollama":
            from producers.ollama.backend import OllamaBackend

            return OllamaBackend(model, source)
        case "openai":
            from producers.openai.backend import OpenAIBackend

            return OpenAIBackend(model, source, process=process)
