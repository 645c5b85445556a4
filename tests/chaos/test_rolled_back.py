"""A Redis that restarts without its last writes: the law holds for the entries that it has."""

from __future__ import annotations

from tests.chaos.events import check_finished_with_events
from tests.chaos.proxied_roles import AGGREGATOR, DECIPHER, long_opening, ngram, proxied_roles_on
from tests.support.redis_servers import DurableRedis
from tests.support.waiting import until, wait_until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

_COUNCIL = (AGGREGATOR, AGGREGATOR, ngram("char-6", 40), ngram("char-8", 40), DECIPHER)


async def _reaches(pipe: AsyncPipe, session: str, window: int) -> None:
    async def is_there() -> bool:
        return (await find_session(pipe, session)).window >= window

    await until(is_there, f"window {window} is committed")


async def test_a_restart_of_redis_with_its_file_loses_nothing(durable: DurableRedis, direct: AsyncPipe) -> None:
    """Killed and started again twice in mid-session: every token is in one frame."""
    with proxied_roles_on(durable, *_COUNCIL) as roles:
        opening = long_opening("char-6", "char-8", max_tokens=160)
        await open_session(direct, opening)
        for window in (40, 130):
            await _reaches(direct, opening.session, window)
            durable.restart()
            await direct.close()
        await check_finished_with_events(direct, opening.session)
        roles.check()


async def test_a_session_continues_from_the_windows_that_redis_kept(durable: DurableRedis, direct: AsyncPipe) -> None:
    """windows 0 .. 100 | Redis dies, and restarts with 0 .. 60 and the tokens of that time | the rest is written again.

    The epoch is an earlier one too. The final frames are those of the final token stream, and each token is in one of
    them.
    """
    with proxied_roles_on(durable, *_COUNCIL) as roles:
        opening = long_opening("char-6", "char-8", max_tokens=160)
        await open_session(direct, opening)
        for window in (60, 150):
            await _reaches(direct, opening.session, window)
            length = durable.append_only_file.stat().st_size
            await _reaches(direct, opening.session, window + 40)
            durable.roll_back(length)
            await direct.close()
        await check_finished_with_events(direct, opening.session)
        roles.check()


async def test_a_session_whose_opening_redis_lost_is_never_created_again(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """Redis restarts as it was before the session: no role writes a key of it again, and a new session is served."""
    with proxied_roles_on(durable, *_COUNCIL) as roles:
        length = durable.append_only_file.stat().st_size
        lost = long_opening("char-6", "char-8", max_tokens=400)
        await open_session(direct, lost)
        await _reaches(direct, lost.session, 40)
        durable.roll_back(length)
        await direct.close()
        opening = long_opening("char-6", "char-8", max_tokens=40)
        wait_until(lambda: all("Redis is back" in role.log() for role in roles.all), "every role is connected again")
        await open_session(direct, opening)
        await check_finished_with_events(direct, opening.session)
        assert await direct.one("KEYS", f"*{lost.session}*") == []
        roles.check()
