"""Keeps one model in memory, or out of it: the loop around a ModelResidency, which decides what is done when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from producers.backend import Residence
from producers.memory.loading import Sign
from producers.memory.procedures import AT_SERVER, MemoryCommand
from producers.memory.residency import ModelResidency, Waiter
from runtime.log import Log
from schemas.errors import RedisAway, RedisRefuses
from schemas.grid import NS_PER_MS
from schemas.models import ModelFacts, facts_in
from schemas.rules.tiers import TierPolicy
from transport import residency as ledger
from transport.redis.connection import AsyncPipe, Command, accepted
from transport.register import ProcessRegistration, list_processes
from transport.tokens import RisingClock


class ModelKeeper:
    """One process's model, where the council decides when it is loaded. `registration` is the record that other
    processes read; `known` returns what the backend knows of the model by now."""

    def __init__(
        self,
        pipe: AsyncPipe,
        residence: Residence,
        registration: ProcessRegistration,
        known: Callable[[], ModelFacts],
        tier: TierPolicy,
        log: Log,
    ) -> None:
        self._pipe, self._residence, self._registration, self._log = pipe, residence, registration, log
        self._known = known
        facts = facts_in(registration.detail)
        self._residency = ModelResidency(registration.name, registration.host, facts, tier)
        self._clock = RisingClock()
        self._logged = facts.trouble
        self._news = asyncio.Event()
        self._tasks: dict[MemoryCommand, asyncio.Task[None]] = {}
        self._replies: list[tuple[MemoryCommand, Any]] = []

    @property
    def is_seen(self) -> bool:
        """True where the latest look found the model in memory."""
        return self._residency.record.is_seen

    @contextlib.asynccontextmanager
    async def in_use(self, user: str) -> AsyncIterator[None]:
        """While it lasts the model stays in memory. `user` differs from each other use by this process at the same
        time."""
        begun = asyncio.get_running_loop().create_future()
        user = f"{self._registration.name} {user}"
        self._residency.begin_use(user, _resolver(begun))
        self._news.set()
        try:
            await begun
            yield
        finally:
            command = self._residency.end_use(user, self._now_ms())
            self._registration.detail |= self._residency.record.detail
            with contextlib.suppress(RedisAway):
                await self._pipe.run([self._in_redis(command), *self._registration.renew()])

    async def ensure_loaded(self, show: Callable[[Sign], object]) -> None:
        """Returns when the model is in memory. Raises OutOfMemory, BackendFailed. A caller that is cancelled takes
        nothing from the others that wait; the last one ends the load."""
        if self.is_seen:
            return
        ended = asyncio.get_running_loop().create_future()
        waiter = Waiter(show, _resolver(ended))
        self._residency.join(waiter)
        self._news.set()
        try:
            await ended
        finally:
            self._residency.leave(waiter)
            self._news.set()

    async def run(self, *, is_warmed: bool) -> None:
        """Runs until it is cancelled. `is_warmed`: it loads the model at the start, where it fits."""
        self._residency.begin(is_warmed=is_warmed)
        try:
            while True:
                self._news.clear()
                self._turn()
                pause_ms = self._residency.next_ms - self._now_ms()
                if pause_ms > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_ms / 1_000):
                            await self._news.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            if final_commands := self._residency.close():
                with contextlib.suppress(RedisAway):
                    await self._pipe.run([self._in_redis(command) for command in final_commands])

    def _turn(self) -> None:
        """Takes the replies that came, sends what is due, and ends the work that nothing waits for any more."""
        replies, self._replies = self._replies, []
        for command, reply in replies:
            if isinstance(reply, RedisAway | RedisRefuses):
                self._residency.ask_again(command, self._now_ms())
            else:
                self._residency.take(command, reply, self._now_ms())
        commands = self._residency.due(self._now_ms())
        self._registration.detail |= self._residency.record.detail
        for command in commands:
            self._tasks[command] = asyncio.create_task(self._perform(command))
        for command, task in self._tasks.items():
            # A command to Redis is never cancelled: that would close the connection, which others use as well.
            if command.kind in AT_SERVER and not self._residency.is_awaited(command):
                task.cancel()

    async def _perform(self, command: MemoryCommand) -> None:
        """Sends a command; its reply, or the exception in its place, is taken with the next turn."""
        try:
            reply = await (self._ask_server(command) if command.kind in AT_SERVER else self._ask_redis(command))
        except Exception as error:  # noqa: BLE001  # the procedure that waits for the reply decides what it means
            reply = error
        finally:
            del self._tasks[command]
        self._replies.append((command, reply))
        self._news.set()

    async def _ask_server(self, command: MemoryCommand) -> Any:
        """Raises BackendFailed, OutOfMemory, TimeoutError."""
        async with asyncio.timeout(command.within_ms / 1_000 if command.within_ms else None):
            match command.kind:
                case "look":
                    return await self._residence.residents(), self._known()
                case "load":
                    return await self._residence.load()
                case _:
                    return await self._residence.unload(command.memory_key[1])

    async def _ask_redis(self, command: MemoryCommand) -> Any:
        """Raises RedisAway, RedisRefuses."""
        pipe, key = self._pipe, command.memory_key
        match command.kind:
            case "read_records":
                return await list_processes(pipe)
            case "read_uses":
                replies = await pipe.run(ledger.read_uses())
                if ended := ledger.sweep_uses(replies):
                    await pipe.run([ended])
                return ledger.keys_in_use(replies)
            case "take_order":
                return await ledger.take_order(pipe, self._residency.record.facts.model)
            case "take_request_to_leave":
                return await ledger.is_asked_to_leave(pipe, key, self._now_ms())
            case "publish":
                self._log_problem()
                return await pipe.run(self._registration.renew())
            case _:
                return int(accepted(*await pipe.run([self._in_redis(command)])))

    def _in_redis(self, command: MemoryCommand) -> Command:
        """A command that is a single one of Redis."""
        key, process = command.memory_key, self._registration.name
        match command.kind:
            case "use":
                return ledger.use(key, command.user)
            case "end_use":
                return ledger.end_use(key, command.user)
            case "hold_loader":
                return ledger.hold_loader(process, command.size_bytes)
            case "release_loader":
                return ledger.give_up_loader(process)
            case "begin_eviction":
                return ledger.begin_eviction(key)
            case "end_eviction":
                return ledger.end_eviction(key)
            case "ask_to_leave":
                return ledger.ask_to_leave(key, self._now_ms() + command.within_ms)
            case "end_asking":
                return ledger.end_asking(key)
            case _:
                raise ValueError(f"{command.kind} is not a single command")

    def _log_problem(self) -> None:
        trouble, before = self._residency.record.facts.trouble, self._logged
        self._logged = trouble
        if trouble and trouble != before:
            self._log.info("the model has a problem", reason=trouble)

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS


def _resolver(future: asyncio.Future[None]) -> Callable[[Exception | None], None]:
    """A callback that ends the future, unless its caller was cancelled."""

    def resolve(error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # marks it as retrieved, in case the caller is cancelled before it sees it

    return resolve
