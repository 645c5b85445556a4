"""The asyncio pipe: whoever is cancelled while Redis is asked ends, wherever it was."""

from __future__ import annotations

import asyncio

from tests.support.redis_servers import RedisServer
from transport.redis.connection import AsyncPipe

# A connection, its greeting and a command take fewer turns of the loop than this.
_TURNS = 150


async def _ask_for_ever(pipe: AsyncPipe) -> None:
    while True:
        await pipe.run([("PING",)])


async def test_a_cancelled_task_ends_in_whichever_turn_of_the_loop_it_is_cancelled(redis: RedisServer) -> None:
    """Before 3.12 asyncio.wait_for, which redis-py sends with where it has a time-out, forgets a cancellation that
    comes when it is done: so ours have none."""
    for turns in range(_TURNS):
        pipe = AsyncPipe(redis.url)
        asking = asyncio.create_task(_ask_for_ever(pipe))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=5)
        assert done, f"it went on after {turns} turns"
        assert asking.cancelled()
        await pipe.close()
