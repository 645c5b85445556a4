"""A Redis that comes back with less than it had said: the law holds on what is there."""

from __future__ import annotations

from tests.chaos.events import check_events
from tests.chaos.seats import AGGREGATOR, DECIPHER, long_opening, ngram, seats_on
from tests.support.roles import DurableRedis
from tests.support.sessions import check_all_finished, until_ended
from tests.support.waiting import until, wait_until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

_COUNCIL = (AGGREGATOR, AGGREGATOR, ngram("char-6", 40), ngram("char-8", 40), DECIPHER)


async def _reaches(pipe: AsyncPipe, session: str, window: int) -> None:
    async def is_there() -> bool:
        return (await find_session(pipe, session)).window >= window

    await until(is_there, f"window {window} is committed")


async def test_a_restart_of_redis_with_its_file_loses_nothing(durable: DurableRedis) -> None:
    """Killed and started again twice in mid-session: every token is in one frame."""
    pipe = AsyncPipe(durable.url)
    with seats_on(durable, *_COUNCIL) as seats:
        opening = long_opening("char-6", "char-8", max_tokens=160)
        await open_session(pipe, opening)
        for window in (40, 130):
            await _reaches(pipe, opening.session, window)
            durable.restart()
            await pipe.close()
        await until_ended(pipe, opening.session)
        frames = await check_all_finished(pipe, opening.session)
        await check_events(pipe, opening.session, frames)
        seats.check()
    await pipe.close()


async def test_a_redis_that_lost_some_windows_goes_on_from_what_it_has(durable: DurableRedis) -> None:
    """windows 0 .. 100 | Redis dies, and comes back with 0 .. 60 and the tokens of then | the rest is written again.

    The epoch is an earlier one too. The frames of the final stream are those of the final token stream: they never
    fork, and each token is in one of them.
    """
    pipe = AsyncPipe(durable.url)
    with seats_on(durable, *_COUNCIL) as seats:
        opening = long_opening("char-6", "char-8", max_tokens=160)
        await open_session(pipe, opening)
        for window in (60, 150):
            await _reaches(pipe, opening.session, window)
            length = durable.log.stat().st_size
            await _reaches(pipe, opening.session, window + 40)
            durable.roll_back(length)
            await pipe.close()
        await until_ended(pipe, opening.session)
        frames = await check_all_finished(pipe, opening.session)
        await check_events(pipe, opening.session, frames)
        seats.check()
    await pipe.close()


async def test_a_session_that_redis_forgot_the_opening_of_is_gone_for_good(durable: DurableRedis) -> None:
    """Redis comes back as it was before the session: nobody writes any of its keys again, and a new one is served."""
    pipe = AsyncPipe(durable.url)
    with seats_on(durable, *_COUNCIL) as seats:
        length = durable.log.stat().st_size
        lost = long_opening("char-6", "char-8", max_tokens=400)
        await open_session(pipe, lost)
        await _reaches(pipe, lost.session, 40)
        durable.roll_back(length)
        await pipe.close()
        opening = long_opening("char-6", "char-8", max_tokens=40)
        wait_until(lambda: all(seat.said().count("Redis is back") for seat in seats.all), "everybody is back")
        await open_session(pipe, opening)
        await until_ended(pipe, opening.session)
        frames = await check_all_finished(pipe, opening.session)
        await check_events(pipe, opening.session, frames)
        assert await pipe.one("KEYS", f"*{lost.session}*") == []
        seats.check()
    await pipe.close()
