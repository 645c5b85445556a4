"""The short answers of an Ollama: lists of models, and what it reports of one. Pure: no clock, no I/O.

Servers that imitate Ollama leave fields out or write null. A field of another shape counts as missing, and an entry
that cannot be used hides no others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from producers.servers.reading import at, decoded, entries, number, text, texts

# The template of a model that has none of its own.
NO_TEMPLATE = "{{ .Prompt }}"

T = TypeVar("T")


class Details(msgspec.Struct, frozen=True):
    """What kind of model it is, in Ollama's terms."""

    format: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class PulledModel(msgspec.Struct, frozen=True):
    """A pulled model. `size` is that of its files, `digest` that of its manifest; a model with a `remote_host` runs
    there."""

    name: str
    size: int = 0
    digest: str = ""
    remote_host: str = ""
    details: Details = Details()


class Running(msgspec.Struct, frozen=True):
    """A model in memory: `size_vram` of its `size` is on a GPU."""

    name: str
    size: int = 0
    size_vram: int = 0
    digest: str = ""


class Shown(msgspec.Struct, frozen=True):
    """What /api/show reports of a model."""

    template: str = ""
    modelfile: str = ""
    capabilities: tuple[str, ...] = ()
    remote_host: str = ""
    # False where the server has no such description.
    is_described: bool = True

    @property
    def weights(self) -> str:
        """The digest of the file of the weights, empty where it is unknown: tags with the same one share a runner."""
        found = re.search(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", self.modelfile, re.MULTILINE)
        return f"sha256:{found[1]}" if found else ""

    @property
    def has_chat(self) -> bool:
        """False for a model that only continues a text: it has no template and no built-in chat renderer."""
        if not self.is_described:
            return True
        rendered = re.search(r"^(RENDERER|PARSER) ", self.modelfile, re.MULTILINE)
        return bool(rendered) or self.template.strip() not in ("", NO_TEMPLATE)


NOT_DESCRIBED = Shown(is_described=False)


def pulled_models(body: bytes) -> tuple[PulledModel, ...] | None:
    """The body of /api/tags: the pulled models in its order, only names that a terminal can show. None for another
    body."""
    return _listed(body, _pulled)


def running_models(body: bytes) -> tuple[Running, ...] | None:
    """The body of /api/ps: the models in memory. None for another body."""
    return _listed(body, _running)


def shown_model(body: bytes) -> Shown | None:
    """The body of /api/show. None for another body."""
    found = decoded(body)
    if not isinstance(found, dict):
        return None
    return Shown(
        text(found, "template"), text(found, "modelfile"), texts(found, "capabilities"), text(found, "remote_host")
    )


def version_in(body: bytes) -> str | None:
    """The body of /api/version. None for another body."""
    found = decoded(body)
    return text(found, "version") if isinstance(found, dict) else None


def is_done(body: bytes) -> bool | None:
    """The body of /api/generate without a prompt. None for another body."""
    found = decoded(body)
    return bool(at(found, "done")) if isinstance(found, dict) else None


def _listed(body: bytes, read: Callable[[dict[str, Any]], T]) -> tuple[T, ...] | None:
    found = decoded(body)
    if isinstance(found, dict) and found.get("models", 0) is None:
        return ()  # Go's empty list
    listed = entries(body, "models", "name", "model")
    return None if listed is None else tuple(read(entry) for entry in listed if entry["name"].isprintable())


def _pulled(entry: dict[str, Any]) -> PulledModel:
    kind = at(entry, "details")
    details = Details(*(text(kind, name) for name in Details.__struct_fields__))
    return PulledModel(entry["name"], number(entry, "size"), text(entry, "digest"), text(entry, "remote_host"), details)


def _running(entry: dict[str, Any]) -> Running:
    return Running(entry["name"], number(entry, "size"), number(entry, "size_vram"), text(entry, "digest"))
