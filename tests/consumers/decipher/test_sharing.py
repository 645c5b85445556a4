"""DECIPHER processes share sessions out by leases: each session is composed by one of them at a time."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from schemas import keys
from schemas.events import EnergyUpdate
from tests.support.protocol import events_of, without_end
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from transport.events import find_composed
from transport.leases import sweep_consumers
from transport.redis.connection import AsyncPipe
from transport.sessions import delete_session

SESSIONS = 8


async def sessions_of(pipe: AsyncPipe) -> Counter[str]:
    """How many sessions each consumer of the group has."""
    pending = await pipe.one("XPENDING", keys.SESSIONS, keys.DECIPHER_GROUP, "-", "+", 1_000)
    return Counter(entry[1].decode() for entry in pending)


async def open_some(redis: RedisServer, pipe: AsyncPipe) -> list[FrameWriter]:
    """Sessions with a frame each, opened one after another as people open them."""
    recorders = []
    for number in range(SESSIONS):
        recorder = FrameWriter(redis)
        recorder.write(1)
        recorder.announce()
        recorders.append(recorder)

        async def is_taken(count: int = number + 1) -> bool:
            return sum((await sessions_of(pipe)).values()) == count

        await until(is_taken, "a DECIPHER takes the session")
    return recorders


async def until_composed(pipe: AsyncPipe, recorders: list[FrameWriter]) -> None:
    async def are_composed() -> bool:
        cursors = [(await find_composed(pipe, recorder.session)).cursor for recorder in recorders]
        return cursors == [keys.frame_id(recorder.count - 1) for recorder in recorders]

    await until(are_composed, "every frame is composed")


async def check_each_frame_once(pipe: AsyncPipe, recorders: list[FrameWriter]) -> None:
    for recorder in recorders:
        events = without_end([event for _, event in await events_of(pipe, recorder.session)])
        updates = [event for event in events if isinstance(event, EnergyUpdate)]
        numbers = [update.frameNumber for update in updates]
        assert numbers == list(range(numbers[0], numbers[0] + recorder.count))


@pytest.mark.parametrize("how", ["kill", "end"])
async def test_two_share_the_sessions_and_one_takes_over_what_the_other_had(
    how: str, redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    """Those of a killed process after the three seconds of a lease, those of a stopped one at once."""
    processes = [roles.ready("consumers.decipher") for _ in range(2)]
    recorders = await open_some(redis, pipe)
    await until_composed(pipe, recorders)
    shares = await sessions_of(pipe)
    # Redis serves the processes in turn; a process that asks anew after two seconds goes to the end of the queue.
    assert len(shares) == 2
    assert min(shares.values()) >= SESSIONS // 2 - 1
    getattr(processes[0], how)()
    began = time.monotonic()

    async def has_one_taken_over() -> bool:
        return list((await sessions_of(pipe)).values()) == [SESSIONS]

    await until(has_one_taken_over, "the other DECIPHER has all sessions")
    took_s = time.monotonic() - began
    # A busy machine adds to it.
    assert took_s < (6.0 if how == "kill" else 2.5)
    assert how == "end" or took_s > 1.5
    for recorder in recorders:
        recorder.write(5, final=True)
    await until_composed(pipe, recorders)
    await check_each_frame_once(pipe, recorders)

    async def are_acknowledged() -> bool:
        return not await sessions_of(pipe)

    await until(are_acknowledged, "sessions that have ended are acknowledged")


async def test_a_session_that_ended_while_none_ran_is_composed_and_a_deleted_one_acknowledged(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    ended, deleted = FrameWriter(redis), FrameWriter(redis)
    for recorder in (ended, deleted):
        recorder.announce()
        recorder.write(3, final=True)
        redis.run("HSET", keys.state(recorder.session), "status", "ended", "window", "2")
    await delete_session(pipe, deleted.session)
    roles.ready("consumers.decipher")
    await until_composed(pipe, [ended])
    await check_each_frame_once(pipe, [ended])

    async def are_acknowledged() -> bool:
        groups = await pipe.one("XINFO", "GROUPS", keys.SESSIONS)
        return bool(groups) and not await sessions_of(pipe)

    await until(are_acknowledged, "both sessions are acknowledged")


async def test_the_sweep_forgets_a_decipher_that_has_ended(roles: Roles, pipe: AsyncPipe) -> None:
    process = roles.ready("consumers.decipher")

    async def consumers() -> list[object]:
        return list(await pipe.one("XINFO", "CONSUMERS", keys.SESSIONS, keys.DECIPHER_GROUP))

    await until(consumers, "the DECIPHER is a consumer of its group")
    process.end()

    async def are_forgotten() -> bool:
        await pipe.run([sweep_consumers(idle_ms=10)])
        return not await consumers()

    await until(are_forgotten, "its consumer is forgotten")
