"""What is known of a model: what its server says of it, and what its producer process measured."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# absent, loading, loaded: in its server's memory or not; unmanaged: loading it is nobody's business here.
Residency = Literal["unmanaged", "absent", "loading", "loaded"]


# The server of a model that its producer process holds itself.
IN_PROCESS = "in process"


class ModelFacts(msgspec.Struct, frozen=True):
    """A model that the council can use. Sizes in bytes, 0 where unknown.

    `server` is where it runs: a URL without credentials, or "in process". `digest` names the weights, where its server
    tells: two names with one digest are one model. `max_loaded` is how many models that server keeps in memory at
    once, 0 where it has no such limit or does not tell; `max_loaded_setting` names what changes that. `trouble` is a
    sentence where it cannot be used now.
    """

    model: str
    server: str = IN_PROCESS
    size_bytes: int = 0
    digest: str = ""
    remote: bool = False
    max_loaded: int = 0
    slots: int = 1
    pauses: bool = False
    residency: Residency = "unmanaged"
    trouble: str = ""
    max_loaded_setting: str = ""
    # What its server calls it, where that differs from `model`.
    model_there: str = ""
    # The process that holds it, where that is its producer: each such process has a copy of its own.
    held_by: str = ""
    # What a person can do to raise `slots`, such as "set OLLAMA_NUM_PARALLEL for it and start it again".
    slots_setting: str = ""

    @property
    def memory_key(self) -> tuple[str, str]:
        """(server or process, name there): one model in one memory, whatever the council calls it."""
        return self.held_by or self.server, self.model_there or self.model

    def as_detail(self) -> dict[str, Any]:
        """The facts as a process record carries them."""
        return msgspec.structs.asdict(self)


def facts_in(detail: dict[str, Any]) -> ModelFacts:
    """The reverse of as_detail; what a record of another version lacks, or says otherwise, has its default."""
    try:
        return msgspec.convert(detail, ModelFacts)
    except msgspec.ValidationError:
        return ModelFacts(str(detail.get("model", "")))
