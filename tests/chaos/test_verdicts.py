"""Every answer that a commit can have, given to an aggregator that runs: GONE, STALE, WINDOW and AGAIN."""

from __future__ import annotations

from schemas import keys
from schemas.entries import Alive, encode_entry
from schemas.errors import RedisRefuses
from schemas.sessions import Opening
from tests.chaos.seats import AGGREGATOR, Seat, long_opening, ngram, seats_on
from tests.support.redis_servers import DurableRedis
from tests.support.sessions import check_all_finished, until_ended
from tests.support.tcp_proxy import Fault, Kind, Words, is_commit
from tests.support.waiting import until, wait_until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

_CHARS = ngram("char-6", 60)


async def _open(pipe: AsyncPipe, max_tokens: int = 120) -> Opening:
    """A session whose first windows are committed."""
    opening = long_opening("char-6", max_tokens=max_tokens)
    await open_session(pipe, opening)

    async def has_begun() -> bool:
        state = await find_session(pipe, opening.session)
        return bool(state.progress) and state.progress[0].next_seq > 3

    await until(has_begun, "the member has begun")
    return opening


def _next_commit(seat: Seat, kind: Kind, session: str) -> Fault:
    """The next commit of the session was struck."""

    def is_of_session(words: Words) -> bool:
        return is_commit(words) and words[3] == keys.state(session).encode()

    fault = seat.proxy.strike(kind, is_of_session)
    wait_until(lambda: fault.commands, "a commit is struck")
    return fault


async def _check_finished(pipe: AsyncPipe, session: str, tokens: int) -> None:
    await until_ended(pipe, session)
    frames = await check_all_finished(pipe, session)
    assert sum(len(frame.tokens) for frame in frames) == tokens


async def test_a_commit_that_arrives_twice_is_done_once(durable: DurableRedis, direct: AsyncPipe) -> None:
    """commit k arrives, and once more: the second is answered WINDOW k, and its owner loads the session again."""
    with seats_on(durable, AGGREGATOR, _CHARS) as seats:
        opening = await _open(direct)
        fault = _next_commit(seats.of("aggregator")[0], Kind.TWICE, opening.session)
        await _check_finished(direct, opening.session, 120)
        assert b"WINDOW " + fault.commands[0][9] in fault.replies[0]
        assert (await find_session(direct, opening.session)).epoch == 2
        seats.check()


async def test_an_entry_that_comes_into_a_window_before_its_commit_is_read(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """read ... an entry in the window (Redis's clock was a little behind) ... commit: AGAIN, and the entry counts."""
    with seats_on(durable, AGGREGATOR, ngram("char-6", 15)) as seats:
        opening = await _open(direct, max_tokens=30)
        (aggregator,) = seats.of("aggregator")

        async def came_between() -> Fault | None:
            fault = _next_commit(aggregator, Kind.HOLD, opening.session)
            try:
                last_ms = fault.commands[0][11].decode()
                mark = encode_entry(Alive(0, "1-1", 0))
                await direct.one("XADD", keys.tokens(opening.session), "NOMKSTREAM", f"{last_ms}-7", "e", mark)
            except RedisRefuses:
                # The producer wrote into the next window meanwhile: with the next commit, then.
                return None
            finally:
                fault.release()
            return fault

        fault = await until(came_between, "an entry comes between read and commit")
        wait_until(lambda: fault.replies, "the commit is answered")
        assert b"AGAIN" in fault.replies[0]
        await _check_finished(direct, opening.session, 30)
        seats.check()


async def test_a_session_that_expires_before_a_commit_is_let_go(durable: DurableRedis, direct: AsyncPipe) -> None:
    """commit ... the session's keys go ... GONE: its lease is given back, and the next session is served."""
    with seats_on(durable, AGGREGATOR, _CHARS) as seats:
        lost = await _open(direct)
        fault = _next_commit(seats.of("aggregator")[0], Kind.HOLD, lost.session)
        await direct.one("DEL", *keys.of_session(lost.session))
        fault.release()
        wait_until(lambda: fault.replies, "the commit is answered")
        assert b"GONE" in fault.replies[0]

        async def is_let_go() -> bool:
            return (await direct.one("XPENDING", keys.SESSIONS, keys.AGGREGATOR_GROUP))[0] == 0

        await until(is_let_go, "the lease is given back")
        opening = await _open(direct, max_tokens=30)
        await _check_finished(direct, opening.session, 30)
        assert await direct.one("EXISTS", *keys.of_session(lost.session)) == 0
        seats.check()


async def test_a_commit_that_was_held_up_past_the_lease_changes_nothing(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """A's commit is under way for longer than its lease; B takes over and goes on; then it arrives: STALE."""
    with seats_on(durable, AGGREGATOR, _CHARS) as seats:
        opening = await _open(direct, max_tokens=300)
        fault = _next_commit(seats.of("aggregator")[0], Kind.HOLD, opening.session)
        seats.add(AGGREGATOR)

        async def is_taken_over() -> bool:
            state = await find_session(direct, opening.session)
            return state.epoch == 2 and state.window > int(fault.commands[0][9]) + 10

        await until(is_taken_over, "another aggregator goes on")
        fault.release()
        wait_until(lambda: fault.replies, "the commit is answered")
        assert b"STALE" in fault.replies[0]
        await _check_finished(direct, opening.session, 300)
        assert (await find_session(direct, opening.session)).epoch == 2
        seats.check()
