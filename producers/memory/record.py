"""What a producer process reports of its model: whether it is in memory, its size there, what is in the way. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from producers.backend import Resident
from schemas.models import ModelFacts, Residency


class ModelRecord:
    """The part of the process record that is about the model."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        # True where the latest look found the model in memory.
        self.is_seen = False
        # When it was loaded or last used, in ms.
        self.used_ms = 0
        self._sizes = (0, 0)
        # Why the latest load failed; a look at the server does not find that out.
        self._load_trouble = ""

    @property
    def detail(self) -> dict[str, Any]:
        """As it goes into the process record."""
        ram_bytes, vram_bytes = self._sizes
        sizes = {"ram_bytes": ram_bytes, "vram_bytes": vram_bytes, "used_ms": self.used_ms}
        return {**self.facts.as_detail(), **sizes}

    @property
    def news(self) -> tuple[ModelFacts, tuple[int, int]]:
        """What other processes should know at once when it changes."""
        return self.facts, self._sizes

    def take_look(self, residents: Sequence[Resident], known: ModelFacts) -> Resident | None:
        """Takes what a look at the server found, with what is known of the model by then. Returns the model in memory,
        None where it is not."""
        name = known.model_there or known.model
        own = next((resident for resident in residents if resident.model == name), None)
        self.is_seen = own is not None
        if own:
            self._load_trouble = ""
        self.facts = msgspec.structs.replace(known, trouble=known.trouble or self._load_trouble)
        self.set("loaded" if own else "absent", own)
        return own

    def set(self, residency: Residency, own: Resident | None = None) -> None:
        """Sets where the model is, and the memory that it takes."""
        self._sizes = (own.ram_bytes, own.vram_bytes) if own else (0, 0)
        self.facts = msgspec.structs.replace(self.facts, residency=residency)

    def set_trouble(self, sentence: str, *, of_load: bool = False) -> None:
        """Sets what is in the way; of a load, until the next successful one."""
        if of_load:
            self._load_trouble = sentence
        self.facts = msgspec.structs.replace(self.facts, trouble=sentence)
