"""The asyncio pipes: callers share writes, but not errors, deadlines or cancellations."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import RedisAway
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from transport.events import events_after
from transport.frames import frames_after, wait_for_sessions
from transport.keeping import wait_for_orders
from transport.redis import async_pipe
from transport.redis.connection import AsyncPipe, BlockingPipe, ReplyError
from transport.redis.link import AsyncLink

# A connection, its greeting and a command take fewer turns of the loop than this.
_TURNS = 150
_CALLERS = 8


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written to Redis, from now on."""
    found, send = list[bytes](), AsyncLink.send

    async def noted(link: AsyncLink, packed: bytes) -> None:
        found.append(packed)
        await send(link, packed)

    monkeypatch.setattr(AsyncLink, "send", noted)
    return found


async def _ping_for_ever(pipe: AsyncPipe) -> None:
    while True:
        await pipe.run([("PING",)])


@pytest.mark.parametrize("kind", [AsyncPipe, BlockingPipe])
async def test_a_task_that_is_cancelled_in_any_turn_of_the_loop_ends(redis: RedisServer, kind: type[AsyncPipe]) -> None:
    """Before Python 3.12 asyncio.wait_for, which redis-py uses for sending with a time-out, loses a cancellation that
    comes when it is done. So the council's connections have no time-out."""
    for turns in range(_TURNS):
        pipe = kind(redis.url)
        asking = asyncio.create_task(_ping_for_ever(pipe))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=5)
        assert done, f"it continues after {turns} turns"
        assert asking.cancelled()
        await pipe.close()


@pytest.mark.parametrize("is_open", [True, False])
async def test_every_caller_of_a_stopped_redis_fails_at_its_own_deadline(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """Not one deadline after the other: with eight callers the last one would wait eight times as long."""
    monkeypatch.setattr(async_pipe, "REPLY_TIMEOUT_S", 1.0)
    pipe, loop = AsyncPipe(own_redis.url), asyncio.get_running_loop()
    if is_open:
        await pipe.run([("PING",)])
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        began = loop.time()
        results = await asyncio.gather(*(pipe.run([("PING",)]) for _ in range(_CALLERS)), return_exceptions=True)
        assert loop.time() - began < 0.5 * _CALLERS
        assert [type(result) for result in results] == [RedisAway] * _CALLERS
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert await pipe.run([("PING",)]) == [b"PONG"]
    await pipe.close()


async def test_callers_that_wait_share_one_write(pipe: AsyncPipe, writes: list[bytes]) -> None:
    """The first caller's commands are under way when the others come. The number of commands in a write is bounded."""
    await pipe.run([("PING",)])
    for callers, most in ((50, 2), (200, 5)):
        writes.clear()
        replies = await asyncio.gather(*(pipe.run([("ECHO", number)]) for number in range(callers)))
        assert replies == [[b"%d" % number] for number in range(callers)]
        assert len(writes) == most
    writes.clear()
    many, few = [("ECHO", "x")] * 200, [("ECHO", "y")]
    replies = await asyncio.gather(*(pipe.run(commands) for commands in (few, many, few, many)))
    assert list(map(len, replies)) == [1, 200, 1, 200]
    assert len(writes) == 4


async def test_an_error_of_one_callers_command_is_that_callers_alone(pipe: AsyncPipe) -> None:
    await pipe.run([("PING",)])
    commands: list[Any] = [("ECHO", "a"), ("GET",), ("SET", "k", None), ("NOSUCH", "b"), ("ECHO", "c")]
    found = await asyncio.gather(*(pipe.run([command]) for command in commands), return_exceptions=True)
    first, second, third, fourth, fifth = found
    assert (first, fifth) == ([b"a"], [b"c"])
    assert isinstance(third, TypeError)
    for reply in (second, fourth):
        assert isinstance(reply, list)
        assert isinstance(reply[0], ReplyError)
    assert pipe.connections == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3), st.none() | st.integers(0, 12)), min_size=1, max_size=12)
)
def test_a_caller_that_is_cancelled_changes_nothing_for_the_others(
    redis: RedisServer, callers: list[tuple[int, int, int | None]]
) -> None:
    """Each caller starts after some turns of the loop and sends some commands; some are cancelled some turns later. The
    others get their own replies, on the same connection."""

    async def turns(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def call(pipe: AsyncPipe, number: int, start: int, count: int) -> list[Any]:
        await turns(start)
        return await pipe.run([("ECHO", f"{number} {part}") for part in range(count)])

    async def check() -> None:
        pipe = AsyncPipe(redis.url)
        await pipe.run([("PING",)])
        calls = [asyncio.create_task(call(pipe, n, start, count)) for n, (start, count, _) in enumerate(callers)]
        for task, (start, _, cancelled_after) in zip(calls, callers, strict=True):
            if cancelled_after is not None:
                await turns(start + cancelled_after)
                task.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        for number, (result, (_, count, cancelled_after)) in enumerate(zip(results, callers, strict=True)):
            if cancelled_after is None or not isinstance(result, asyncio.CancelledError):
                assert result == [b"%d %d" % (number, part) for part in range(count)]
        assert await pipe.run([("ECHO", "last")]) == [b"last"]
        assert pipe.connections == 1
        await pipe.close()

    asyncio.run(check())


async def test_close_ends_the_calls_that_are_under_way_or_wait(own_redis: RedisServer) -> None:
    """One of them was cancelled before. asyncio reports no exception that was never retrieved."""
    pipe, reported = AsyncPipe(own_redis.url), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    await pipe.run([("PING",)])
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        calls = [asyncio.create_task(pipe.run([("PING",)])) for _ in range(4)]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        await pipe.close()
        results = await asyncio.wait_for(asyncio.gather(*calls[1:], return_exceptions=True), 5)
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert [type(result) for result in results] == [RedisAway] * 3
    assert await pipe.run([("PING",)]) == [b"PONG"]
    await pipe.close()
    del calls, results
    gc.collect()
    assert reported == []


async def test_reads_on_a_shared_connection_send_no_block(
    redis: RedisServer, pipe: AsyncPipe, writes: list[bytes]
) -> None:
    """An idle Redis 6.2 ends BLOCK 1 after 100 ms, in which all callers of the connection wait."""
    assert await frames_after(pipe, "abc").read() == []
    assert await events_after(pipe, "abc").read() == []
    assert _blocks(writes) == [False] * 2
    waiting = BlockingPipe(redis.url)
    await waiting.run([("PING",)])
    writes.clear()
    assert await frames_after(waiting, "abc").read(1) == []
    assert await events_after(waiting, "abc").read(1) == []
    assert await wait_for_sessions(waiting, "0", 1) == []
    assert await wait_for_orders(waiting, "0", 1) == []
    assert _blocks(writes) == [True] * 4
    await waiting.close()


def _blocks(writes: Iterable[bytes]) -> list[bool]:
    """Of each stream read, whether it may block."""
    return [b"\r\nBLOCK\r\n" in written for written in writes if b"\r\nXREAD\r\n" in written]


async def test_a_blocking_pipe_belongs_to_one_task(redis: RedisServer) -> None:
    pipe = BlockingPipe(redis.url)
    waiting = asyncio.create_task(pipe.wait(("XREAD", "STREAMS", "s", "0"), 10_000))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one task"):
        await pipe.run([("PING",)])
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await pipe.run([("PING",)]) == [b"PONG"]
    await pipe.close()


def test_only_the_wait_methods_of_pipes_send_block() -> None:
    """So a blocking read on a connection that callers share cannot be written by mistake."""
    found = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("transport", "runtime", "producers", "aggregator", "consumers", "council", "bench")
        for path in (ROOT / folder).rglob("*.py")
        for name in ('"BLOCK"', "with_block(")
        if name in path.read_text()
    }
    assert found == {
        ("transport/redis/cluster.py", '"BLOCK"'),
        ("transport/redis/cluster.py", "with_block("),
        ("transport/redis/connection.py", "with_block("),
        ("transport/redis/async_pipe.py", "with_block("),
    }
