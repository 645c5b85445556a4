"""Fixtures of the faults: a Redis that restarts with all its data after it was killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos.faketime import MISSING
from tests.support.redis_servers import DurableRedis, preferred_binary
from transport.redis.connection import AsyncPipe

# The start of every run prints the reason, as that of the browser; continuous integration installs the library.
collect_ignore = ["test_stepping_clock.py"] if MISSING else []


@pytest.fixture
def durable() -> Iterator[DurableRedis]:
    server = DurableRedis(preferred_binary())
    yield server
    server.close()


@pytest.fixture
async def direct(durable: DurableRedis) -> AsyncIterator[AsyncPipe]:
    """A connection to Redis without a proxy."""
    pipe = AsyncPipe(durable.url)
    yield pipe
    await pipe.close()
