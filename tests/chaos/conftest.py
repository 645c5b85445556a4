"""Fixtures of the faults: a Redis that survives a kill, with a life for every key it ever held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos.faketime import MISSING
from tests.support.redis_servers import DurableRedis, redis_binaries
from transport.redis.connection import AsyncPipe

# Said in the head of every run, as the browser is; continuous integration installs it.
collect_ignore = ["test_stepping_clock.py"] if MISSING else []


@pytest.fixture
def durable() -> Iterator[DurableRedis]:
    server = DurableRedis(next(iter(redis_binaries().values())))
    yield server
    server.close()


@pytest.fixture
async def direct(durable: DurableRedis) -> AsyncIterator[AsyncPipe]:
    """A way to Redis past every proxy."""
    pipe = AsyncPipe(durable.url)
    yield pipe
    await pipe.close()
