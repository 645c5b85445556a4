"""A session whose text another producer has begun: is that producer dead, or was Redis only slow?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from producers.member.serving import DIED_AFTER_IT_BEGAN, MemberServing, Service
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.entries import Alive, Claim, Failed, Token, decode_entry
from tests.support.sessions import opening_of, token_stream
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session
from transport.tokens import write_entry


async def failures_after_a_takeover(pipe: AsyncPipe, *, signs: bool, stall_s: float = 0.0) -> list[str]:
    """Why the member failed, where another producer had written a token and `signs` after this one's claim. Redis takes
    `stall_s` for the first read after that claim, and gets the sign after it."""
    opening = opening_of("test:model")
    opened = await open_session(pipe, opening)
    winner = (await pipe.one(*write_entry(opening.session, Claim(0, 1)))).decode()
    await pipe.one(*write_entry(opening.session, Token(0, winner, 0, "answer", " word", 1, 1)))
    own, log = AsyncPipe(pipe.url), Log(50)
    run, is_first = own.run, True

    async def slowly(commands: Any, **options: Any) -> Any:
        nonlocal is_first
        replies = await run(commands, **options)
        if is_first and commands[0][0] == "XRANGE" and commands[0][3] == "+":
            is_first = False
            await asyncio.sleep(stall_s)
            if signs:
                await pipe.one(*write_entry(opening.session, Alive(0, winner, 2)))
        return replies

    own.run = slowly  # type: ignore[method-assign]
    service = Service(own, "test:model", asyncio.Future(), False, "p", RedisPresence(log), log)
    running = asyncio.create_task(MemberServing(service, opened, opening, 0).run())

    async def written(kind: type[Any]) -> list[Any]:
        stream = await token_stream(pipe, opening.session)
        return [entry for _, raw in stream if isinstance(entry := decode_entry(raw), kind)]

    try:
        while not running.done() and not await written(Failed):
            await asyncio.wait([running], timeout=0.05)
        return [failed.reason for failed in await written(Failed)]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await own.close()


@pytest.mark.parametrize("stall_s", [0.0, 1.5])
async def test_a_producer_that_writes_keeps_its_member_also_after_a_stall_of_redis(
    pipe: AsyncPipe, stall_s: float
) -> None:
    assert await failures_after_a_takeover(pipe, signs=True, stall_s=stall_s) == []


async def test_a_producer_that_is_silent_has_died(pipe: AsyncPipe) -> None:
    assert await failures_after_a_takeover(pipe, signs=False) == [DIED_AFTER_IT_BEGAN]
