"""Loading one model: the procedures from the first look to the last eviction. Pure: procedures.py sends the commands.

is it in memory? --no--> the loader's lease (one process loads at a time, the smallest model first)
                           --> does it fit? evict the least recently used models, never one in use
                           --> load --> is everything within the budget now?
"""

from __future__ import annotations

from collections.abc import Callable

from producers.backend import BackendFailed, ModelLoading, ModelWaiting, OutOfMemory, Resident
from producers.memory.eviction import least_recently_used, models_to_evict, wanted_model
from producers.memory.loaded import GLANCE_MS, CouncilMemory
from producers.memory.procedures import ASK_AGAIN_MS, Procedure, Procedures
from producers.memory.record import ModelRecord
from schemas.errors import Refused
from schemas.models import facts_in
from schemas.rules.choice import check_size, gigabytes
from schemas.rules.served import council_models
from schemas.rules.tiers import TierPolicy

Sign = ModelLoading | ModelWaiting

# Producers that start together are ready within moments; a slower one is not waited for.
PEERS_START_MS = 5_000
# A load that takes longer may wait for an idle model of the council that its server keeps; one is unloaded each time.
STUCK_MS = 60_000


class ModelLoad:
    """The loads of one process's model, one at a time. `show` is called with each sign of the load."""

    def __init__(
        self,
        procedures: Procedures,
        memory: CouncilMemory,
        record: ModelRecord,
        tier: TierPolicy,
        show: Callable[[Sign], None],
    ) -> None:
        self._procedures, self._memory, self._record, self._tier, self._show = procedures, memory, record, tier, show
        self.is_under_way = self.has_lease = False
        # How often the model had been evicted until the latest use.
        self.evictions = 0

    def bring_in(self) -> Procedure[None]:
        yield from self._wait_for_turn()
        try:
            while (yield from self._memory.look()) is None:
                self._show(ModelWaiting())
                if (yield from self._load_with_lease(evicts=True)):
                    return
                yield ASK_AGAIN_MS
        finally:
            self.is_under_way = False

    def warm(self, process: str) -> Procedure[None]:
        yield from self._wait_for_peers()
        yield from self._wait_for_turn()
        try:
            # From here on an eviction is noticed, so that the first session need not look again.
            while not (evictions := (yield self._memory.command("use", user=process))):
                yield ASK_AGAIN_MS
            yield self._memory.command("end_use", user=process)
            self.evictions = evictions
            if (yield from self._memory.look()) is None:
                yield from self._load_with_lease(evicts=False)
        finally:
            self.is_under_way = False

    def _wait_for_turn(self) -> Procedure[None]:
        while self.is_under_way:
            yield ASK_AGAIN_MS
        self.is_under_way = True

    def _wait_for_peers(self) -> Procedure[None]:
        """Waits until every model of the council has a producer, but not for long: models are warmed smallest first, so
        each producer must be there to ask for the lease."""
        records = yield self._memory.command("read_records")
        until_ms = self._procedures.now_ms + PEERS_START_MS
        while self._procedures.now_ms < until_ms:
            wanted = {model for record in records if record.role == "council" for model in council_models(record)}
            if wanted <= {facts_in(record.detail).model for record in records if record.role == "producer"}:
                return
            yield ASK_AGAIN_MS
            records = yield self._memory.command("read_records")

    def _load_with_lease(self, *, evicts: bool) -> Procedure[bool]:
        """One process loads at a time, the smallest model first; the lease of a dead process ends after seconds."""
        try:
            while (yield self._memory.command("hold_loader")) != 1:
                yield ASK_AGAIN_MS
            self.has_lease = True
            return (yield from self._load_if_it_fits(evicts=evicts))
        finally:
            self.has_lease = False
            self._procedures.final_commands.append(self._memory.command("release_loader"))

    def _load_if_it_fits(self, *, evicts: bool) -> Procedure[bool]:
        """True when it is loaded; False where it has to wait for memory. Raises OutOfMemory, BackendFailed."""
        facts = self._record.facts
        try:
            check_size(facts, self._tier)
        except Refused as refusal:
            raise BackendFailed(str(refusal).removesuffix(".")) from refusal
        try:
            others = yield from self._memory.others()
        except TimeoutError:
            return False
        leaving = models_to_evict(others, wanted_model(facts), self._tier, self._procedures.now_ms)
        if leaving is None or (leaving and not evicts):
            return False
        for one in leaving:
            if not (yield from self._memory.evict(one)):
                return False
        while self.has_lease:
            try:
                yield from self._load(evicts=evicts)
                return True
            except OutOfMemory as failure:
                # The server has measured it: idle models are evicted, one after another, until none is left.
                try:
                    others = yield from self._memory.others()
                except TimeoutError:
                    others = []
                idle = least_recently_used(others) if evicts else None
                if idle is None or not (yield from self._memory.evict(idle)):
                    failure.room_helps = bool(others)
                    raise
        return False

    def _load(self, *, evicts: bool) -> Procedure[None]:
        self._show(ModelLoading())
        self._record.set("loading")
        making_way = self._procedures.start(self._make_way())
        try:
            yield self._memory.command("load")
        except BackendFailed:
            self._record.set("absent")
            raise
        finally:
            self._procedures.close(making_way)
        self._record.used_ms = self._procedures.now_ms
        try:
            own = yield from self._memory.look(GLANCE_MS)
            yield from self._settle(own, evicts=evicts)
        except TimeoutError:
            pass  # the next look finds out

    def _settle(self, own: Resident | None, *, evicts: bool) -> Procedure[None]:
        """How much memory of which kind the model takes is known only now: the least recently used models are evicted
        for it, or the model itself where none may be."""
        leaving = models_to_evict((yield from self._memory.loaded()), None, self._tier, self._procedures.now_ms)
        if leaving == ():
            return
        if evicts:
            for one in leaving or ():
                yield from self._memory.evict(one)
        elif (yield from self._memory.evict_here()):
            size = gigabytes(own.ram_bytes + own.vram_bytes) if own else "more than was known"
            model = self._record.facts.model
            self._record.set_trouble(
                f"{model} takes {size} in memory and is loaded only when it is asked", of_load=True
            )

    def _make_way(self) -> Procedure[None]:
        """A server that has no memory left may wait for an idle model that it was told to keep for long."""
        while not self._record.facts.held_by:
            yield STUCK_MS
            try:
                others = yield from self._memory.others()
                if idle := least_recently_used([one for one in others if one.server == self._record.facts.server]):
                    yield from self._memory.evict(idle)
            except (BackendFailed, TimeoutError):
                pass
