"""A producer that is asked to end finishes the answers that it has begun, and hands all others over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from council.running.children import Child
from schemas.processes import ProcessRecord
from schemas.rules.served import served_models
from schemas.sessions import Member, Opening, Sampling
from tests.support.faulty_server import FaultyServer, faulty_server
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, Roles
from tests.support.sessions import check_the_law, opening_of, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import find_session, open_session

BEGINNING, WHOLE = "One fine day", "One fine day for lists"
STOPPED = "its producer was stopped"


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as found:
        yield found


async def producer(roles: Roles, server: FaultyServer, answers: str, *more: str) -> Role:
    """A ready producer of the model m with one slot; `answers` is how its server answers."""
    flags = ("--backend", server.url, "--name", answers, "--parallel", "1", *more)
    return await asyncio.to_thread(roles.start("producers", "m", *flags).wait_ready)


async def until_begun(pipe: AsyncPipe, opening: Opening) -> None:
    async def has_begun() -> bool:
        progress = (await find_session(pipe, opening.session)).progress
        return bool(progress) and progress[0].next_seq == 3

    await until(has_begun, "the beginning of the answer is accepted")


async def until_record(pipe: AsyncPipe, role: Role, fits: Callable[[ProcessRecord], bool], what: str) -> ProcessRecord:
    async def found() -> ProcessRecord | None:
        records = await list_processes(pipe)
        return next((one for one in records if one.pid == role.process.pid and fits(one)), None)

    record = await until(found, f"the producer's record: {what}")
    assert record
    return record


async def until_draining(pipe: AsyncPipe, role: Role) -> None:
    record = await until_record(pipe, role, lambda record: record.is_draining, "draining")
    assert not record.ready


async def texts(pipe: AsyncPipe, session: str) -> list[tuple[str, str]]:
    """(state, text) of each member, at the session's end."""
    await until_ended(pipe, session)
    frames = await check_the_law(pipe, session)
    return [
        (member.state, "".join(frame.members[number].text for frame in frames))
        for number, member in enumerate(frames[-1].members)
    ]


async def test_begun_answers_are_completed_and_all_others_are_answered_by_the_other_producer(
    roles: Roles, server: FaultyServer, pipe: AsyncPipe
) -> None:
    """
    leaves   writes the first member ....... SIGTERM .............. the rest of it, ends
    stays                     ready                | the second member, the waiting session, the new session
    """
    roles.ready("aggregator")
    leaves = await producer(roles, server, "waits")
    twins = (Member("m", name="a"), Member("m", name="b", sampling=Sampling(seed=8)))
    begun = msgspec.structs.replace(opening_of("m"), members=twins)
    waiting, later = opening_of("m"), opening_of("m")
    await open_session(pipe, begun)
    await until_begun(pipe, begun)
    await open_session(pipe, waiting)
    await until_record(pipe, leaves, lambda record: record.detail["sessions"] == 2, "it has both sessions")
    await producer(roles, server, "good")
    leaves.process.send_signal(signal.SIGTERM)
    await until_draining(pipe, leaves)
    await open_session(pipe, later)
    for opening in (waiting, later):
        assert await texts(pipe, opening.session) == [("finished", BEGINNING)]

    async def second_is_answered() -> bool:
        progress = (await find_session(pipe, begun.session)).progress
        return progress[1].ended and not progress[0].ended

    await until(second_is_answered, "the member that waited is answered by the other producer")
    assert (leaves.process.poll(), server.asked) == (None, {"waits": 1, "good": 3})
    server.goes_on.set()
    assert await texts(pipe, begun.session) == [("finished", WHOLE), ("finished", BEGINNING)]
    assert await asyncio.to_thread(leaves.process.wait, 15) == 0
    assert "Traceback" not in leaves.log()


async def test_a_producer_that_is_alone_keeps_its_waiting_sessions_for_the_next_one(
    roles: Roles, server: FaultyServer, pipe: AsyncPipe
) -> None:
    """They are not begun here, because `drain_s` may be shorter than their answers."""
    roles.ready("aggregator")
    leaves = await producer(roles, server, "waits")
    begun, waiting = opening_of("m"), opening_of("m")
    await open_session(pipe, begun)
    await until_begun(pipe, begun)
    await open_session(pipe, waiting)
    await until_record(pipe, leaves, lambda record: record.detail["sessions"] == 2, "it has both sessions")
    leaves.process.send_signal(signal.SIGTERM)
    await until_draining(pipe, leaves)
    assert served_models(await list_processes(pipe)) == []
    server.goes_on.set()
    assert await asyncio.to_thread(leaves.process.wait, 15) == 0
    await producer(roles, server, "good")
    assert await texts(pipe, begun.session) == [("finished", WHOLE)]
    assert await texts(pipe, waiting.session) == [("finished", BEGINNING)]
    assert server.asked == {"waits": 1, "good": 1}


@pytest.mark.parametrize("ends", ["a second signal", "drain_s passes"])
async def test_what_is_not_complete_when_the_draining_ends_is_dropped(
    ends: str, roles: Roles, server: FaultyServer, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    is_signal = ends == "a second signal"
    leaves = await producer(roles, server, "waits", "--drain-s", "600" if is_signal else "1")
    opening = opening_of("m")
    await open_session(pipe, opening)
    await until_begun(pipe, opening)
    leaves.process.send_signal(signal.SIGTERM)
    await until_draining(pipe, leaves)
    if is_signal:
        leaves.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(leaves.process.wait, 15) == 0
    assert await texts(pipe, opening.session) == [("dropped", BEGINNING)]
    state = await find_session(pipe, opening.session)
    assert state.reason == f"Every member dropped: {STOPPED}."
    assert leaves.log().count("a second signal ends it at once") == 1


@pytest.mark.parametrize("end", ["its supervisor ends it", "its supervisor is gone"])
async def test_a_producer_ends_at_once_with_its_supervisor(
    end: str, redis: RedisServer, roles: Roles, server: FaultyServer, pipe: AsyncPipe
) -> None:
    """The reason is the producer's own: it had the time to write it."""
    roles.ready("aggregator")
    flags = ("--backend", server.url, "--name", "waits", "--drain-s", "600")
    child = Child("producer m", ["producers", "m", *flags], {"REDIS_URL": redis.url}, print)
    child.start()
    opening = opening_of("m")
    await open_session(pipe, opening)
    await until_begun(pipe, opening)
    if end == "its supervisor ends it":
        child.terminate()
    elif child.input:
        child.input.close()
    await asyncio.to_thread(child.wait_or_kill, time.monotonic() + 10.0)
    assert await texts(pipe, opening.session) == [("dropped", BEGINNING)]
    assert STOPPED in (await find_session(pipe, opening.session)).reason
