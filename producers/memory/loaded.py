"""What the council has in this machine's memory, and taking a model out of it. Pure: procedures.py sends the commands.

Models at this process's own server are listed and unloaded there. What other processes hold is in their records, and
they unload it themselves when they are asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from producers.backend import Resident
from producers.memory.eviction import Loaded
from producers.memory.procedures import MemoryKey
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
