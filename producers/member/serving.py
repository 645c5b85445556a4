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
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from producers.backend import BackendFailed, Ending, ModelLoading, ModelReady, ModelWaiting, OutOfMemory, Request
from producers.member.delivery import Delivery
from producers.member.endings import shown_reason
from producers.member.generations import Item
from producers.member.grants import GrantGate
from producers.member.served import ServedModel
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import entries
from schemas.entries import AnyEntry, Beat, Cancel, Claim, Steered, Token, decode_entry
from schemas.errors import Malformed, OtherVersion, RedisAway, SessionGone
from schemas.keys import entry_order
from schemas.rules.claims import ClaimLedger, ClaimVerdict
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe, accepted
from transport.sessions import SessionState, find_session, read_opening
from transport.tokens import MOST_ENTRIES, RisingClock, entries_read, read_entries, write_entry

DIED_AFTER_IT_BEGAN = "producer died after it began"
STOPPED = "its producer was stopped"
# A living producer writes at least every half second; this leaves it a second try. The stream is read four times in it.
_SIGNS_OF_LIFE_S = 1.2
_LISTEN_S = 0.3
_RETRY_S = 0.25
# A session that makes room for a member drops others, whose models can be evicted within moments.
_ROOM_S = 3.0


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
        """The members of this model that have not ended, without those that this process is done with."""
        ended = {index for index, progress in enumerate(state.progress) if progress.ended}
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
        gate = GrantGate() if self._service.pauses and self._opening.sync == "step" else None
        delivery = self._delivery = Delivery(
            self._pipe, self._session, self._member, claim, self._service.presence, gate, is_ready=is_ready
        )
        winner = await self._claim_that_began(self._opened, self._member, claim)
        if winner is None:
            await self._serve(delivery, _request(self._opening, self._member))
        elif not await self._still_writes(winner, claim):
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

    async def _claim_that_began(self, opened: str, member: int, claim: str) -> str | None:
        """The claim whose text of this member was accepted before; None where there is none."""
        ledger = ClaimLedger()
        async for entry_id, entry in self._entries(opened, claim):
            if isinstance(entry, Claim) and entry.member == member:
                ledger.add_claim(entry_id)
            elif isinstance(entry, Token) and entry.member == member:
                began = ledger.judge_token(entry.claim, entry.seq) is ClaimVerdict.ACCEPTED
                if began:
                    return ledger.claim
        return None

    async def _still_writes(self, winner: str, claim: str) -> bool:
        """True where the winning claim's producer still runs: after a stall of Redis every lease looks abandoned, and
        none is. Time in which Redis stalls does not count: that producer could not write either."""
        after, silent_s = claim, 0.0
        while silent_s < _SIGNS_OF_LIFE_S:
            await asyncio.sleep(_LISTEN_S)
            asked_at = time.monotonic()
            async for entry_id, entry in self._entries(after, "+"):
                after = entry_id
                if not isinstance(entry, Opening | Claim | Beat | Cancel | Steered) and entry.claim == winner:
                    return True
            has_stalled = time.monotonic() - asked_at > _LISTEN_S
            silent_s = 0.0 if has_stalled else silent_s + _LISTEN_S
        return False

    async def _entries(self, after: str, last: str) -> AsyncIterator[tuple[str, AnyEntry]]:
        """The entries in (after, last] that decode, page by page."""
        while True:
            (reply,) = await self._pipe.run([read_entries(self._session, after, last)])
            page = entries_read(accepted(reply))
            for entry_id, raw in page:
                with contextlib.suppress(Malformed):
                    yield entry_id, decode_entry(raw)
            if len(page) < MOST_ENTRIES:
                return
            after = page[-1][0]

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
                ending = await self._answer(model, delivery, request)
                if ending.odd:
                    model.generations.note_odd(ending.odd, self._service.log)
                delivery.finish(shown_reason(ending.reason, delivery.outbox.lanes, request.max_tokens))
        except BackendFailed as failure:
            self._service.served.result().failed(str(failure))
            delivery.fail(str(failure))
        except Exception as bug:  # noqa: BLE001  # a bug must end the member with a reason, not with silence
            self._service.log.bind(session=self._session).exception("the backend raised an unexpected exception")
            delivery.fail(f"the producer's backend failed unexpectedly ({type(bug).__name__})")

    async def _answer(self, model: ServedModel, delivery: Delivery, request: Request) -> Ending:
        """Raises BackendFailed. Without memory for the model it writes a mark, and tries again until the session drops
        the member."""

        def take(item: Item) -> Ending | None:
            if isinstance(item, ModelLoading | ModelWaiting):
                delivery.show(entries.Loading if isinstance(item, ModelLoading) else entries.Waiting)
                return None
            delivery.show(entries.Alive)
            if isinstance(item, ModelReady):
                return None
            delivery.add(item.pieces[: request.max_tokens - delivery.outbox.count])
            # A server that ignores max_tokens must not fill the stream.
            return Ending("length") if delivery.outbox.count >= request.max_tokens else None

        while True:
            try:
                await model.ensure_loaded(take)
                delivery.show(entries.Alive)
                wait = delivery.wait_for_grant if self._service.pauses else None
                return await model.generations.follow(request, take, wait, entry_order(self._opened))
            except OutOfMemory as failure:
                if delivery.has_begun:
                    raise
                delivery.starve(str(failure), room_helps=failure.room_helps)
                await asyncio.sleep(_ROOM_S)


def _request(opening: Opening, member: int) -> Request:
    """What the member asks its model."""
    sampling = opening.sampling_of(member)
    return Request(
        opening.prompt,
        opening.system_of(member),
        sampling.max_tokens,
        sampling.temperature,
        sampling.seed,
        sampling.top_k,
        opening.limits.silence_ms,
        opening.history,
    )
