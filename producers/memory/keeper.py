"""Keeping one model in memory, or out of it, beside the other models of this machine.

    a session --> in_use --> ensure_loaded --was it seen there?--> yes
                                  |
                                  no --> join whoever waits for it already
                                           --> the loader's lease (one process loads at a time)
                                           --> does it fit? evict who was least recently used, never who is in use
                                           --> load --> is all within the budget now?

A model that is in use stays, whatever anybody asks. What is loaded is measured where it is: by the model server, or by
the process that holds it. No question to a server is waited for with the lease in hand, but for the load itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine

from producers.backend import BackendFailed, ModelLoading, ModelWaiting, OutOfMemory, Residence, Resident
from producers.memory.eviction import least_recently_used, models_to_evict, wanted_model
from producers.memory.loaded import ASK_AGAIN_S, GLANCE_S, UNLOADED_WITHIN_S, CouncilMemory, Licence
from producers.memory.record import ModelRecord, now_ms
from runtime.log import Log
from schemas.errors import RedisAway, RedisRefuses, Refused
from schemas.models import ModelFacts
from schemas.rules.choice import check_size, gigabytes
from schemas.rules.tiers import TierPolicy
from transport import residency as ledger
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration

Sign = ModelLoading | ModelWaiting
Show = Callable[[Sign], object]

_RENEW_S = 1.0
# A server may drop a model by itself: what the record says of it is no older than this.
_LOOK_S = 5.0
# An idle model is asked for again well before its server's patience with it ends (ten minutes by default).
_KEEP_WARM_S = 240.0
# A load that takes longer may wait for an idle model of ours that its server means to keep; one leaves each time.
_STUCK_S = 60.0


class ModelResidency:
    """One process's model, where loading it is ours to decide. `registration` is the record that others read; `told`
    returns what the backend knows of the model by now."""

    def __init__(
        self,
        pipe: AsyncPipe,
        residence: Residence,
        registration: ProcessRegistration,
        told: Callable[[], ModelFacts],
        tier: TierPolicy,
        log: Log,
    ) -> None:
        self._pipe, self._residence, self._registration, self._tier = pipe, residence, registration, tier
        self._record = ModelRecord(pipe, registration, told, log)
        self._memory = CouncilMemory(pipe, registration, residence)
        self._one_at_a_time = asyncio.Lock()
        self._users: set[str] = set()
        # Whether the latest look found it loaded, and how often it had been evicted until the latest use.
        self._is_seen, self._evictions, self._unloads = False, 0, 0
        # The load under way, and how to tell those who wait for it.
        self._loading: asyncio.Task[None] | None = None
        self._shows: list[Show] = []
        self._sign: Sign = ModelWaiting()
        self._ordered: asyncio.Task[None] | None = None
        self._wants_warmth = False

    @property
    def facts(self) -> ModelFacts:
        """What this process tells of its model."""
        return self._record.facts

    @property
    def is_seen(self) -> bool:
        """True where the latest look found the model in memory."""
        return self._is_seen

    @contextlib.asynccontextmanager
    async def in_use(self, user: str) -> AsyncIterator[None]:
        """While it lasts the model stays in memory. `user` differs from each other use by this process at the same
        time."""
        user = f"{self._registration.name} {user}"
        evictions = await self._memory.use(self.facts.memory_key, user)
        # What was seen before somebody evicted it is no longer true.
        self._is_seen, self._evictions = self._is_seen and evictions == self._evictions, evictions
        self._users.add(user)
        try:
            yield
        finally:
            self._users.discard(user)
            self._record.note_use()
            with contextlib.suppress(RedisAway):
                await self._pipe.run([ledger.end_use(self.facts.memory_key, user), *self._registration.renew()])

    async def ensure_loaded(self, show: Show) -> None:
        """Returns when the model is in memory. Raises OutOfMemory, BackendFailed. Whoever is cancelled takes nothing
        from the others that wait; the last ends the load."""
        if self._is_seen:
            return
        if self._loading is None:
            self._sign = ModelWaiting()
            self._loading = asyncio.create_task(self._bring_in())
        loading = self._loading
        self._shows.append(show)
        show(self._sign)
        try:
            await asyncio.shield(loading)
        finally:
            self._shows.remove(show)
            if self._loading is loading and (loading.done() or not self._shows):
                self._loading = None
                loading.cancel()

    def warm_up(self) -> None:
        """Begins to load the model if it fits beside what is loaded; nobody has to leave for it."""
        self._wants_warmth = True
        self._ordered = asyncio.create_task(self._or_trouble(self._warm()))

    async def _warm(self) -> None:
        await self._memory.wait_for_peers()
        async with self._one_at_a_time:
            # From here on an eviction is noticed, so that the first session need not look again.
            self._evictions = await self._memory.evictions(self.facts.memory_key)
            if await self._look() is None:
                async with self._memory.loader() as licence:
                    await self._load_if_it_fits(licence, evicts=False)

    async def run(self) -> None:
        """Renews the uses, follows orders, and looks now and then at what is really in memory; each by itself, since a
        server may take minutes to say what it holds while it loads."""
        await asyncio.gather(self._renew_uses(), self._follow_orders(), self._look_again())

    async def _renew_uses(self) -> None:
        while True:
            if self._users:
                with contextlib.suppress(RedisAway):
                    await self._pipe.run([ledger.use(self.facts.memory_key, user) for user in self._users])
            await asyncio.sleep(_RENEW_S)

    async def _look_again(self) -> None:
        warmed_at = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._one_at_a_time.locked():
                continue
            try:
                async with asyncio.timeout(GLANCE_S):
                    if await self._look(is_aside=True) is None:
                        continue
                leaving = models_to_evict(await self._memory.loaded(), None, self._tier, now_ms())
                if any(one.memory_key == self.facts.memory_key for one in leaving or ()):
                    await self._unload()
                elif self._wants_warmth and time.monotonic() - warmed_at >= _KEEP_WARM_S:
                    warmed_at = time.monotonic()
                    await self._residence.load()
            except TimeoutError:
                continue  # it loads something, and says nothing meanwhile
            except BackendFailed as failure:
                self._is_seen = False
                await self._record.tell("absent")
                await self._record.tell_trouble(str(failure))

    async def _follow_orders(self) -> None:
        while True:
            with contextlib.suppress(RedisAway, RedisRefuses):
                order = await ledger.take_order(self._pipe, self.facts.model)
                if order is not None:
                    self._wants_warmth = order == "load"
                    if self._ordered is not None:
                        self._ordered.cancel()
                        await asyncio.wait([self._ordered])
                        self._ordered = None
                if order == "load":
                    self._is_seen = False  # whoever orders it wants it there, not remembered there
                    loading = self.ensure_loaded(lambda _sign: None)
                    self._ordered = asyncio.create_task(self._or_trouble(loading))
                if order == "unload" or await ledger.is_asked_to_leave(self._pipe, self.facts.memory_key, now_ms()):
                    await self._unload()
            await asyncio.sleep(_RENEW_S)

    async def _or_trouble(self, loading: Coroutine[object, object, None]) -> None:
        try:
            await loading
        except BackendFailed as failure:
            await self._record.tell_trouble(str(failure), of_load=True)

    async def _unload(self) -> None:
        """Takes the model out of memory, unless anybody uses it: this process, or another that serves the same."""
        if self._one_at_a_time.locked():
            return
        async with self._memory.eviction(self.facts.memory_key) as granted:
            if not granted:
                return
            self._is_seen, self._unloads = False, self._unloads + 1
            try:
                async with asyncio.timeout(UNLOADED_WITHIN_S):
                    await self._residence.unload(self.facts.memory_key[1])
                await self._record.tell("absent")
            except TimeoutError:
                pass  # the next look tells what came of it
            except BackendFailed as failure:
                await self._record.tell_trouble(str(failure))

    async def _bring_in(self) -> None:
        async with self._one_at_a_time:
            while await self._look() is None:
                self._show(ModelWaiting())
                async with self._memory.loader() as licence:
                    if await self._load_if_it_fits(licence, evicts=True):
                        return
                await asyncio.sleep(ASK_AGAIN_S)

    def _show(self, sign: Sign) -> None:
        self._sign = sign
        for show in self._shows:
            show(sign)

    async def _look(self, *, is_aside: bool = False) -> Resident | None:
        """The model in memory, and the record says so; None where it is not. One aside says nothing where a load or an
        unload has begun meanwhile. Raises BackendFailed."""
        unloads = self._unloads
        residents = await self._residence.residents()
        if is_aside and (self._one_at_a_time.locked() or unloads != self._unloads):
            return None  # what it says was true before
        own = next((resident for resident in residents if resident.model == self._record.model_there), None)
        self._is_seen = own is not None
        await self._record.tell_seen(own)
        return own

    async def _load_if_it_fits(self, licence: Licence, *, evicts: bool) -> bool:
        """True when it is loaded; False where room must be waited for. Raises OutOfMemory, BackendFailed."""
        facts = self.facts
        try:
            check_size(facts, self._tier)
        except Refused as refusal:
            raise BackendFailed(str(refusal).removesuffix(".")) from refusal
        try:
            loaded = await self._memory.loaded()
        except TimeoutError:
            return False
        others = [one for one in loaded if one.memory_key != facts.memory_key]
        leaving = models_to_evict(others, wanted_model(facts), self._tier, now_ms())
        if leaving is None or (leaving and not evicts):
            return False
        for one in leaving:
            if not await self._memory.evict(one):
                return False
        while licence.is_held:
            try:
                await self._load(evicts=evicts)
                return True
            except OutOfMemory as failure:
                # The memory knows best: whoever is idle leaves, one after another, until there is nobody to leave.
                others = []
                with contextlib.suppress(TimeoutError):
                    others = [one for one in await self._memory.loaded() if one.memory_key != facts.memory_key]
                idle = least_recently_used(others) if evicts else None
                if idle is None or not await self._memory.evict(idle):
                    failure.room_helps = bool(others)
                    raise
        return False

    async def _load(self, *, evicts: bool) -> None:
        self._show(ModelLoading())
        await self._record.tell("loading")
        making_way = asyncio.create_task(self._make_way())
        try:
            await self._residence.load()
        except BackendFailed:
            await self._record.tell("absent")
            raise
        finally:
            making_way.cancel()
        self._record.note_use()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GLANCE_S):
                own = await self._look()
            await self._settle(own, evicts=evicts)

    async def _settle(self, own: Resident | None, *, evicts: bool) -> None:
        """Only once it is loaded it is known how much memory of which kind it takes: whoever was least recently used
        leaves for it, or itself where nobody has to."""
        leaving = models_to_evict(await self._memory.loaded(), None, self._tier, now_ms())
        if leaving == ():
            return
        if evicts:
            for one in leaving or ():
                await self._memory.evict(one)
            return
        self._is_seen = False
        async with self._memory.eviction(self.facts.memory_key) as granted:
            if granted:
                await self._residence.unload(self.facts.memory_key[1])
                size = gigabytes(own.ram_bytes + own.vram_bytes) if own else "more than was known"
                await self._record.tell("absent")
                await self._record.tell_trouble(
                    f"{self.facts.model} takes {size} in memory and is loaded only when it is asked", of_load=True
                )

    async def _make_way(self) -> None:
        """A server that has no memory left may wait for an idle model that it means to keep for long."""
        while not self.facts.held_by:
            await asyncio.sleep(_STUCK_S)
            with contextlib.suppress(BackendFailed, TimeoutError):
                loaded = await self._memory.loaded()
                here = [
                    one for one in loaded if one.server == self.facts.server and one.memory_key != self.facts.memory_key
                ]
                if idle := least_recently_used(here):
                    await self._memory.evict(idle)
