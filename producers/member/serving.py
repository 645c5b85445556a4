"""One session's members of this process's model, from the first read of the session to the last entry of each.

read --> for each member of the model:
         claim --> was text written before? --no--> load the model --> generate --> finished or failed
                               |
                              yes --> does its producer still write? --yes--> leave it
                                                   |
                                                   no --> failed: producer died after it began
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import msgspec

from producers.backend import (
    LENGTH,
    STOP,
    BackendFailed,
    Ending,
    ModelLoading,
    ModelReady,
    ModelWaiting,
    OutOfMemory,
    Request,
    Written,
)
from producers.member.delivery import Delivery
from producers.member.draft import Branch, Draft
from producers.member.endings import shown_reason
from producers.member.generations import Item
from producers.member.grants import GrantGate
from producers.member.served import ServedModel
from producers.member.slots import Seat
from producers.member.takeover import claim_that_began, still_writes
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import entries
from schemas.entries import Claim
from schemas.errors import Malformed, OtherVersion, RedisAway, SessionGone
from schemas.keys import entry_order
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, find_session, read_opening
from transport.tokens import RisingClock, write_entry

DIED_AFTER_IT_BEGAN = "producer died after it began"
STOPPED = "its producer was stopped"
_RETRY_S = 0.25
# A session that makes room for a member drops others, whose models can be evicted within moments.
_ROOM_S = 3.0
# A server sends the end of an answer, which contains how many tokens the prompt has, within a millisecond of the last
# token that was requested. Without it the answer is as whole: a slow one is not worth a delay that a person notices.
_END_S = 0.1


class Service(NamedTuple):
    """What a producer process serves its sessions with. `pauses` is that of its backend, `producer` the process's
    name."""

    pipe: AsyncPipe
    model: str
    served: asyncio.Future[ServedModel]
    pauses: bool
    producer: str
    presence: RedisPresence
    log: Log


class SessionServing:
    """All members of one session with this process's model. `run` returns when nothing is left to do for them."""

    def __init__(self, service: Service, session: str) -> None:
        self._service, self._session = service, session
        self._members: dict[int, tuple[MemberServing, asyncio.Task[None]]] = {}

    @property
    def is_writing(self) -> bool:
        """True while a member's text has begun and has not ended: another producer cannot continue that."""
        return any(serving.has_begun and not task.done() for serving, task in self._members.values())

    @property
    def has_waiting(self) -> bool:
        """True while a member's text has not begun, or none of the session has been read."""
        return not self._members or any(
            not serving.has_begun and not task.done() for serving, task in self._members.values()
        )

    async def run(self) -> None:
        """Raises RedisAway before it has read the session, RedisRefuses, OtherVersion. Run again, it serves the members
        that are not done."""
        try:
            state = await find_session(self._service.pipe, self._session)
            opening = await read_opening(self._service.pipe, state)
        except OtherVersion:
            raise
        except (SessionGone, Malformed):
            return
        if state.status != "open" or opening.replay is not None:
            return
        try:
            for member in self._not_done(opening, state):
                serving = MemberServing(self._service, state.opened, opening, member)
                self._members[member] = serving, asyncio.create_task(_until_claimed(serving))
            results = await asyncio.gather(*[task for _, task in self._members.values()], return_exceptions=True)
        finally:
            for _, task in self._members.values():
                task.cancel()
        for result in results:
            # Not a cancelled one: another producer has that member.
            if isinstance(result, Exception):
                raise result

    def _not_done(self, opening: Opening, state: SessionState) -> list[int]:
        """The members of this model that have not ended, without those that this process is done with. A draft that has
        ended may be steered again, which requires a producer."""
        is_final = opening.sync != "consensus"
        ended = {index for index, progress in enumerate(state.progress) if progress.ended and is_final}
        done = {index for index, (_, task) in self._members.items() if task.cancelled() or task.exception() is None}
        members = enumerate(opening.members)
        return [i for i, spec in members if spec.model == self._service.model and i not in ended and i not in done]

    def give_up(self) -> bool:
        """Another producer has the session, or takes it next: leaves it the members whose text has not begun. True
        where no other member is left here."""
        for serving, task in self._members.values():
            if not serving.has_begun:
                task.cancel()
        return not self.is_writing

    async def stop(self) -> None:
        """Ends the text of each member whose text has begun."""
        await asyncio.gather(*(serving.stop() for serving, _ in self._members.values()))


async def _until_claimed(serving: MemberServing) -> None:
    """Serves a member, again after a break of Redis before its claim. The other members do not wait for that."""
    while True:
        try:
            return await serving.run()
        except RedisAway:
            await asyncio.sleep(_RETRY_S)


class MemberServing:
    """One member of one session. `run` returns when nothing is left to do for it."""

    def __init__(self, service: Service, opened: str, opening: Opening, member: int) -> None:
        """`opened` is the id of the session's opening entry."""
        self._service, self._opened, self._opening, self._member = service, opened, opening, member
        self._pipe, self._session = service.pipe, opening.session
        self._delivery: Delivery | None = None

    @property
    def has_begun(self) -> bool:
        """True once the model has written something: another producer cannot continue it."""
        return self._delivery is not None and self._delivery.has_begun

    async def run(self) -> None:
        """Raises RedisAway before the member was claimed; after that it waits for Redis."""
        is_ready = self._service.served.done() and self._service.served.result().is_ready
        claim = await self._claim(self._member, waits=not is_ready)
        if claim is None:
            return
        opening, is_granted = self._opening, self._service.pauses and self._opening.sync != "free"
        gate = GrantGate(end=opening.prefix_bytes) if is_granted else None
        draft = Draft(opening.prefix) if opening.sync == "consensus" else None
        delivery = self._delivery = Delivery(
            self._pipe, self._session, self._member, claim, self._service.presence, gate, draft, is_ready=is_ready
        )
        winner = await claim_that_began(self._pipe, self._session, self._opened, self._member, claim)
        if winner is None:
            await self._serve(delivery, _request(opening, self._member))
        elif not await still_writes(self._pipe, self._session, winner, claim):
            delivery.fail(DIED_AFTER_IT_BEGAN)
            await delivery.run()

    async def stop(self) -> None:
        """Ends the member's text, if it has begun."""
        if self._delivery and self._delivery.has_begun:
            self._delivery.fail(STOPPED)
            await self._delivery.write_out()

    async def _claim(self, member: int, *, waits: bool) -> str | None:
        mark = Claim(member, RisingClock().now_ns(), self._service.pauses, self._service.producer, waits)
        entry_id = await self._pipe.one(*write_entry(self._session, mark))
        return entry_id.decode() if entry_id else None

    async def _serve(self, delivery: Delivery, request: Request) -> None:
        generating = asyncio.create_task(self._generate(delivery, request))
        try:
            await delivery.run()
        finally:
            generating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await generating

    async def _generate(self, delivery: Delivery, request: Request) -> None:
        if not self._service.served.done():
            # The backend is starting, which may take as long as loading.
            delivery.show(entries.Loading)
        try:
            model = await asyncio.shield(self._service.served)
            async with model.in_use(f"{self._session} {self._member}"):
                if delivery.outbox.is_steerable:
                    await self._draft(model, delivery, request)
                else:
                    await self._write(model, delivery, request)
        except BackendFailed as failure:
            self._service.served.result().failed(str(failure))
            delivery.fail(str(failure))
        except Exception as bug:  # noqa: BLE001  # a bug must end the member with a reason, not with silence
            self._service.log.bind(session=self._session).exception("the backend raised an unexpected exception")
            delivery.fail(f"the producer's backend failed unexpectedly ({type(bug).__name__})")

    async def _draft(self, model: ServedModel, delivery: Delivery, request: Request) -> None:
        """Answers, and continues each text to which the council steers the member, until it is cancelled. Raises
        BackendFailed."""
        with model.generations.seat(entry_order(self._opened)) as seat:
            while True:
                branch = delivery.branch
                steered = asyncio.create_task(delivery.wait_for_steer(branch))
                writing = asyncio.create_task(self._write(model, delivery, _continued(request, branch), seat))
                try:
                    await asyncio.wait({writing, steered}, return_when=asyncio.FIRST_COMPLETED)
                    if not steered.done():
                        await writing
                        seat.park()
                        await steered
                finally:
                    writing.cancel()
                    steered.cancel()
                    await asyncio.gather(writing, steered, return_exceptions=True)

    async def _write(self, model: ServedModel, delivery: Delivery, request: Request, seat: Seat | None = None) -> None:
        """Writes the present branch to its end. Raises BackendFailed."""
        branch = delivery.branch
        if branch.ending is not None:
            return
        ending = await self._answer(model, delivery, request, seat)
        if ending.odd:
            model.generations.note_odd(ending.odd, self._service.log)
        if delivery.branch is branch:
            lanes = delivery.outbox.lanes
            if request.prefix_text.strip():
                lanes.add("answer")
            most = self._opening.sampling_of(self._member).max_tokens
            delivery.finish(msgspec.structs.replace(ending, reason=shown_reason(ending.reason, lanes, most)))

    async def _answer(self, model: ServedModel, delivery: Delivery, request: Request, seat: Seat | None) -> Ending:
        """Raises BackendFailed. Without memory for the model it writes a mark, and tries again until the session drops
        the member."""
        branch, most = delivery.branch, delivery.outbox.count + request.max_tokens

        def take(item: Item) -> Ending | None:
            if delivery.branch is not branch:
                # The council has agreed on another text: this one is not needed.
                return Ending(STOP)
            if isinstance(item, ModelLoading | ModelWaiting):
                delivery.show(entries.Loading if isinstance(item, ModelLoading) else entries.Waiting)
                return None
            delivery.show(entries.Alive)
            if isinstance(item, ModelReady):
                return None
            room = most - delivery.outbox.count
            delivery.add(item.pieces[:room])
            if len(item.pieces) == room and limit.when() is None:
                limit.reschedule(asyncio.get_running_loop().time() + _END_S)
            # A server that ignores max_tokens must not fill the stream.
            return Ending(LENGTH) if len(item.pieces) > room else None

        async def wait() -> None:
            """The end needs no grant."""
            if delivery.outbox.count < most:
                await delivery.wait_for_grant()

        while True:
            try:
                async with asyncio.timeout(None) as limit:
                    await model.ensure_loaded(take)
                    delivery.show(entries.Alive)
                    is_granted = wait if self._service.pauses else None
                    return await model.generations.follow(request, take, is_granted, entry_order(self._opened), seat)
            except (BackendFailed, TimeoutError) as failure:
                if delivery.outbox.count >= most:
                    # The answer is whole, whatever comes instead of its end.
                    return Ending(LENGTH)
                if delivery.has_begun or not isinstance(failure, OutOfMemory):
                    raise
                delivery.starve(str(failure), room_helps=failure.room_helps)
                await asyncio.sleep(_ROOM_S)


def _request(opening: Opening, member: int) -> Request:
    """What the member asks its model. Drafts of a council that agrees on one text are greedy: its temperature is for
    the council's draw."""
    sampling = opening.sampling_of(member)
    return Request(
        opening.prompt,
        opening.system_of(member),
        sampling.max_tokens,
        0.0 if opening.sync == "consensus" else sampling.temperature,
        sampling.seed,
        sampling.top_k,
        opening.limits.silence_ms,
        opening.history,
        (Written(opening.prefix),) if opening.prefix else (),
    )


def _continued(request: Request, branch: Branch) -> Request:
    """The request that continues the text of a branch, with what is left of max_tokens, at least one token."""
    assert branch.draft is not None
    left = max(1, request.max_tokens - branch.draft.spent)
    return msgspec.structs.replace(request, prefix=branch.draft.written, max_tokens=left)
