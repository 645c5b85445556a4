"""When an aggregator dies, none of its sessions stands still for five seconds."""

from __future__ import annotations

import time

from tests.chaos.proxied_roles import AGGREGATOR, long_opening, ngram, proxied_roles_on
from tests.chaos.random_faults import MOST_TAKEOVER_S
from tests.support.redis_servers import DurableRedis
from tests.support.sessions import check_each_token_in_one_frame, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, open_session

_SESSIONS = 10


async def test_all_sessions_of_an_aggregator_that_died_are_taken_over_in_time(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """One aggregator has ten sessions and is killed; another, which has none, takes over all of them."""
    with proxied_roles_on(durable, AGGREGATOR, ngram("char-6", 15), ngram("char-6", 15)) as roles:
        observer = roles.observer
        openings = [long_opening("char-6", max_tokens=300) for _ in range(_SESSIONS)]
        for opening in openings:
            await open_session(direct, opening)
            observer.follow(opening.session)

        async def all_have_begun() -> bool:
            return all(observer.progress(opening.session).window > 10 for opening in openings)

        await until(all_have_begun, "every session is under way")
        roles.add(AGGREGATOR).wait_ready()
        killed_at = time.monotonic()
        roles.of("aggregator")[0].kill()

        async def all_go_on() -> bool:
            return all(observer.progress(opening.session).moved_at > killed_at + 0.1 for opening in openings)

        await until(all_go_on, "every session goes on")
        assert max(observer.progress(opening.session).stood_still_s for opening in openings) < MOST_TAKEOVER_S
        for opening in openings:
            await cancel_session(direct, opening.session)
            await until_ended(direct, opening.session)
            await check_each_token_in_one_frame(direct, opening.session)
