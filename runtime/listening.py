"""Following a stream of session ids from its beginning, for as long as the process runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runtime.presence import RedisPresence
from schemas.errors import RedisAway, RedisRefuses
from transport.redis.connection import BlockingPipe

_BLOCK_MS = 1_000
_RETRY_S = 0.25


async def follow_ids(
    url: str,
    presence: RedisPresence,
    read: Callable[[BlockingPipe, str, int], Awaitable[list[tuple[str, str]]]],
    take: Callable[[str, str], None],
) -> None:
    """Calls take(entry id, session id) for each entry of the stream that `read` reads, until it is cancelled. After a
    break of Redis it reads from the beginning again: a Redis that lost its data starts its ids again. While Redis
    refuses what this process writes, it reads nothing."""
    pipe, after = BlockingPipe(url), "0"
    try:
        while True:
            if presence.refusal is not None:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                for entry_id, session in await read(pipe, after, _BLOCK_MS):
                    take(entry_id, session)
                    after = entry_id
                presence.come_back()
            except (RedisAway, RedisRefuses) as error:
                presence.lose(error)
                after = "0"
                await asyncio.sleep(_RETRY_S)
    finally:
        await pipe.close()
