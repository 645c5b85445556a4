"""Where a model comes from: which kind of backend, at which server, under which name there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from schemas.models import ModelFacts

Api = Literal["ngram", "gguf", "openai", "ollama"]


class ModelSource(msgspec.Struct, frozen=True):
    """How to reach a model. `url` is its server's, `path` a GGUF file's; `name` is what the server calls it.

    `key_env` names the environment variable that holds the server's API key; the key itself stays there. `parallel`
    and `max_loaded` replace what the server says of itself (0: they do not). `keep_alive_s` is how long an idle model
    stays in Ollama's memory. `threads` is how many a GGUF file computes with (0: as many as one that is alone here).
    """

    api: Api
    name: str
    url: str = ""
    path: str = ""
    key_env: str = ""
    remote: bool = False
    parallel: int = 0
    max_loaded: int = 0
    keep_alive_s: int = 600
    threads: int = 0


def gguf_source(path: str | Path, parallel: int = 0, threads: int = 0) -> tuple[str, ModelSource]:
    """(the name of a GGUF file's model in the council, where it comes from): `gguf:` and the file's name."""
    file = Path(path).expanduser().absolute()
    name = f"gguf:{file.name.removesuffix('.gguf')}"
    return name, ModelSource("gguf", name, path=str(file), parallel=parallel, threads=threads)


def producer_arguments(model: str, source: ModelSource) -> list[str]:
    """The arguments with which `python -m producers` serves the model."""
    words: list[str] = []
    if source.url:
        words += ["--backend", source.url, "--api", source.api, "--name", source.name]
    for option, value in (
        ("--path", source.path),
        ("--key-env", source.key_env),
        ("--parallel", source.parallel),
        ("--max-loaded", source.max_loaded),
        ("--threads", source.threads),
    ):
        words += [option, str(value)] if value else []
    if source.api == "ollama":
        words += ["--keep-alive-s", str(source.keep_alive_s)]
    if source.url:
        words += ["--remote", "--allow-remote"] if source.remote else ["--no-remote"]
    return [*words, "--", model]


class Offer(msgspec.Struct, frozen=True):
    """A model that a server offers: what is known of it and how to reach it. `capabilities` in the server's words
    (completion, thinking, tools, vision, embedding)."""

    facts: ModelFacts
    source: ModelSource
    capabilities: tuple[str, ...] = ()
    details: str = ""
