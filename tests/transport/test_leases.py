"""Leases on real Redis, 6.2 and 7.0: a session has one owner at a time, and a silent owner loses it."""

from __future__ import annotations

import pytest

from schemas import keys
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from tests.support.waiting import until
from transport.leases import MOST_DELIVERIES, Lease, Leases, is_missing_group, sweep_consumers
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

IDLE_MS = 60


class Consumer:
    """A consumer of the aggregator's group that the test controls."""

    def __init__(self, pipe: AsyncPipe, name: str) -> None:
        self.pipe = pipe
        self.leases = Leases(keys.AGGREGATOR_GROUP, name, IDLE_MS)

    async def join(self) -> Consumer:
        await self.pipe.run(self.leases.create_group())
        return self

    async def take_new(self) -> list[Lease]:
        return self.leases.add_new((await self.pipe.run([self.leases.read_new(10)]))[0])

    async def refresh(self, most: int = 10) -> tuple[list[Lease], list[Lease]]:
        return self.leases.add_refresh((await self.pipe.run([self.leases.refresh(most)]))[0])


@pytest.fixture
async def pipe(each_redis: RedisServer) -> AsyncPipe:
    return AsyncPipe(each_redis.url)


async def test_each_session_goes_to_one_consumer(pipe: AsyncPipe) -> None:
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    opening = opening_of("a")
    await open_session(pipe, opening)
    assert [lease.session for lease in await first.take_new()] == [opening.session]
    assert await second.take_new() == []


async def test_a_refreshed_lease_is_not_taken_over(pipe: AsyncPipe) -> None:
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    first.leases.takeover_idle_ms = second.leases.takeover_idle_ms = 60_000
    await open_session(pipe, opening_of("a"))
    held = await first.take_new()
    assert await first.refresh() == ([], [])
    assert await second.refresh() == ([], [])
    assert list(first.leases.held.values()) == held


async def test_a_silent_owner_loses_its_lease_and_cannot_take_it_back(pipe: AsyncPipe) -> None:
    """first takes ... silence ... second takes over; first continues and refreshes: lost, and second still has it."""
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    await open_session(pipe, opening_of("a"))
    (lease,) = await first.take_new()

    async def taken_over() -> list[Lease]:
        return (await second.refresh())[1]

    (taken,) = await until(taken_over, "the lease of a silent owner is taken over")
    assert (taken.session, taken.deliveries) == (lease.session, 2)
    assert await first.refresh(0) == ([lease], [])
    assert await second.refresh(0) == ([], [])
    assert list(second.leases.held) == [lease.entry_id]


async def test_failed_deliveries_are_counted_until_a_session_is_proven(pipe: AsyncPipe) -> None:
    """The first and second owner die; the third proves the session and dies; the fourth is the second since then."""
    owners = [await Consumer(pipe, name).join() for name in ("first", "second", "third", "fourth")]
    await open_session(pipe, opening_of("a"))
    held, deliveries = await owners[0].take_new(), [1]
    for number, owner in enumerate(owners[1:], 1):

        async def taken_over(owner: Consumer = owner) -> list[Lease]:
            return (await owner.refresh())[1]

        held = await until(taken_over, "the lease of a silent owner is taken over")
        deliveries.append(held[0].deliveries)
        if number == 2:
            owner.leases.prove(held[0])
            await owner.refresh(0)
    assert deliveries == [1, 2, 3, 2]


async def test_a_hand_over_gives_the_lease_free_at_once(pipe: AsyncPipe) -> None:
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    second.leases.takeover_idle_ms = 60_000
    await open_session(pipe, opening_of("a"))
    (lease,) = await first.take_new()
    assert await second.refresh() == ([], [])
    await pipe.run([first.leases.hand_over()])
    _, taken = await second.refresh()
    assert [found.session for found in taken] == [lease.session]


async def test_look_for_left_finds_a_session_that_another_consumer_has_left(pipe: AsyncPipe) -> None:
    """Not while it is held; at once after a hand-over; and no longer after a takeover."""
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    first.leases.takeover_idle_ms = second.leases.takeover_idle_ms = 60_000

    async def sees() -> bool:
        return second.leases.has_left((await pipe.run([second.leases.look_for_left()]))[0])

    assert not await sees()
    await open_session(pipe, opening_of("a"))
    await first.take_new()
    assert not await sees()
    await pipe.run([first.leases.hand_over()])
    assert await sees()
    await second.refresh()
    assert not await sees()


async def test_a_session_that_a_consumer_leaves_goes_to_the_others_and_comes_back_later(pipe: AsyncPipe) -> None:
    """At once to another consumer, which also may leave it; to the first one after ten seconds. No delivery counts."""
    now_s = [0.0]
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    for consumer in (first, second):
        consumer.leases = Leases(keys.AGGREGATOR_GROUP, consumer.leases.consumer_name, 60_000, clock=lambda: now_s[0])
        await consumer.refresh()
    for _ in range(3):
        await open_session(pipe, opening_of("a"))
    lease, *others = await first.take_new()

    async def sees(consumer: Consumer) -> bool:
        return consumer.leases.has_left((await pipe.run([consumer.leases.look_for_left()]))[0])

    for before in (False, True, True):
        assert first.leases.was_left(lease) == second.leases.was_left(lease) == before
        await pipe.run([first.leases.leave(lease)])
        assert (first.leases.was_left(lease), await sees(first), await sees(second)) == (True, False, True)
        assert await first.refresh(1) == ([], [])
        assert (await second.refresh(1))[1] == [lease]
        await pipe.run([second.leases.leave(lease)])
        assert (await sees(first), await sees(second)) == (False, False)
        assert (await first.refresh())[1] == (await second.refresh())[1] == []
        now_s[0] += 10.5
        assert await sees(first)
        assert (await first.refresh(1))[1] == [lease]
    # A session that was left does not hide the ones behind it.
    await pipe.run([first.leases.leave(lease), first.leases.acknowledge(others[0])])
    await pipe.run([second.leases.leave(others[1])])
    first.leases.held.pop(others[1].entry_id)
    first.leases.takeover_idle_ms = 0
    assert [found.session for found in (await first.refresh(1))[1]] == [others[1].session]


async def test_hand_overs_are_not_counted_as_failed_deliveries(pipe: AsyncPipe) -> None:
    """After twenty hand-overs of one session."""
    consumers = [await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()]
    for consumer in consumers:
        consumer.leases.takeover_idle_ms = 60_000
    await open_session(pipe, opening_of("a"))
    await consumers[0].take_new()
    for _ in range(10):
        for giving, taking in (consumers, reversed(consumers)):
            await pipe.run([giving.leases.hand_over()])
            (lease,) = (await taking.refresh())[1]
            assert lease.deliveries < MOST_DELIVERIES
            await giving.refresh(0)


async def test_consumers_of_ended_processes_are_deleted_unless_they_hold_a_lease(pipe: AsyncPipe) -> None:
    """In every group. Deleting a consumer loses its leases, so one with a lease stays until that is taken over."""
    holder, gone = await Consumer(pipe, "holder").join(), await Consumer(pipe, "gone").join()
    producer = Consumer(pipe, "gone too")
    producer.leases.group = keys.producer_group("a")
    await producer.join()
    await open_session(pipe, opening_of("a"))
    (lease,) = await holder.take_new()
    await gone.take_new()
    await pipe.run([producer.leases.acknowledge((await producer.take_new())[0])])
    assert await pipe.one(*sweep_consumers(60_000)) == 0

    async def swept() -> bool:
        await pipe.run([sweep_consumers(50)])
        return await names(pipe, gone) == {b"holder"} and await names(pipe, producer) == set()

    await until(swept, "the consumers without leases are deleted")
    following = await Consumer(pipe, "next").join()

    async def taken_over() -> list[Lease]:
        return (await following.refresh())[1]

    (taken,) = await until(taken_over, "the lease of the first consumer is taken over")
    assert taken.session == lease.session

    async def swept_too() -> bool:
        await pipe.run([sweep_consumers(50)])
        return b"holder" not in await names(pipe, gone)

    await until(swept_too, "the first consumer is deleted")
    # A consumer that was only slow is created again when it asks.
    await open_session(pipe, opening_of("a"))
    assert len(await gone.take_new()) == 1


async def names(pipe: AsyncPipe, of: Consumer) -> set[bytes]:
    """The consumers of its group."""
    return {fields[1] for fields in await pipe.one("XINFO", "CONSUMERS", keys.SESSIONS, of.leases.group)}


async def test_a_sweep_without_a_stream_deletes_nothing(pipe: AsyncPipe) -> None:
    assert await pipe.one(*sweep_consumers(0)) == 0


async def test_a_former_owner_hands_nothing_over(pipe: AsyncPipe) -> None:
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    await open_session(pipe, opening_of("a"))
    await first.take_new()

    async def taken_over() -> list[Lease]:
        return (await second.refresh())[1]

    await until(taken_over, "the lease of a silent owner is taken over")
    await pipe.run([first.leases.hand_over()])
    assert await second.refresh(0) == ([], [])


async def test_an_acknowledged_session_is_never_delivered_again(pipe: AsyncPipe) -> None:
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    await open_session(pipe, opening_of("a"))
    (lease,) = await first.take_new()
    await pipe.run([first.leases.acknowledge(lease)])
    assert await pipe.one("XPENDING", keys.SESSIONS, keys.AGGREGATOR_GROUP) == [0, None, None, None]
    assert (await second.refresh())[1] == []


async def test_a_consumer_looks_for_left_sessions_only_while_another_may_leave_one(pipe: AsyncPipe) -> None:
    """Alone: no. Another one waits: yes. It is not seen any more: no. It holds a session and is not seen: yes. It has
    acknowledged the session: no."""
    first, second = await Consumer(pipe, "first").join(), Consumer(pipe, "second")
    first.leases = Leases(keys.AGGREGATOR_GROUP, "first", 60_000, present_ms=IDLE_MS)

    async def looks() -> bool:
        await first.refresh()
        return first.leases.has_others

    async def looks_no_more() -> bool:
        return not await looks()

    assert not await looks()
    first.leases = Leases(keys.AGGREGATOR_GROUP, "first", 60_000)
    await second.refresh()
    assert await looks()
    first.leases = Leases(keys.AGGREGATOR_GROUP, "first", 60_000, present_ms=IDLE_MS)
    await until(looks_no_more, "the second is not seen any more")
    await open_session(pipe, opening_of("a"))
    (lease,) = await second.take_new()

    async def is_silent() -> bool:
        consumers = await pipe.one("XINFO", "CONSUMERS", keys.SESSIONS, keys.AGGREGATOR_GROUP)
        (idle_ms,) = [fields[5] for fields in consumers if fields[1] == b"second"]
        return bool(idle_ms > IDLE_MS)

    await until(is_silent, "the second is silent")
    assert await looks()
    await pipe.run([second.leases.acknowledge(lease)])
    assert not await looks()


async def test_a_trimmed_session_is_no_longer_pending(pipe: AsyncPipe) -> None:
    first, second = await Consumer(pipe, "first").join(), await Consumer(pipe, "second").join()
    await open_session(pipe, opening_of("a"))
    (lease,) = await first.take_new()
    await pipe.one("XDEL", keys.SESSIONS, lease.entry_id)

    async def nothing_pending() -> bool:
        assert (await second.refresh())[1] == []
        return (await pipe.one("XPENDING", keys.SESSIONS, keys.AGGREGATOR_GROUP))[0] == 0

    await until(nothing_pending, "a deleted entry leaves the pending list")


async def test_a_missing_group_is_noticed_and_created_again(each_redis: RedisServer, pipe: AsyncPipe) -> None:
    first = await Consumer(pipe, "first").join()
    await open_session(pipe, opening_of("a"))
    (lease,) = await first.take_new()
    each_redis.run("FLUSHALL")
    (reply,) = await pipe.run([first.leases.refresh(1)])
    assert is_missing_group(reply)
    assert first.leases.add_refresh(reply) == ([lease], [])
    # A session that was announced before the group exists reaches it: the group begins at id 0.
    await open_session(pipe, opening_of("b"))
    await first.join()
    assert len(await first.take_new()) == 1
