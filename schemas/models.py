"""The facts about a model: those that its server reports, and those that its producer measured."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# absent, loading, loaded: whether it is in its server's memory; unmanaged: the council does not load it.
Residency = Literal["unmanaged", "absent", "loading", "loaded"]
# Whether a model continues an answer that a request begins: its backend knows it, or one real try has shown it.
Continues = Literal["yes", "no", "untried"]

# The server of a model that is in the memory of its producer process.
IN_PROCESS = "in process"


class ModelFacts(msgspec.Struct, frozen=True):
    """A model that the council can use. Sizes in bytes, 0 where unknown.

    `server` is where it runs: a URL without credentials, or "in process". `digest` identifies the weights, where the
    server reports it: two names with one digest are one model. `max_loaded` is how many models that server keeps in
    memory at once, 0 where it has no limit or does not report it; `max_loaded_setting` is the setting of that.
    `trouble` is a sentence where the model cannot be used now.
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
    # Its name on the server, where that differs from `model`.
    model_there: str = ""
    # The producer process that has it in memory, where no server has: each such process has its own copy.
    held_by: str = ""
    # How the user can raise `slots`, such as "set OLLAMA_NUM_PARALLEL for it and start it again".
    slots_setting: str = ""
    continues: Continues = "untried"

    @property
    def memory_key(self) -> tuple[str, str]:
        """(server or process, name there): one model in one memory, whatever its name in the council."""
        return self.held_by or self.server, self.model_there or self.model

    def as_detail(self) -> dict[str, Any]:
        """The facts as the detail of a process record."""
        return msgspec.structs.asdict(self)


def facts_in(detail: dict[str, Any]) -> ModelFacts:
    """The reverse of as_detail. Fields that a record of another version lacks have their defaults; a record that does
    not decode has all defaults but the name."""
    try:
        return msgspec.convert(detail, ModelFacts)
    except msgspec.ValidationError:
        return ModelFacts(str(detail.get("model", "")))
