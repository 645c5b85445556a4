"""A producer process: it takes its model's sessions from its consumer group and serves each in its own task.

serves --asked to end--> drains: takes no session, hands over those that wait, finishes the text that has begun
                           |  all text is complete; `drain_s` have passed; a second signal
                           v
                         drops the members whose text is not complete, and ends
"""

from __future__ import annotations

import asyncio
import contextlib

from producers.backend import Backend
from producers.member.served import ServedModel
from producers.member.serving import Service, SessionServing
from producers.source import ModelSource
from runtime.leasing import LeasedSessions
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.role import StopEvents
from schemas import keys
from schemas.errors import OtherVersion, RedisAway, RedisRefuses
from schemas.rules.tiers import TierPolicy
from transport.leases import REFRESH_S, Lease
from transport.register import ProcessRegistration, list_processes

_RETRY_S = 0.25
# Sessions that wait for a slot cost a task each; more than these are left to other processes.
_MOST_SESSIONS = 64
_STOP_WITHIN_S = 2.0
# A producer sees the end of a session with the next window, or with its next look at the orders.
_JUST_ENDED_S = 0.25


class ProducerProcess:
    """One model, served until it is asked to end, and for at most `drain_s` seconds longer."""

    def __init__(
        self,
        url: str,
        model: str,
        source: ModelSource,
        backend: Backend,
        tier: TierPolicy,
        registration: ProcessRegistration,
        log: Log,
        stop: StopEvents,
        *,
        drain_s: float = 0.0,
        is_warmed: bool = False,
    ) -> None:
        """`is_warmed`: the model is loaded at the start, where it fits, and not with its first request."""
        self._model, self._source, self._backend, self._tier = model, source, backend, tier
        self._registration, self._log, self._stop = registration, log, stop
        self._drain_s, self._is_warmed = drain_s, is_warmed
        self._served: asyncio.Future[ServedModel] = asyncio.get_running_loop().create_future()
        self._servings: dict[str, tuple[Lease, SessionServing, asyncio.Task[None]]] = {}
        self._presence = RedisPresence(log)
        self._leased = LeasedSessions(
            url, keys.producer_group(model), registration, self._presence, log, _MOST_SESSIONS, serve=self._serve,
            give_up=self._give_up, count=lambda: len(self._servings), facts=self._facts,
        )  # fmt: skip
        self._pipe = self._leased.pipe
        self._service = Service(
            self._pipe, model, self._served, backend.pauses, registration.public_name, self._presence, log
        )

    async def run(self) -> None:
        """Serves until it is asked to end, and drains. Then ends the members whose text it has begun, and hands the
        other sessions over."""
        taking, *others = work = [
            asyncio.create_task(part()) for part in (self._leased.take_new, self._leased.keep_up, self._start)
        ]
        asked = asyncio.create_task(self._stop.asked.wait())
        # The parts never end by themselves: this process is asked to end, or a part raised an exception.
        await asyncio.wait([*work, asked], return_when=asyncio.FIRST_COMPLETED)
        taking.cancel()
        if self._stop.asked.is_set():
            await self._drain()
        for task in (*others, asked):
            task.cancel()
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await self._end_sessions()
        except (RedisAway, TimeoutError):
            self._log.warning("Redis is away; other processes take the sessions over when their leases expire")
        results = await asyncio.gather(*work, return_exceptions=True)
        await self._backend.close()
        await self._leased.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _start(self) -> None:
        await self._backend.start()
        model = ServedModel(
            self._pipe, self._model, self._source, self._backend, self._registration, self._tier, self._log
        )
        self._served.set_result(model)
        self._registration.ready = True
        with contextlib.suppress(RedisAway):
            await self._pipe.run(self._registration.renew())
        if model.keeper is not None:
            await model.keeper.run(is_warmed=self._is_warmed)
        await self._stop.asked.wait()

    async def _drain(self) -> None:
        """Returns when the answers that have begun are complete, after `drain_s`, or at once where it must not wait."""
        self._leased.stop_taking()
        self._registration.drain()
        if self._served.done():
            self._served.result().generations.close_queue()
        finishing = asyncio.create_task(self._finish())
        at_once = asyncio.create_task(self._stop.at_once.wait())
        ends = [finishing, at_once]
        await asyncio.wait(ends, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)

    async def _finish(self) -> None:
        """Returns when no text is being written. Gives the sessions that wait to another producer of this model, as
        soon as there is one."""
        if writing := self._writing:
            # A session that has just ended needs no sentence.
            await asyncio.wait(writing, timeout=_JUST_ENDED_S)
        if self._writing:
            self._log.warning("finishing its answers before it ends; a second signal ends it at once")
        await self._hand_over_waiting()
        while writing := self._writing:
            await asyncio.wait(writing, timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED)
            await self._hand_over_waiting()

    @property
    def _writing(self) -> list[asyncio.Task[None]]:
        """The sessions whose text has begun and has not ended."""
        return [task for _, serving, task in self._servings.values() if serving.is_writing]

    async def _hand_over_waiting(self) -> None:
        with contextlib.suppress(RedisAway, RedisRefuses):
            await self._pipe.run(self._registration.renew())
            if not await self._has_successor():
                # They wait here, with a sign of life each second: without one, their members would be dropped.
                return
            waiting = [lease for lease, serving, _ in self._servings.values() if serving.has_waiting]
            for lease in waiting:
                self._let_go(lease)
            await self._leased.hand_over(waiting)

    async def _has_successor(self) -> bool:
        """True where another producer of this model takes sessions. Raises RedisAway, RedisRefuses."""
        return any(
            record.role == "producer" and record.ready and record.detail.get("model") == self._model
            for record in await list_processes(self._pipe)
            if record.name != self._registration.name
        )

    async def _end_sessions(self) -> None:
        for lease, serving, task in list(self._servings.values()):
            has_waiting = serving.has_waiting
            await serving.stop()
            task.cancel()
            if not has_waiting:
                await self._leased.acknowledge(lease)
        await self._leased.leave_group()

    def _facts(self) -> dict[str, str | int | float | bool]:
        """The part of the process record that is about requests; the model's keeper sets the rest."""
        facts = dict[str, str | int | float | bool]()
        if self._served.done():
            model = self._served.result()
            generations = model.generations
            facts |= {"requests": generations.asked, "shared": generations.shared, "odd_answers": generations.odd}
            facts |= model.last_failure
            # Known after the one real try, which the first request that needs it makes.
            facts["continues"] = self._backend.facts.continues
        if self._backend.residence is None:
            # A server that was away at the start may be back, which a request notices.
            facts["trouble"] = self._backend.facts.trouble
        return facts

    def _serve(self, lease: Lease) -> None:
        if lease.entry_id in self._servings:
            return
        serving = SessionServing(self._service, lease.session)
        task = asyncio.create_task(self._see_through(lease, serving))
        self._servings[lease.entry_id] = (lease, serving, task)

    async def _see_through(self, lease: Lease, serving: SessionServing) -> None:
        while True:
            try:
                await serving.run()
                await self._leased.acknowledge(lease)
                break
            except OtherVersion as error:
                await self._leased.leave(lease, error)
                break
            except (RedisAway, RedisRefuses) as error:
                # Before the claim nothing was written, and a session may be acknowledged twice: again from the start.
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S if isinstance(error, RedisAway) else REFRESH_S)
        self._servings.pop(lease.entry_id, None)

    def _give_up(self, lease: Lease) -> None:
        """Another producer has the lease."""
        if self._let_go(lease):
            self._log.warning("another producer took the session over", session=lease.session)

    def _let_go(self, lease: Lease) -> bool:
        """Ends what another producer can do. Text that has begun continues here: no other producer can continue it.
        True where nothing continues."""
        found = self._servings.get(lease.entry_id)
        if not found or not found[1].give_up():
            return False
        del self._servings[lease.entry_id]
        found[2].cancel()
        return True
