"""Where a model comes from: which kind of backend, which server, which name there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from schemas.models import ModelFacts

Api = Literal["ngram", "gguf", "openai", "ollama"]
# For supervisors; people have the flags of `python -m producers --help`.
ORDER_FLAG = "--order"


class ModelSource(msgspec.Struct, frozen=True):
    """How to reach a model. `url` is its server's, `path` a GGUF file's; `name` is the server's name of the model.

    `key_env` names the environment variable that contains the server's API key; the key itself stays there. `parallel`
    and `max_loaded` replace the numbers that the server reports (0: they do not). `keep_alive_s` is how long an idle
    model stays in Ollama's memory. `threads` is the number for a GGUF file (0: as many as one model alone may use).
    `allow_council`: the server may be another council.
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
    allow_council: bool = False


def gguf_source(path: str | Path, parallel: int = 0, threads: int = 0) -> tuple[str, ModelSource]:
    """(the name of a GGUF file's model in the council, its source). The name is `gguf:` and the file's name."""
    file = Path(path).expanduser().absolute()
    name = f"gguf:{file.name.removesuffix('.gguf')}"
    return name, ModelSource("gguf", name, path=str(file), parallel=parallel, threads=threads)


class ProducerOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a supervisor orders of a producer process, as its one argument. `tokens_per_s` replaces the pace of an
    n-gram model; `is_warmed`: the model is loaded at the start, where it fits.

    Other users of the machine can see it. It contains no secret: settings allow no password in a URL, and an API key
    stays in its environment variable.
    """

    model: str
    source: ModelSource
    is_warmed: bool = False
    tokens_per_s: float | None = None

    def as_arguments(self) -> list[str]:
        """The arguments of `python -m producers`."""
        return [ORDER_FLAG, msgspec.json.encode(self).decode()]


def ordered(arguments: Sequence[str]) -> ProducerOrder | None:
    """The order in as_arguments(); None for any other arguments."""
    if len(arguments) != 2 or arguments[0] != ORDER_FLAG:
        return None
    return msgspec.json.decode(arguments[1], type=ProducerOrder)


class Offer(msgspec.Struct, frozen=True):
    """A model that a server offers: what is known of it and how to reach it. `capabilities` are in the server's terms
    (completion, thinking, tools, vision, embedding)."""

    facts: ModelFacts
    source: ModelSource
    capabilities: tuple[str, ...] = ()
    details: str = ""

    @property
    def writes_text(self) -> bool:
        """True unless the server reports that the model is for something else."""
        return not self.capabilities or "completion" in self.capabilities
