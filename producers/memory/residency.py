"""Whether one model is in memory, beside the other models of this machine. Pure: no clock, no I/O, no asyncio.

    a session --> use --> join --is it in memory?--> yes
                           |
                           no --> the loader's lease (one process loads at a time)
                                    --> does it fit? evict the least recently used models, never one in use
                                    --> load --> is everything within the budget now?

A model in use stays in memory, whatever is ordered. Sizes are measured where the models are: by the model server, or by
the process that holds the model. While a process has the lease, only its load has no time limit.

Times are wall-clock milliseconds that never fall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from producers.backend import BackendFailed, ModelWaiting
from producers.memory.eviction import models_to_evict
from producers.memory.loaded import GLANCE_MS, CouncilMemory
from producers.memory.loading import ModelLoad, Sign
from producers.memory.procedures import ASK_AGAIN_MS, MemoryCommand, Procedure, Procedures, StartedProcedure
from producers.memory.record import ModelRecord
from schemas.models import ModelFacts
from schemas.rules.tiers import TierPolicy

RENEW_MS = 1_000
# A server may unload a model by itself: the record is at most this old.
LOOK_MS = 5_000
# An idle model is loaded again well before its server unloads it (by default after ten minutes).
KEEP_WARM_MS = 240_000


class Waiter(NamedTuple):
    """Waits for a model to be in memory: `show` is called with each sign, `end` with None or the failure."""

    show: Callable[[Sign], object]
    end: Callable[[Exception | None], object]


class ModelResidency:
    """One process's model, where the council decides when it is loaded. `process` and `host` are this process's."""

    def __init__(self, process: str, host: str, facts: ModelFacts, tier: TierPolicy) -> None:
        self.record = ModelRecord(facts)
        self._process, self._tier = process, tier
        self._procedures = Procedures()
        self._memory = CouncilMemory(self._procedures, self.record, host)
        self._uses: dict[str, StartedProcedure] = {}
        self._users: set[str] = set()
        self._load = ModelLoad(self._procedures, self._memory, self.record, tier, self._show)
        self._is_kept_warm = False
        self._renew_ms, self._published = 0, self.record.news
        self._waiters: list[Waiter] = []
        self._sign: Sign = ModelWaiting()
        # The load that the waiters wait for, the one at the start, and the waiter of an order to load.
        self._loading: StartedProcedure | None = None
        self._warming: StartedProcedure | None = None
        self._ordered = Waiter(lambda _sign: None, self._end_order)

    # --- what the keeper calls ----------------------------------------------------------------------------------------

    def begin(self, *, is_warmed: bool) -> None:
        """Follows orders from now on, and looks now and then at what is in memory. `is_warmed`: it also loads the model
        where it fits beside the loaded ones; none is evicted for it."""
        self._procedures.start(self._follow_orders())
        self._procedures.start(self._look_again())
        if is_warmed:
            self._is_kept_warm = True
            self._warming = self._procedures.start(self._load.warm(self._process), self._end_order)

    def due(self, now_ms: int) -> list[MemoryCommand]:
        """The commands to send now. Their replies go to take()."""
        commands = self._procedures.due(now_ms)
        if (news := self.record.news) != self._published:
            # Before the others: what this process gives up with them is in its record by then.
            self._published = news
            commands.insert(0, self._memory.command("publish"))
        if now_ms >= self._renew_ms:
            self._renew_ms = now_ms + RENEW_MS
            commands += [self._memory.command("use", user=user) for user in sorted(self._users)]
            commands += [self._memory.command("begin_eviction", key) for key in sorted(self._memory.evicting)]
            commands += [self._memory.command("hold_loader")] if self._load.has_lease else []
        return commands

    @property
    def next_ms(self) -> int:
        """When due() has to be called again, if nothing happens before."""
        return self._procedures.next_ms(self._renew_ms)

    def take(self, command: MemoryCommand, reply: Any, now_ms: int) -> None:
        """Takes a reply, or the exception in its place: BackendFailed, OutOfMemory; TimeoutError for `within_ms`."""
        is_renewal = not self._procedures.take(command, reply, now_ms)
        if is_renewal and command.kind == "hold_loader" and reply == 0:
            # A process that was stopped for a while has lost the lease, for good.
            self._load.has_lease = False

    def ask_again(self, command: MemoryCommand, now_ms: int) -> None:
        """Redis was away, or refused the command."""
        self._procedures.ask_again(command, now_ms)

    def is_awaited(self, command: MemoryCommand) -> bool:
        """False once nothing waits for the command's reply: then its work may be cancelled."""
        return self._procedures.is_awaited(command)

    def close(self) -> list[MemoryCommand]:
        """Ends everything; returns the commands that give up what this process holds."""
        self._procedures.close_all()
        return self._procedures.final_commands

    def begin_use(self, user: str, begun: Callable[[Exception | None], None]) -> None:
        """Calls `begun` once the use is in Redis: from then on the model is not evicted. `user` differs from each other
        use of this process."""
        self._uses[user] = self._procedures.start(self._use(user), begun)

    def end_use(self, user: str, now_ms: int) -> MemoryCommand:
        """Returns the command that takes the use back."""
        self._procedures.close(self._uses.pop(user, None))
        self._users.discard(user)
        self.record.used_ms = now_ms
        return self._memory.command("end_use", user=user)

    def join(self, waiter: Waiter) -> None:
        """Loads the model, or joins the load under way."""
        self._waiters.append(waiter)
        if self._loading is None:
            self._sign = ModelWaiting()
            self._loading = self._procedures.start(self._load.bring_in(), self._end_loading)
        waiter.show(self._sign)

    def leave(self, waiter: Waiter) -> None:
        """Waits no longer. The others go on waiting; the last one ends the load."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if not self._waiters:
            self._procedures.close(self._loading)
            self._loading = None

    def _show(self, sign: Sign) -> None:
        self._sign = sign
        for waiter in self._waiters:
            waiter.show(sign)

    def _end_loading(self, error: Exception | None) -> None:
        waiters, self._waiters, self._loading = self._waiters, [], None
        for waiter in waiters:
            waiter.end(error)

    # --- uses, orders and looks ---------------------------------------------------------------------------------------

    def _use(self, user: str) -> Procedure[None]:
        while not (evictions := (yield self._memory.command("use", user=user))):
            yield ASK_AGAIN_MS
        # After an eviction the model has to be looked for again.
        self.record.is_seen = self.record.is_seen and evictions == self._load.evictions
        self._load.evictions = evictions
        self._users.add(user)

    def _follow_orders(self) -> Procedure[None]:
        while True:
            order = yield self._memory.command("take_order")
            if order is not None:
                self._is_kept_warm = order == "load"
                self._procedures.close(self._warming)
                self.leave(self._ordered)
            if order == "load":
                self.join(self._ordered)
            elif order == "unload" or (yield self._memory.command("take_request_to_leave")):
                yield from self._unload()
            yield RENEW_MS

    def _end_order(self, error: Exception | None) -> None:
        """Ends the load that was ordered, or the one at the start."""
        if isinstance(error, BackendFailed):
            self.record.set_trouble(str(error), of_load=True)
        elif error is not None:
            raise error

    def _unload(self) -> Procedure[None]:
        """Takes the model out of memory, unless it is in use or being loaded."""
        if self._load.is_under_way:
            return
        try:
            yield from self._memory.evict_here()
        except TimeoutError:
            pass  # the next look finds out
        except BackendFailed as failure:
            self.record.set_trouble(str(failure))

    def _look_again(self) -> Procedure[None]:
        warmed_ms = self._procedures.now_ms
        while True:
            yield LOOK_MS
            if self._load.is_under_way:
                continue
            unloads = self._memory.unloads
            try:
                residents, known = yield self._memory.command("look", within_ms=GLANCE_MS)
                # What it found may be older than a load or an unload that has begun meanwhile.
                is_old = self._load.is_under_way or unloads != self._memory.unloads
                if is_old or self.record.take_look(residents, known) is None:
                    continue
                leaving = models_to_evict((yield from self._memory.loaded()), None, self._tier, self._procedures.now_ms)
                if any(one.memory_key == self.record.facts.memory_key for one in leaving or ()):
                    yield from self._unload()
                elif self._is_kept_warm and self._procedures.now_ms - warmed_ms >= KEEP_WARM_MS:
                    warmed_ms = self._procedures.now_ms
                    yield self._memory.command("load")
            except TimeoutError:
                continue  # the server is loading a model, and lists none meanwhile
            except BackendFailed as failure:
                self.record.is_seen = False
                self.record.set("absent")
                self.record.set_trouble(str(failure))
