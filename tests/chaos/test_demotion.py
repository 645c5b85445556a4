"""A Redis that becomes a replica replies to readers and writers with errors. Every role waits as if it was away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from schemas.errors import RedisAway
from tests.chaos.events import check_finished_with_events
from tests.chaos.proxied_roles import AGGREGATOR, DECIPHER, long_opening, ngram, proxied_roles_on
from tests.support.redis_servers import DurableRedis, redis_binaries
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session


@pytest.fixture(params=redis_binaries())
def durable(request: pytest.FixtureRequest) -> Iterator[DurableRedis]:
    """Each server of this machine: their errors differ."""
    server = DurableRedis(redis_binaries()[request.param])
    yield server
    server.close()


async def test_a_redis_that_is_demoted_is_waited_for_as_one_that_is_away(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """REPLICAOF (no server there): UNBLOCKED to all readers, READONLY to all writers ... REPLICAOF NO ONE.

    Each role logs it once, however often it tries. Then the session goes on, every token is in one frame and every
    frame is composed once; a session opened later is served.
    """
    # Not through our own connections, which refuse a replica.
    plain = redis.Redis(unix_socket_path=durable.socket)
    with proxied_roles_on(durable, AGGREGATOR, ngram("char-6", 40), DECIPHER) as roles:
        opening = long_opening("char-6", max_tokens=100)
        await open_session(direct, opening)

        async def has_begun() -> bool:
            return (await find_session(direct, opening.session)).window > 20

        await until(has_begun, "the session is under way")
        plain.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RedisAway, match="read only replica"):
            await open_session(direct, long_opening("char-6", max_tokens=10))
        with pytest.raises(RedisAway, match="is a replica"):
            await direct.one("PING")
        connections = plain.info("stats")["total_connections_received"]

        async def all_have_noticed() -> bool:
            return all("Redis is away" in role.log() for role in roles.all)

        async def all_have_tried_again() -> bool:
            return bool(plain.info("stats")["total_connections_received"] > connections + 20)

        await until(all_have_noticed, "every role has noticed")
        await until(all_have_tried_again, "the roles have tried to connect several times each")
        assert [role.log().count("Redis is") for role in roles.all] == [1, 1, 1]
        plain.execute_command("REPLICAOF", "NO", "ONE")
        for session in (opening, long_opening("char-6", max_tokens=20)):
            if session is not opening:
                await open_session(direct, session)
            await check_finished_with_events(direct, session.session)
        roles.check()
    plain.close()
