"""What the council has loaded on this machine, the right to load more, and taking a model out.

Models at this process's own server are seen and unloaded there; what other processes hold is in their records, and they
unload it themselves, as they are asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from producers.backend import BackendFailed, Residence
from producers.memory.eviction import Loaded
from schemas.errors import RedisAway, RedisRefuses
from schemas.models import facts_in
from schemas.processes import ProcessRecord
from schemas.rules.served import council_models
from transport import residency as ledger
from transport.redis.connection import AsyncPipe, Command, accepted
from transport.register import ProcessRegistration, list_processes

# A process that waits for memory, for the loader or for Redis asks again after this.
ASK_AGAIN_S = 0.15
_RENEW_S = 1.0
# Producers that start together are there within moments; one that takes longer is not waited for.
PEERS_START_S = 5.0
# A server that does not say what it holds within this is loading something; the others need not wait for that.
GLANCE_S = 5.0
# Its process looks each second, and freeing takes moments; whoever has not by then is busy or gone.
UNLOADED_WITHIN_S = 10.0


class Licence:
    """The loader's lease. A process that was stopped for a while may have lost it."""

    is_held = True


class CouncilMemory:
    """The models in memory, as this process sees them. Breaks of Redis are waited for."""

    def __init__(self, pipe: AsyncPipe, registration: ProcessRegistration, residence: Residence) -> None:
        self._pipe, self._registration, self._residence = pipe, registration, residence

    async def loaded(self) -> list[Loaded]:
        """Each model once. Raises TimeoutError where this process's server does not say soon what it holds,
        BackendFailed where it cannot."""
        own = facts_in(self._registration.detail)
        async with asyncio.timeout(GLANCE_S):
            residents = {resident.model: resident for resident in await self._residence.residents()}
        replies = await self._run(*ledger.read_uses())
        uses = ledger.keys_in_use(replies)
        if sweeping := ledger.sweep_uses(replies):
            await self._run(sweeping)
        found: dict[ledger.MemoryKey, Loaded] = {}
        for record in await self._records():
            facts = facts_in(record.detail)
            ram, vram = _number(record, "ram_bytes"), _number(record, "vram_bytes")
            if facts.memory_key[0] == own.memory_key[0]:
                resident = residents.get(facts.memory_key[1])
                if resident is None:
                    continue
                ram, vram = resident.ram_bytes, resident.vram_bytes
            elif facts.residency != "loaded":
                continue
            used_ms = max(
                _number(record, "used_ms"), found[facts.memory_key].used_ms if facts.memory_key in found else 0
            )
            found[facts.memory_key] = Loaded(
                facts.model,
                facts.memory_key,
                facts.server,
                ram,
                vram,
                used_ms,
                facts.memory_key in uses,
                facts.max_loaded,
            )
        return list(found.values())

    async def wait_for_peers(self) -> None:
        """Returns when every model of the council has a producer that runs, or after a while: models that are loaded at
        the start are loaded smallest first, so each producer must be there to ask."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PEERS_START_S):
                while not await self._has_all_peers():  # noqa: ASYNC110  # who starts them is another process
                    await asyncio.sleep(ASK_AGAIN_S)

    async def _has_all_peers(self) -> bool:
        with contextlib.suppress(RedisAway, RedisRefuses):
            records = await list_processes(self._pipe)
            wanted = {model for record in records if record.role == "council" for model in council_models(record)}
            return wanted <= {facts_in(one.detail).model for one in records if one.role == "producer"}
        return False

    async def evict(self, one: Loaded) -> bool:
        """Takes a model out of memory; False where it is in use, or stays for another reason."""
        if one.memory_key[0] != facts_in(self._registration.detail).memory_key[0]:
            return await self._is_left(one)
        async with self.eviction(one.memory_key) as granted:
            if granted:
                with contextlib.suppress(BackendFailed, TimeoutError):
                    async with asyncio.timeout(UNLOADED_WITHIN_S):
                        await self._residence.unload(one.memory_key[1])
                    return True
        return False

    @contextlib.asynccontextmanager
    async def eviction(self, memory_key: ledger.MemoryKey) -> AsyncIterator[bool]:
        """While it lasts nobody begins to use the model; False where it is in use."""
        if await self._ask(ledger.begin_eviction(memory_key)) != 1:
            yield False
            return
        try:
            async with self._renewing(ledger.begin_eviction(memory_key), Licence()):
                yield True
        finally:
            with contextlib.suppress(RedisAway):
                await self._pipe.run([ledger.end_eviction(memory_key)])

    async def use(self, memory_key: ledger.MemoryKey, user: str) -> int:
        """Returns once the use is known, so that nobody evicts the model under it: a number that changes with each
        eviction of it."""
        return await self._until_granted(ledger.use(memory_key, user))

    async def evictions(self, memory_key: ledger.MemoryKey) -> int:
        """The number that use() would answer now."""
        user = self._registration.name
        granted = await self._until_granted(ledger.use(memory_key, user))
        await self._ask(ledger.end_use(memory_key, user))
        return granted

    @contextlib.asynccontextmanager
    async def loader(self) -> AsyncIterator[Licence]:
        """Holds the loader's lease: one process loads at a time, the smallest model first. A process that dies with it
        loses it after seconds."""
        size_bytes = facts_in(self._registration.detail).size_bytes
        command, licence = ledger.hold_loader(self._registration.name, size_bytes), Licence()
        await self._until_granted(command)
        try:
            async with self._renewing(command, licence):
                yield licence
        finally:
            with contextlib.suppress(RedisAway):
                await self._pipe.run([ledger.give_up_loader(self._registration.name)])

    @contextlib.asynccontextmanager
    async def _renewing(self, command: Command, licence: Licence) -> AsyncIterator[None]:
        """Says the command again each second; once it is refused the licence is lost for good."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEW_S)
                with contextlib.suppress(RedisAway):
                    (granted,) = await self._pipe.run([command])
                    licence.is_held = licence.is_held and granted == 1

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing

    async def _is_left(self, one: Loaded) -> bool:
        """Asks the process that holds the model to unload it; True once it has."""
        until = time.monotonic() + UNLOADED_WITHIN_S
        until_ms = int((time.time() + UNLOADED_WITHIN_S) * 1_000)
        await self._ask(ledger.ask_to_leave(one.memory_key, until_ms))
        try:
            while time.monotonic() < until:
                found = [facts_in(record.detail) for record in await self._records()]
                if not any(facts.memory_key == one.memory_key and facts.residency == "loaded" for facts in found):
                    return True
                await asyncio.sleep(ASK_AGAIN_S)
            return False
        finally:
            await self._ask(ledger.end_asking(one.memory_key))

    async def _records(self) -> list[ProcessRecord]:
        while True:
            with contextlib.suppress(RedisAway, RedisRefuses):
                records = await list_processes(self._pipe)
                # One Redis may serve several machines: their memory is their own.
                return [one for one in records if one.role == "producer" and one.host == self._registration.host]
            await asyncio.sleep(ASK_AGAIN_S)

    async def _until_granted(self, command: Command) -> int:
        while not (granted := await self._ask(command)):  # noqa: ASYNC110  # who grants it is another process
            await asyncio.sleep(ASK_AGAIN_S)
        return granted

    async def _ask(self, command: Command) -> int:
        """The reply of a command that answers a number."""
        return int((await self._run(command))[0])

    async def _run(self, *commands: Command) -> list[Any]:
        """The replies, when Redis gives them; each of these commands may be said twice."""
        while True:
            with contextlib.suppress(RedisAway, RedisRefuses):
                return [accepted(reply) for reply in await self._pipe.run(commands)]
            await asyncio.sleep(ASK_AGAIN_S)


def _number(record: ProcessRecord, name: str) -> int:
    found = record.detail.get(name, 0)
    return found if isinstance(found, int) else 0
