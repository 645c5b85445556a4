"""The loop around an outbox, on a real Redis: what a late or an overlapping round trip changes, which is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from producers.backend import Ending, Piece
from producers.member import delivery as delivery_module
from producers.member import outbox
from producers.member.delivery import Delivery
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.control import Progress, encode_progress
from schemas.entries import Alive, Claim, Failed, Finished, Token, decode_entry
from schemas.errors import RedisAway
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of, token_stream
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session
from transport.tokens import write_entry

PIECES = tuple(Piece(f" word-{number}") for number in range(3))


class Claimed:
    """A delivery of a claimed member over a pipe of its own; `before` is called before each round trip."""

    def __init__(self, pipe: AsyncPipe, own: AsyncPipe, session: str, claim: str) -> None:
        self.pipe, self.session, self.claim = pipe, session, claim
        self.delivery = Delivery(own, session, 0, claim, RedisPresence(Log(50)))

    async def written(self, kind: type[Any]) -> list[tuple[str, Any]]:
        entries = [(entry_id, decode_entry(raw)) for entry_id, raw in await token_stream(self.pipe, self.session)]
        return [(entry_id, entry) for entry_id, entry in entries if isinstance(entry, kind)]

    async def commit(self, cut: str, next_seq: int, *, ended: bool) -> None:
        """The state hash as an aggregator leaves it that has accepted `next_seq` tokens up to the entry `cut`."""
        progress = encode_progress((Progress(self.claim, next_seq, ended),))
        await self.pipe.one("HSET", keys.state(self.session), "cut", cut, "progress", progress)


@contextlib.asynccontextmanager
async def claimed(pipe: AsyncPipe, before: Callable[[], Any]) -> AsyncIterator[Claimed]:
    own = AsyncPipe(pipe.url)
    opening = opening_of("test:model")
    await open_session(pipe, opening)
    claim = (await own.one(*write_entry(opening.session, Claim(0, 1)))).decode()
    run = own.run

    async def run_after(commands: Any, **options: Any) -> Any:
        await before()
        return await run(commands, **options)

    own.run = run_after  # type: ignore[method-assign]
    yield Claimed(pipe, own, opening.session, claim)
    await own.close()


async def test_an_ending_that_is_delivered_late_is_still_confirmed(
    redis: RedisServer, pipe: AsyncPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was away for longer than the time of confirmation; then two of the three tokens are lost."""
    monkeypatch.setattr(outbox, "MOST_CONFIRMATION_S", 1.0)
    is_away = True

    async def before() -> None:
        if is_away:
            raise RedisAway("it is away")

    async with claimed(pipe, before) as member:
        delivery = member.delivery
        delivery.add(PIECES)
        delivery.finish(Ending("stop"))
        running = asyncio.create_task(delivery.run())
        back_at = time.monotonic() + 1.2

        async def has_been_away() -> bool:
            return time.monotonic() > back_at

        await until(has_been_away, "Redis is away for longer than the time of confirmation")
        is_away = False
        ((ending_id, _),) = await until(lambda: member.written(Finished), "the ending is delivered")
        await member.commit(ending_id, 1, ended=False)

        async def is_again_written() -> bool:
            return len(await member.written(Finished)) == 2

        await until(is_again_written, "the ending is written again behind the tokens that were lost", 5.0)
        assert [token.seq for _, token in await member.written(Token)] == [0, 1, 2, 1, 2]
        await member.commit(ending_id, 3, ended=True)
        async with asyncio.timeout(5):
            await running


async def test_a_stop_during_a_round_trip_writes_each_token_once_and_the_reason_last(
    redis: RedisServer, pipe: AsyncPipe
) -> None:
    """The producer process stops a member whose tokens are on their way."""
    is_on_its_way, may_go = asyncio.Event(), asyncio.Event()

    async def before() -> None:
        is_on_its_way.set()
        await may_go.wait()

    async with claimed(pipe, before) as member:
        member.delivery.add(PIECES)
        running = asyncio.create_task(member.delivery.run())
        await is_on_its_way.wait()
        member.delivery.fail("its producer was stopped")
        stopping = asyncio.create_task(member.delivery.write_out())
        await asyncio.sleep(0)
        may_go.set()
        async with asyncio.timeout(5):
            await stopping
        running.cancel()
        written = await member.written(Token | Failed)
        assert [getattr(entry, "seq", "failed") for _, entry in written] == [0, 1, 2, "failed"]


async def test_a_redis_that_serves_reads_alone_is_not_tried_without_a_pause(
    redis: RedisServer, pipe: AsyncPipe
) -> None:
    """A cluster that is down may serve reads: each time that the state was read, the write after it fails."""
    async with claimed(pipe, _nothing) as found:
        own, failed_s, loop = found.delivery._pipe, list[float](), asyncio.get_running_loop()
        run = own.run

        async def run_reads(commands: Any) -> Any:
            if any(command[0] == "XADD" for command in commands):
                failed_s.append(loop.time())
                raise RedisAway("the cluster is down")
            return await run(commands)

        own.run = run_reads  # type: ignore[method-assign]
        found.delivery.add(PIECES)
        delivering = asyncio.create_task(found.delivery.run())

        async def has_failed_often() -> bool:
            return len(failed_s) > 4

        await until(has_failed_often, "the write was tried several times")
        delivering.cancel()
        assert failed_s[4] - failed_s[0] > 3 * delivery_module._RETRY_S


async def test_the_first_token_waits_for_no_rest_after_a_sign_of_life(
    redis: RedisServer, pipe: AsyncPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that follow one another share round trips; the first one is what a person waits for."""
    monkeypatch.setattr(delivery_module, "_REST_S", 60.0)
    async with claimed(pipe, _nothing) as member:
        member.delivery.show(Alive)
        running = asyncio.create_task(member.delivery.run())
        await until(lambda: member.written(Alive), "the sign of life is written")
        member.delivery.add(PIECES[:1])
        await until(lambda: member.written(Token), "the first token is written")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _nothing() -> None: ...
