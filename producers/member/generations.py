"""The requests on their way to one model: as many at once as it has slots, identical ones together.

    session 1 --request a--+
    session 2 --request a--+--> one generation --> slot --> every chunk to both
    session 3 --request b-----> waits -----------> slot

A request that waits is sent as soon as a slot is free (`slots.py`), so requests that came together while the model was
busy or loading are sent together. Requests are identical in messages, options and seed; without a seed and above
temperature 0, each of them gets its own random answer. A generation that has produced a chunk takes no further request:
its first tokens would be late for that one. Nor does a generation of a backend that pauses: each session decides for
itself when its own continues. Nor one with a seat (slots.py): each member that is steered leaves its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

from producers.backend import Backend, BackendFailed, Chunk, Ending, ModelLoading, ModelReady, ModelWaiting, Request
from producers.member.slots import Age, Seat, Slots
from runtime.log import Log

Item = Chunk | ModelLoading | ModelWaiting | ModelReady
# Takes an item at the moment at which it arrives; a returned Ending leaves the generation.
Take = Callable[[Item], Ending | None]
# Returns when the next chunk may be taken from a backend that pauses.
Wait = Callable[[], Coroutine[Any, Any, None]]


class Generations:
    """The generations of one backend, which has started."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._slots = Slots(backend.slots)
        self._open: dict[Request, _Generation] = {}
        # How many requests were sent to the model, how many sessions shared another's, and how many answers contained
        # something that the backend does not understand.
        self.asked = self.shared = self.odd = 0
        self._odd_named: set[str] = set()

    @property
    def has_room(self) -> bool:
        """True while a slot is free."""
        return self._slots.has_free

    def note_odd(self, odd: Sequence[str], log: Log) -> None:
        """Counts an answer of whose stream the backend did not understand all, and names each kind once."""
        self.odd += 1
        kinds = {what.partition(" (")[0]: what for what in odd}
        if new := [what for kind, what in kinds.items() if kind not in self._odd_named]:
            self._odd_named |= kinds.keys()
            log.warning("the model server sent what is not understood: the text is kept", sent=", ".join(new))

    def close_queue(self) -> None:
        """No request that waits for a slot is sent to the model from now on."""
        self._slots.close()

    @contextlib.contextmanager
    def seat(self, age: Age) -> Iterator[Seat]:
        """A place for the slot of one member between its generations."""
        seat = Seat(self._slots, age)
        try:
            yield seat
        finally:
            seat.leave()

    async def follow(
        self, request: Request, take: Take, wait: Wait | None = None, age: Age = (0, 0), seat: Seat | None = None
    ) -> Ending:
        """Calls `take` with each item until the model ends. Raises BackendFailed. Cancelling leaves the generation; the
        last session that leaves stops it. A backend that pauses produces each chunk after `wait`, and keeps its slot
        meanwhile, unless an older session needs it before the first chunk: `age` is that of the session. With a `seat`
        it uses the slot in that, if there is one, and leaves its slot there."""
        if self._backend.pauses or seat is not None:
            return await _Generation(self, request, wait, age, seat).follow(take)
        generation = self._open.get(request) if _is_repeatable(request) else None
        if generation is None:
            generation = _Generation(self, request, age=age)
            if _is_repeatable(request):
                self._open[request] = generation
        else:
            self.shared += 1
        return await generation.follow(take)

    async def generate(self, generation: _Generation) -> None:
        """One generation, from the wait for a slot to its end. Raises BackendFailed."""
        async with self._slot_for(generation):
            self.asked += 1
            async with contextlib.aclosing(self._backend.generate(generation.request)) as items:  # type: ignore[type-var]
                async for item in items:
                    if isinstance(item, Chunk | Ending):
                        self.close(generation)
                    if isinstance(item, Ending):
                        generation.end(item)
                        return
                    generation.hand_out(item)
                    await generation.wait()
        raise BackendFailed("its stream ended before the answer was complete")

    @contextlib.asynccontextmanager
    async def _slot_for(self, generation: _Generation) -> AsyncIterator[None]:
        """A slot, once the generation may start; while it is held back, an older session may take its slot."""
        seat = generation.seat
        while True:
            slot = seat.take() if seat else None
            if slot is None:
                if not self._slots.has_free:
                    generation.hand_out(ModelWaiting())
                slot = await self._slots.take(generation.age)
            is_wanted = False
            try:
                generation.hand_out(ModelReady())
                self._slots.hold_back(slot)
                if await generation.may_start(slot.is_wanted):
                    self._slots.start(slot)
                    yield
                    return
                is_wanted = True
            finally:
                if seat is None or is_wanted:
                    self._slots.give_back(slot)
                else:
                    self._slots.start(slot)
                    seat.keep(slot)

    def close(self, generation: _Generation) -> None:
        """No other session can join from now on."""
        if self._open.get(generation.request) is generation:
            del self._open[generation.request]


class _Generation:
    """One request at the model, and all sessions that follow it."""

    def __init__(
        self,
        generations: Generations,
        request: Request,
        wait: Wait | None = None,
        age: Age = (0, 0),
        seat: Seat | None = None,
    ) -> None:
        self.request, self.age, self.seat = request, age, seat
        self._generations, self._wait = generations, wait
        self._followers: dict[asyncio.Future[Ending], Take] = {}
        self._task: asyncio.Task[None] | None = None
        self._last_sign: ModelLoading | ModelWaiting | ModelReady | None = None

    async def follow(self, take: Take) -> Ending:
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._followers[ended] = take
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._last_sign is not None:
            take(self._last_sign)
        try:
            return await ended
        finally:
            self._followers.pop(ended, None)
            if ended.done() and not ended.cancelled():
                ended.exception()  # marks it as retrieved, in case this session was cancelled meanwhile
            if not self._followers:
                await self._stop()

    async def _run(self) -> None:
        try:
            await self._generations.generate(self)
        except Exception as error:  # noqa: BLE001  # whatever it is, the sessions that follow must receive it
            failure = error
            self._end_all(lambda ended: ended.set_exception(failure))
        finally:
            self._generations.close(self)

    async def _stop(self) -> None:
        self._generations.close(self)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def may_start(self, is_wanted: asyncio.Event) -> bool:
        """True when the first item may be taken; False where an older session needs the slot before."""
        if self._wait is None:
            return True
        starting, wanted = asyncio.ensure_future(self._wait()), asyncio.ensure_future(is_wanted.wait())
        try:
            await asyncio.wait({starting, wanted}, return_when=asyncio.FIRST_COMPLETED)
            return starting.done()
        finally:
            starting.cancel()
            wanted.cancel()
            await asyncio.gather(starting, wanted, return_exceptions=True)

    async def wait(self) -> None:
        """Returns when the next item may be taken."""
        if self._wait is not None:
            await self._wait()

    def hand_out(self, item: Item) -> None:
        """Gives the item to each session at once: now is the time of its arrival."""
        self._last_sign = None if isinstance(item, Chunk) else item
        for ended, take in list(self._followers.items()):
            if not ended.done() and (ending := take(item)):
                ended.set_result(ending)
        if all(ended.done() for ended in self._followers):
            # No session needs more; they stop this task as they leave.
            self._generations.close(self)

    def end(self, ending: Ending) -> None:
        self._end_all(lambda ended: ended.set_result(ending))

    def _end_all(self, end: Callable[[asyncio.Future[Ending]], Any]) -> None:
        for ended in self._followers:
            if not ended.done():
                end(ended)


def _is_repeatable(request: Request) -> bool:
    return request.seed is not None or request.temperature == 0.0
