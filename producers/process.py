"""A producer process: it takes its model's sessions from its consumer group and serves each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time

from producers.backend import Backend
from producers.served import ServedModel
from producers.serving import Service, SessionServing
from producers.source import ModelSource
from schemas import keys
from schemas.errors import RedisAway, RedisRefuses
from schemas.tiers import TierPolicy
from transport.connection import AsyncPipe, ReplyError
from transport.leases import BLOCK_MS, LOOK_S, REFRESH_S, Lease, Leases, has_left, is_missing_group
from transport.log import Log
from transport.presence import RedisPresence
from transport.process import Standing

_RETRY_S = 0.25
# Sessions that wait for a slot cost a task each; whoever has more than this leaves them to others.
_MOST_SESSIONS = 64
_GOODBYE_S = 2.0


class ProducerProcess:
    """One model, served until `stopping` is set."""

    def __init__(
        self,
        url: str,
        model: str,
        source: ModelSource,
        backend: Backend,
        tier: TierPolicy,
        standing: Standing,
        log: Log,
        stopping: asyncio.Event,
        *,
        is_warmed: bool = False,
    ) -> None:
        """`is_warmed`: the model is loaded at the start, where it fits, and not when it is first asked."""
        self._pipe, self._blocking_pipe = AsyncPipe(url), AsyncPipe(url)
        self._leases = Leases(keys.producer_group(model), standing.name)
        self._model, self._source, self._backend, self._tier = model, source, backend, tier
        self._standing, self._log, self._stopping = standing, log, stopping
        self._is_warmed = is_warmed
        self._served: asyncio.Future[ServedModel] = asyncio.get_running_loop().create_future()
        self._servings: dict[str, tuple[Lease, SessionServing, asyncio.Task[None]]] = {}
        self._presence = RedisPresence(log)
        self._service = Service(self._pipe, model, self._served, backend.pauses, standing.name, self._presence, log)

    async def run(self) -> None:
        """Serves; then says goodbye to the sessions it has begun and hands the others over."""
        work = [asyncio.create_task(part()) for part in (self._start, self._keep_up, self._take_new)]
        stopping = asyncio.create_task(self._stopping.wait())
        # Work never ends by itself: what ends here is the wish to stop, or a part that broke.
        await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (*work, stopping):
            task.cancel()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._say_goodbye()
        except (RedisAway, TimeoutError):
            self._log.warning("Redis is away; the sessions will be taken over when their leases run out")
        results = await asyncio.gather(*work, return_exceptions=True)
        await self._backend.close()
        await self._pipe.close()
        await self._blocking_pipe.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _start(self) -> None:
        await self._backend.start()
        model = ServedModel(self._pipe, self._model, self._source, self._backend, self._standing, self._tier, self._log)
        self._served.set_result(model)
        self._standing.ready = True
        with contextlib.suppress(RedisAway):
            await self._pipe.run(self._standing.renew())
        if model.residency is not None:
            if self._is_warmed:
                model.residency.warm_up()
            await model.residency.run()
        await self._stopping.wait()

    async def _say_goodbye(self) -> None:
        for lease, serving, task in list(self._servings.values()):
            begun = serving.has_begun
            await serving.stop()
            task.cancel()
            if begun:
                await self._pipe.run([self._leases.acknowledge(lease)])
        await self._pipe.run([self._leases.hand_over(), *self._standing.leave()])

    async def _keep_up(self) -> None:
        """Once a second: the record, the leases, and whoever of this model is silent."""
        while True:
            try:
                room = _MOST_SESSIONS - len(self._servings)
                reply, *_ = await self._pipe.run([self._leases.refresh(min(room, 4)), *self._standing.renew()])
                self._presence.come_back()
                if is_missing_group(reply):
                    await self._pipe.run(self._leases.create_group())
                lost, taken = self._leases.add_refresh(reply)
                for lease in lost:
                    self._give_up(lease)
                for lease in taken:
                    self._serve(lease)
            except RedisAway as error:
                self._presence.lose(error)
            self._standing.detail["sessions"] = len(self._servings)
            if self._served.done():
                generations = self._served.result().generations
                self._standing.detail |= {"requests": generations.asked, "shared": generations.shared}
            if self._backend.residence is None:
                # A server that was away at the start may be back: its requests find out.
                self._standing.detail["trouble"] = self._backend.facts.trouble
            await self._rest()

    async def _rest(self) -> None:
        """A second, or less where another producer of this model has left a session: who took it is dropped when it
        has been silent for five."""
        if not self._leases.has_others:
            await asyncio.sleep(REFRESH_S)
            return
        until = time.monotonic() + REFRESH_S
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(RedisAway):
                (left,) = await self._pipe.run([self._leases.look_for_left()])
                if has_left(left):
                    return

    async def _take_new(self) -> None:
        while True:
            room = _MOST_SESSIONS - len(self._servings)
            if room <= 0:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                ask = self._leases.read_new(min(room, 8), BLOCK_MS)
                (reply,) = await self._blocking_pipe.run([ask], block_s=BLOCK_MS / 1000)
                if is_missing_group(reply):
                    await self._blocking_pipe.run(self._leases.create_group())
                elif isinstance(reply, ReplyError):
                    await asyncio.sleep(_RETRY_S)
                for lease in self._leases.add_new(reply):
                    self._serve(lease)
            except RedisAway as error:
                self._presence.lose(error)
                await asyncio.sleep(_RETRY_S)

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
                await self._pipe.run([self._leases.acknowledge(lease)])
                break
            except RedisAway:
                # Before the claim nothing was said, and an acknowledgement may be said twice: from the look on again.
                await asyncio.sleep(_RETRY_S)
            except RedisRefuses as error:
                self._log.warning("Redis refuses a session", session=lease.session, error=str(error))
                await asyncio.sleep(REFRESH_S)
        self._servings.pop(lease.entry_id, None)

    def _give_up(self, lease: Lease) -> None:
        """Another producer has the lease. Text that has begun goes on all the same: no other producer can continue
        it."""
        found = self._servings.get(lease.entry_id)
        if found and found[1].give_up():
            self._log.warning("another producer took the session over", session=lease.session)
            del self._servings[lease.entry_id]
            found[2].cancel()
