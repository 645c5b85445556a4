"""What a producer process tells the others of its model: is it in memory, how much does it take, what is in the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from producers.backend import Resident
from runtime.log import Log
from schemas.errors import RedisAway
from schemas.models import ModelFacts, Residency, facts_in
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration


class ModelRecord:
    """The part of the process record that is about the model. `told` says what the backend knows of it by now."""

    def __init__(
        self, pipe: AsyncPipe, registration: ProcessRegistration, told: Callable[[], ModelFacts], log: Log
    ) -> None:
        self._pipe, self._registration, self._told, self._log = pipe, registration, told, log
        # Why the latest load did not succeed; a look at the server does not know that.
        self._load_trouble = ""

    @property
    def facts(self) -> ModelFacts:
        return facts_in(self._registration.detail)

    @property
    def model_there(self) -> str:
        """What its server calls it, as far as that is known."""
        told = self._told()
        return told.model_there or told.model

    def note_use(self) -> None:
        self._registration.detail["used_ms"] = now_ms()

    async def tell_seen(self, own: Resident | None) -> None:
        """What a look at the server found, with what the server tells of the model from its first answer on."""
        if own:
            self._load_trouble = ""
        told = self._told()
        trouble = told.trouble or self._load_trouble
        self._registration.detail |= {**told.as_detail(), "residency": self.facts.residency, "trouble": trouble}
        await self.tell("loaded" if own else "absent", own)

    async def tell(self, residency: Residency, own: Resident | None = None) -> None:
        """Puts it into the record, and the record into Redis where that is news."""
        before = dict(self._registration.detail)
        ram_bytes, vram_bytes = (own.ram_bytes, own.vram_bytes) if own else (0, 0)
        self._registration.detail |= {"residency": residency, "ram_bytes": ram_bytes, "vram_bytes": vram_bytes}
        if before != self._registration.detail:
            await self._renew()

    async def tell_trouble(self, sentence: str, *, of_load: bool = False) -> None:
        """What is in the way; of a load, until the next one."""
        if of_load:
            self._load_trouble = sentence
        if self._registration.detail.get("trouble") != sentence:
            self._log.info("there is trouble with the model", reason=sentence)
            self._registration.detail["trouble"] = sentence
            await self._renew()

    async def _renew(self) -> None:
        with contextlib.suppress(RedisAway):
            await self._pipe.run(self._registration.renew())


def now_ms() -> int:
    return time.time_ns() // 1_000_000
