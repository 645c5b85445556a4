"""Renewing the process record while the process runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from runtime.presence import RedisPresence
from schemas.errors import RedisAway
from transport.redis.connection import AsyncPipe
from transport.register import RENEW_S, ProcessRegistration

# A Redis that runs replies at once; without a reply the record expires by itself.
_LEAVE_S = 1.0


async def keep_record(
    url: str, registration: ProcessRegistration, presence: RedisPresence, facts: Callable[[], Mapping[str, int | str]]
) -> None:
    """Renews the record, with the role's own facts, each second until it is cancelled; then deletes it."""
    pipe = AsyncPipe(url)
    try:
        while True:
            registration.detail |= facts()
            try:
                presence.note(await pipe.run(registration.renew()))
            except RedisAway as error:
                presence.lose(error)
            await asyncio.sleep(RENEW_S)
    finally:
        with contextlib.suppress(RedisAway, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await pipe.run(registration.leave())
        await pipe.close()
