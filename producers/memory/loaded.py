"""What the council has in this machine's memory, and taking a model out of it. Pure: procedures.py sends the commands.

Models at this process's own server are listed and unloaded there. What other processes hold is in their records, and
they unload it themselves when they are asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from producers.backend import BackendFailed, Resident
from producers.memory.eviction import Loaded
from producers.memory.procedures import ASK_AGAIN_MS, Kind, MemoryCommand, MemoryKey, Procedure, Procedures
from producers.memory.record import ModelRecord
from schemas.models import facts_in
from schemas.processes import ProcessRecord

# A server that does not list its models within this is loading one; the others need not wait for that.
GLANCE_MS = 5_000
# A process looks each second for a request to unload, and freeing memory takes moments; after this it is busy or gone.
UNLOADED_WITHIN_MS = 10_000


def loaded_models(
    records: Sequence[ProcessRecord], residents: Sequence[Resident], uses: Collection[MemoryKey], server: str
) -> list[Loaded]:
    """Each model in memory once. `records` are those of this machine's producers; `residents` are in the memory of
    `server`, whose models' records may be older."""
    sizes = {resident.model: (resident.ram_bytes, resident.vram_bytes) for resident in residents}
    found: dict[MemoryKey, Loaded] = {}
    for record in records:
        facts = facts_in(record.detail)
        key = facts.memory_key
        if key[0] == server:
            if key[1] not in sizes:
                continue
            ram, vram = sizes[key[1]]
        elif facts.residency != "loaded":
            continue
        else:
            ram, vram = _number(record, "ram_bytes"), _number(record, "vram_bytes")
        used_ms = max(_number(record, "used_ms"), found[key].used_ms if key in found else 0)
        found[key] = Loaded(facts.model, key, facts.server, ram, vram, used_ms, key in uses, facts.max_loaded)
    return list(found.values())


def _number(record: ProcessRecord, name: str) -> int:
    found = record.detail.get(name, 0)
    return found if isinstance(found, int) else 0


class CouncilMemory:
    """The memory as one process sees it; `record` is that of its own model."""

    def __init__(self, procedures: Procedures, record: ModelRecord, host: str) -> None:
        self._procedures, self._record, self._host = procedures, record, host
        # The evictions under way, which are renewed each second.
        self.evicting: set[MemoryKey] = set()
        # How often this process's own model was unloaded by it.
        self.unloads = 0

    def command(self, kind: Kind, memory_key: MemoryKey | None = None, **about: Any) -> MemoryCommand:
        """A command about this process's model, or about another."""
        facts = self._record.facts
        return MemoryCommand(kind, memory_key or facts.memory_key, size_bytes=facts.size_bytes, **about)

    def look(self, within_ms: int = 0) -> Procedure[Resident | None]:
        """This process's model in memory, None where it is not. Raises BackendFailed, TimeoutError."""
        residents, known = yield self.command("look", within_ms=within_ms)
        return self._record.take_look(residents, known)

    def loaded(self) -> Procedure[list[Loaded]]:
        """The models in memory. Raises TimeoutError where this process's server does not list them soon, BackendFailed
        where it cannot."""
        residents, _ = yield self.command("look", within_ms=GLANCE_MS)
        uses = yield self.command("read_uses")
        records = yield from self._records()
        return loaded_models(records, residents, uses, self._record.facts.memory_key[0])

    def others(self) -> Procedure[list[Loaded]]:
        """The same without this process's model."""
        loaded = yield from self.loaded()
        return [one for one in loaded if one.memory_key != self._record.facts.memory_key]

    def _records(self) -> Procedure[list[ProcessRecord]]:
        """Of the producers on this machine. One Redis may serve several machines, each with its own memory."""
        records = yield self.command("read_records")
        return [one for one in records if one.role == "producer" and one.host == self._host]

    def evict(self, one: Loaded) -> Procedure[bool]:
        """Takes a model out of memory; False where it is in use, or stays for another reason."""
        if one.memory_key[0] != self._record.facts.memory_key[0]:
            return (yield from self._ask_to_leave(one.memory_key))
        try:
            return (yield from self.evict_here(one.memory_key))
        except (BackendFailed, TimeoutError):
            return False

    def evict_here(self, memory_key: MemoryKey | None = None) -> Procedure[bool]:
        """Unloads a model of this process's server, its own by default; False where it is in use. No use of the model
        can begin meanwhile. Raises BackendFailed, TimeoutError."""
        own_key = self._record.facts.memory_key
        memory_key = memory_key or own_key
        if (yield self.command("begin_eviction", memory_key)) != 1:
            return False
        self.evicting.add(memory_key)
        if memory_key == own_key:
            self._record.is_seen, self.unloads = False, self.unloads + 1
        try:
            yield self.command("unload", memory_key, within_ms=UNLOADED_WITHIN_MS)
            if memory_key == own_key:
                self._record.set("absent")
            return True
        finally:
            self.evicting.discard(memory_key)
            self._procedures.final_commands.append(self.command("end_eviction", memory_key))

    def _ask_to_leave(self, memory_key: MemoryKey) -> Procedure[bool]:
        """Asks the process that holds the model to unload it; True once it has."""
        yield self.command("ask_to_leave", memory_key, within_ms=UNLOADED_WITHIN_MS)
        until_ms = self._procedures.now_ms + UNLOADED_WITHIN_MS
        try:
            while self._procedures.now_ms < until_ms:
                found = [facts_in(record.detail) for record in (yield from self._records())]
                if not any(facts.memory_key == memory_key and facts.residency == "loaded" for facts in found):
                    return True
                yield ASK_AGAIN_MS
            return False
        finally:
            self._procedures.final_commands.append(self.command("end_asking", memory_key))
