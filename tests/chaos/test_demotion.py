"""A Redis that becomes a replica answers whoever waits for it with an error: nobody dies of that."""

from __future__ import annotations

import pytest

from schemas.errors import RedisRefuses
from tests.chaos.events import check_events
from tests.chaos.seats import AGGREGATOR, DECIPHER, long_opening, ngram, seats_on
from tests.roles import DurableRedis
from tests.sessions import check_all_finished, until_ended
from tests.waiting import until
from transport.connection import AsyncPipe
from transport.sessions import find_session, open_session


async def test_who_waits_for_a_redis_that_is_demoted_waits_on(durable: DurableRedis, direct: AsyncPipe) -> None:
    """REPLICAOF (of nobody there): UNBLOCKED to all readers, READONLY to all writers ... REPLICAOF NO ONE.

    The session goes on, every token is in one frame and every frame composed once; a session opened later is served.
    """
    with seats_on(durable, AGGREGATOR, ngram("char-6", 40), DECIPHER) as seats:
        opening = long_opening("char-6", max_tokens=100)
        await open_session(direct, opening)

        async def has_begun() -> bool:
            return (await find_session(direct, opening.session)).window > 20

        await until(has_begun, "the session is under way")
        await direct.one("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RedisRefuses, match="read only replica"):
            await open_session(direct, long_opening("char-6", max_tokens=10))

        async def all_have_noticed() -> bool:
            return all("Redis is away" in seat.said() or "Redis refuses" in seat.said() for seat in seats.all)

        await until(all_have_noticed, "everybody has noticed")
        await direct.one("REPLICAOF", "NO", "ONE")
        for session in (opening, long_opening("char-6", max_tokens=20)):
            if session is not opening:
                await open_session(direct, session)
            await until_ended(direct, session.session)
            await check_events(direct, session.session, await check_all_finished(direct, session.session))
        seats.check()
