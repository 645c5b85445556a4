"""The aggregator writes nothing that it computed from the replies of an earlier connection."""

from __future__ import annotations

import logging

import pytest

from aggregator.loop import AggregatorLoop
from runtime.log import Log
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from transport.redis import link
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration
from transport.sessions import open_session


async def test_sessions_are_loaded_again_after_a_new_connection(
    redis: RedisServer, pipe: AsyncPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was paused, and Redis has closed the connection meanwhile: it may have lost what the sessions have
    read. The upkeep, which follows from no reply, meets the new connection first."""
    opening = opening_of("a")
    await open_session(pipe, opening)
    loop = AggregatorLoop(redis.url, ProcessRegistration("aggregator"), Log(logging.ERROR), lambda: False)
    while opening.session not in loop._tenure.owned:
        loop._tick()
    loop._tick()
    before = loop._tenure.owned[opening.session]
    redis.run("CLIENT", "KILL", "TYPE", "normal")
    monkeypatch.setattr(link, "_CHECKED_AFTER_S", 0.0)
    loop._upkeep_due = 0.0
    loop._keep_up()
    assert loop._tenure.owned[opening.session] is before
    loop._tick()
    assert loop._tenure.owned[opening.session] is not before
    loop._pipe.close()
