"""Keeping one model in memory, or out of it, beside the other models of this machine.

    a session --> in_use --> ensure_loaded --is it there?--> yes
                                  |
                                  no --> the loader's lease (one process loads at a time)
                                           --> does it fit? evict who was least recently used, never who is in use
                                           --> load --> is all within the budget now?

A model that is in use stays, whatever anybody asks. What is loaded is measured where it is: by the model server, or by
the process that holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from structlog.stdlib import BoundLogger

from producers.backend import BackendFailed, Loading, OutOfMemory, Residence, Resident, Waiting
from producers.eviction import least_recently_used, models_to_evict, wanted_model
from producers.memory import ASK_AGAIN_S, CouncilMemory
from schemas.errors import RedisAway, RedisRefuses
from schemas.models import ModelFacts, Residency, facts_in
from schemas.tiers import TierPolicy
from transport import residency as ledger
from transport.connection import AsyncPipe
from transport.process import Standing

Show = Callable[[Loading | Waiting], object]

_RENEW_S = 1.0
# A server may drop a model by itself: what the record says of it is no older than this.
_LOOK_S = 5.0
# An idle model is asked for again well before its server's patience with it ends (ten minutes by default).
_KEEP_WARM_S = 240.0


class ModelResidency:
    """One process's model, where loading it is ours to decide. `standing` is the record that tells the others."""

    def __init__(
        self,
        pipe: AsyncPipe,
        residence: Residence,
        standing: Standing,
        tier: TierPolicy,
        log: BoundLogger,
    ) -> None:
        self._pipe, self._residence, self._standing, self._tier, self._log = pipe, residence, standing, tier, log
        self._memory = CouncilMemory(pipe, standing, residence)
        self._one_at_a_time = asyncio.Lock()
        self._users: set[str] = set()
        # Whether the latest look found it loaded, and how often it had been evicted until the latest use.
        self._is_seen, self._evictions = False, 0
        self._wants_warmth = False

    @property
    def facts(self) -> ModelFacts:
        """What this process tells of its model."""
        return facts_in(self._standing.detail)

    @contextlib.asynccontextmanager
    async def in_use(self, session: str) -> AsyncIterator[None]:
        """While it lasts, nobody takes the model out of memory."""
        user = f"{self._standing.name} {session}"
        evictions = await self._memory.use(self.facts.place, user)
        # What was seen before somebody evicted it is no longer true.
        self._is_seen, self._evictions = self._is_seen and evictions == self._evictions, evictions
        self._users.add(user)
        try:
            yield
        finally:
            self._users.discard(user)
            self._standing.detail["used_ms"] = _now_ms()
            with contextlib.suppress(RedisAway):
                await self._pipe.run([ledger.end_use(self.facts.place, user), *self._standing.renew()])

    async def ensure_loaded(self, show: Show) -> None:
        """Returns when the model is in memory. Raises OutOfMemory, BackendFailed."""
        if self._is_seen:
            return
        # Shown before the first look: a server may not say what it holds while it loads another model.
        show(Waiting())
        async with self._one_at_a_time:
            while not await self._is_loaded():
                async with self._memory.loader():
                    if await self._load_if_it_fits(lambda: show(Loading())):
                        return
                await asyncio.sleep(ASK_AGAIN_S)

    async def warm_up(self) -> None:
        """Loads the model if it fits beside what is loaded; nobody has to leave for it."""
        self._wants_warmth = True
        try:
            async with self._one_at_a_time, self._memory.loader():
                loaded = await self._memory.loaded()
                fits = models_to_evict(loaded, wanted_model(self.facts), self._tier, _now_ms()) == ()
                if fits and not await self._is_loaded():
                    await self._load(lambda: None)
        except BackendFailed as failure:
            await self._tell_trouble(str(failure))

    async def run(self) -> None:
        """Renews the uses, follows orders, and looks now and then at what is really in memory; each by itself, since a
        server may take minutes to say what it holds while it loads."""
        await asyncio.gather(self._renew_uses(), self._follow_orders(), self._look_again())

    async def _renew_uses(self) -> None:
        while True:
            if self._users:
                with contextlib.suppress(RedisAway):
                    await self._pipe.run([ledger.use(self.facts.place, user) for user in self._users])
            await asyncio.sleep(_RENEW_S)

    async def _look_again(self) -> None:
        warmed_at = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(BackendFailed):
                if not self._one_at_a_time.locked():
                    await self._look()
                is_due = time.monotonic() - warmed_at >= _KEEP_WARM_S
                if is_due and self._wants_warmth and self.facts.residency == "loaded":
                    warmed_at = time.monotonic()
                    await self._residence.load()

    async def _follow_orders(self) -> None:
        while True:
            with contextlib.suppress(RedisAway, RedisRefuses):
                match await ledger.take_order(self._pipe, self.facts.model):
                    case "load":
                        self._wants_warmth = True
                        await self._load_as_ordered()
                    case "unload":
                        self._wants_warmth = False
                        await self._unload()
            await asyncio.sleep(_RENEW_S)

    async def _load_as_ordered(self) -> None:
        try:
            await self.ensure_loaded(lambda _sign: None)
        except BackendFailed as failure:
            await self._tell_trouble(str(failure))

    async def _unload(self) -> None:
        """Takes the model out of memory, unless anybody uses it: this process, or another that serves the same."""
        if self._one_at_a_time.locked():
            return
        (began,) = await self._pipe.run([ledger.begin_eviction(self.facts.place)])
        if began != 1:
            return
        try:
            await self._residence.unload(self.facts.place[1])
            self._is_seen = False
            await self._tell("absent", None)
        except BackendFailed as failure:
            await self._tell_trouble(str(failure))
        finally:
            await self._pipe.run([ledger.end_eviction(self.facts.place)])

    async def _is_loaded(self) -> bool:
        return await self._look() is not None

    async def _look(self) -> Resident | None:
        """The model in memory, and the record says so; None where it is not. Raises BackendFailed."""
        residents = await self._residence.residents()
        own = next((resident for resident in residents if resident.model == self.facts.place[1]), None)
        self._is_seen = own is not None
        await self._tell("loaded" if own else "absent", own)
        return own

    async def _load_if_it_fits(self, show: Callable[[], object]) -> bool:
        """True when it is loaded; False where room must be waited for. Raises OutOfMemory, BackendFailed."""
        if await self._is_loaded():
            return True
        leaving = models_to_evict(await self._memory.loaded(), wanted_model(self.facts), self._tier, _now_ms())
        if leaving is None:
            return False
        for one in leaving:
            if not await self._memory.evict(one):
                return False
        while True:
            try:
                await self._load(show)
                return True
            except OutOfMemory:
                # The memory knows best: whoever is idle leaves, one after another, until there is nobody to leave.
                idle = least_recently_used(await self._memory.loaded())
                if idle is None or not await self._memory.evict(idle):
                    raise

    async def _load(self, show: Callable[[], object]) -> None:
        show()
        await self._tell("loading", None)
        try:
            await self._residence.load()
        except BackendFailed:
            await self._tell("absent", None)
            raise
        self._standing.detail["used_ms"] = _now_ms()
        await self._look()
        # Only now is it known how much memory of which kind it takes.
        for one in models_to_evict(await self._memory.loaded(), None, self._tier, _now_ms()) or ():
            await self._memory.evict(one)

    async def _tell(self, residency: Residency, own: Resident | None) -> None:
        """Puts it into the record, and the record into Redis where that is news."""
        detail = self._standing.detail
        news: dict[str, str | int] = {"residency": residency}
        news |= {"ram_bytes": own.ram_bytes if own else 0, "vram_bytes": own.vram_bytes if own else 0}
        news |= {"trouble": ""} if own else {}
        if any(detail.get(name) != value for name, value in news.items()):
            detail |= news
            await self._renew()

    async def _tell_trouble(self, sentence: str) -> None:
        self._log.warning("the model is not loaded", reason=sentence)
        self._standing.detail["trouble"] = sentence
        await self._renew()

    async def _renew(self) -> None:
        with contextlib.suppress(RedisAway):
            await self._pipe.run(self._standing.renew())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
