"""A process logs each state of Redis once, however many tasks notice it and whichever commands still succeed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from producers.backend import Piece
from producers.member.delivery import Delivery
from runtime.log import Log
from runtime.presence import RedisPresence
from runtime.registration import keep_record
from schemas.entries import Claim
from schemas.errors import RedisAway, RedisRefuses
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from tests.support.waiting import until
from transport.events import EventBatch, write_events
from transport.frames import frames_after
from transport.redis.connection import AsyncPipe, BlockingPipe, accepted
from transport.register import ProcessRegistration
from transport.sessions import open_session
from transport.tokens import write_entry

AWAY, BACK = "Redis is away; waiting for it", "Redis is back"
FULL = "Redis is out of memory (maxmemory): nothing is written until there is room"
ROOM = "Redis has room again: writing goes on"
REFUSES = "Redis refuses a command of this process, which is tried again: change what the error names"
ACCEPTS = "Redis no longer refuses the commands of this process"


class Lines(Log):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def _write(self, level: int, method: str, event: str, fields: dict[str, object]) -> None:
        self.lines.append(event)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def refused(reply: Exception) -> RedisRefuses:
    """As a caller of accepted() gets it."""
    with pytest.raises(RedisRefuses) as raised:
        accepted(reply)
    return raised.value


def away(cause: Exception) -> RedisAway:
    """As a pipe raises it."""
    error = RedisAway("Redis at x does not answer")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sentence", "end"),
    [
        (away(ConnectionError("reset")), AWAY, BACK),
        (away(TimeoutError()), AWAY, BACK),
        (away(ReadOnlyError("You can't write against a read only replica.")), AWAY, BACK),
        (away(ResponseError("ERR Error running script: -READONLY You can't write")), AWAY, BACK),
        (away(AuthenticationError("WRONGPASS")), REFUSES, ACCEPTS),
        (away(NoPermissionError("this user has no permissions")), REFUSES, ACCEPTS),
        (OutOfMemoryError("command not allowed"), FULL, ROOM),
        (refused(OutOfMemoryError("command not allowed")), FULL, ROOM),
        (refused(ResponseError("ERR Error running script: -OOM command not allowed")), FULL, ROOM),
        (refused(NoPermissionError("this user has no permissions")), REFUSES, ACCEPTS),
        (refused(ResponseError("MISCONF Redis is configured to save RDB snapshots")), REFUSES, ACCEPTS),
    ],
)
def test_each_state_and_its_end_are_logged_once(error: Exception, sentence: str, end: str) -> None:
    log, clock = Lines(), Clock()
    presence = RedisPresence(log, clock)
    for _ in range(5):
        presence.lose(error)
    assert (log.lines, presence.is_away) == ([sentence], sentence == AWAY)
    for _ in range(10):
        clock.now_s += 1.0
        presence.come_back()
    assert (log.lines, presence.is_away) == ([sentence, end], False)


def test_a_command_that_succeeds_does_not_end_a_refusal() -> None:
    """For a minute reads succeed sixty times a second while a write is refused once a second."""
    log, clock = Lines(), Clock()
    presence = RedisPresence(log, clock)
    for frame in range(3_600):
        clock.now_s = frame / 60
        presence.come_back()
        presence.note([b"OK", OutOfMemoryError("OOM"), b"OK"] if frame % 60 == 0 else [b"OK"])
    assert log.lines == [FULL]


def test_a_redis_that_goes_away_while_it_is_full_has_both_states() -> None:
    log, clock = Lines(), Clock()
    presence = RedisPresence(log, clock)
    presence.lose(OutOfMemoryError("OOM"))
    presence.lose(away(ConnectionError("reset")))
    presence.lose(away(ConnectionError("refused")))
    presence.come_back()
    presence.lose(OutOfMemoryError("OOM"))
    clock.now_s = 10.0
    presence.come_back()
    assert log.lines == [FULL, AWAY, BACK, ROOM]


@pytest.mark.parametrize(("cause", "every_s"), [(ConnectionError("refused"), 1.0), (TimeoutError(), 7.25)])
def test_a_command_that_succeeds_does_not_end_what_other_commands_still_find(cause: Exception, every_s: float) -> None:
    """One node of a cluster is away, or a server at its limit of clients accepts no further one: for two minutes some
    commands succeed sixty times a second, another fails each time that it is tried."""
    log, clock = Lines(), Clock()
    presence, due_s = RedisPresence(log, clock), 0.0
    for tick in range(7_200):
        clock.now_s = tick / 60
        if clock.now_s >= due_s:
            due_s += every_s
            presence.lose(away(cause))
        presence.note([b"OK"])
    assert log.lines == [AWAY]
    clock.now_s += 10.0
    presence.come_back()
    assert log.lines == [AWAY, BACK]


def test_an_error_inside_a_transaction_is_a_refusal() -> None:
    log = Lines()
    RedisPresence(log).note([b"OK", b"QUEUED", [1, OutOfMemoryError("OOM")], b"OK"])
    assert log.lines == [FULL]


@contextlib.asynccontextmanager
async def working(*work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one()) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_full_redis_and_its_end_are_logged_once(each_redis: RedisServer) -> None:
    """A producer's outbox, a reader of frames, a writer of events and the process record share one presence: some of
    their commands are refused, others are not."""
    log, pipe, reader = Lines(), AsyncPipe(each_redis.url), BlockingPipe(each_redis.url)
    presence, opening = RedisPresence(log), opening_of("a")
    await open_session(pipe, opening)
    claim = (await pipe.one(*write_entry(opening.session, Claim(0, 1)))).decode()
    delivery, reads, refusals = Delivery(pipe, opening.session, 0, claim, presence), 0, 0

    async def read() -> None:
        nonlocal reads
        while True:
            await frames_after(reader, opening.session).read(20)
            presence.come_back()
            reads += 1

    async def compose() -> None:
        nonlocal refusals
        while True:
            try:
                await write_events(pipe, opening.session, EventBatch("0-0", "0-0", [], False, b"", {}, ""))
            except RedisRefuses as error:
                refusals += 1
                presence.lose(error)
            await asyncio.sleep(0.25)

    async def record() -> None:
        await keep_record(each_redis.url, ProcessRegistration("producer"), presence, dict)

    _, limit = await pipe.one("CONFIG", "GET", "maxmemory")
    each_redis.run("CONFIG", "SET", "maxmemory", "1")
    try:
        async with working(read, compose, record, delivery.run):
            delivery.add((Piece(" a"),))

            async def has_worked() -> bool:
                return reads > 50 and refusals > 5

            await until(has_worked, "some commands were refused, others were not")
            assert log.lines == [FULL]
            each_redis.run("CONFIG", "SET", "maxmemory", limit)

            async def is_over() -> bool:
                return log.lines == [FULL, ROOM]

            await until(is_over, "the log says that there is room")
    finally:
        each_redis.run("CONFIG", "SET", "maxmemory", limit)
    await pipe.close()
    await reader.close()


async def test_a_user_without_rights_is_refused_and_not_away(each_redis: RedisServer) -> None:
    """First with a wrong password, then without the right to write its record."""
    each_redis.run("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", "-set")
    log, url = Lines(), each_redis.url.replace("unix://", "unix://limited:PASSWORD@")
    presence = RedisPresence(log)
    try:
        pipe = AsyncPipe(url.replace("PASSWORD", "guessed"))
        with pytest.raises(RedisAway, match="refuses the connection") as raised:
            await pipe.run([("PING",)])
        await pipe.close()
        presence.lose(raised.value)
        assert log.lines == [REFUSES]

        async def record() -> None:
            await keep_record(url.replace("PASSWORD", "secret"), ProcessRegistration("producer"), presence, dict)

        async with working(record):

            async def is_registered() -> bool:
                return bool(each_redis.run("EXISTS", "council:processes"))

            await until(is_registered, "the other commands of the record are accepted")
        assert log.lines == [REFUSES]
    finally:
        each_redis.run("ACL", "DELUSER", "limited")
