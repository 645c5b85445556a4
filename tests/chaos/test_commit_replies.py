"""Every reply of the commit script, to an aggregator that runs: GONE, STALE, WINDOW and AGAIN."""

from __future__ import annotations

from schemas import keys
from schemas.entries import Alive, encode_entry
from schemas.errors import RedisRefuses
from schemas.sessions import Opening
from tests.chaos.proxied_roles import AGGREGATOR, ProxiedRole, long_opening, ngram, proxied_roles_on
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


def _next_commit(role: ProxiedRole, kind: Kind, session: str) -> Fault:
    """Strikes the next commit of the session, and waits for that."""

    def is_of_session(words: Words) -> bool:
        return is_commit(words) and words[3] == keys.state(session).encode()

    fault = role.proxy.strike(kind, is_of_session)
    wait_until(lambda: fault.commands, "a commit is struck")
    return fault


async def _check_finished(pipe: AsyncPipe, session: str, tokens: int) -> None:
    await until_ended(pipe, session)
    frames = await check_all_finished(pipe, session)
    assert sum(len(frame.tokens) for frame in frames) == tokens


async def test_a_commit_that_arrives_twice_is_done_once(durable: DurableRedis, direct: AsyncPipe) -> None:
    """commit k arrives twice: the second reply is WINDOW k, and the aggregator loads the session again."""
    with proxied_roles_on(durable, AGGREGATOR, _CHARS) as roles:
        opening = await _open(direct)
        fault = _next_commit(roles.of("aggregator")[0], Kind.TWICE, opening.session)
        await _check_finished(direct, opening.session, 120)
        assert b"WINDOW " + fault.commands[0][9] in fault.replies[0]
        assert (await find_session(direct, opening.session)).epoch == 2
        roles.check()


async def test_an_entry_that_enters_a_window_before_its_commit_is_read(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """read ... an entry in the window (Redis's clock was a little behind) ... commit: AGAIN, and the entry counts."""
    with proxied_roles_on(durable, AGGREGATOR, ngram("char-6", 15)) as roles:
        opening = await _open(direct, max_tokens=30)
        (aggregator,) = roles.of("aggregator")

        async def entry_before_commit() -> Fault | None:
            fault = _next_commit(aggregator, Kind.HOLD, opening.session)
            try:
                last_ms = fault.commands[0][11].decode()
                mark = encode_entry(Alive(0, "1-1", 0))
                await direct.one("XADD", keys.tokens(opening.session), "NOMKSTREAM", f"{last_ms}-7", "e", mark)
            except RedisRefuses:
                # The producer wrote into the next window meanwhile: try with the next commit.
                return None
            finally:
                fault.release()
            return fault

        fault = await until(entry_before_commit, "an entry arrives between read and commit")
        wait_until(lambda: fault.replies, "the commit has a reply")
        assert b"AGAIN" in fault.replies[0]
        await _check_finished(direct, opening.session, 30)
        roles.check()


async def test_the_lease_of_a_session_that_expires_before_a_commit_is_given_back(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """commit is sent ... the session's keys are deleted ... GONE: its lease is given back, a new session is served."""
    with proxied_roles_on(durable, AGGREGATOR, _CHARS) as roles:
        lost = await _open(direct)
        fault = _next_commit(roles.of("aggregator")[0], Kind.HOLD, lost.session)
        await direct.one("DEL", *keys.of_session(lost.session))
        fault.release()
        wait_until(lambda: fault.replies, "the commit has a reply")
        assert b"GONE" in fault.replies[0]

        async def is_given_back() -> bool:
            return (await direct.one("XPENDING", keys.SESSIONS, keys.AGGREGATOR_GROUP))[0] == 0

        await until(is_given_back, "the lease is given back")
        opening = await _open(direct, max_tokens=30)
        await _check_finished(direct, opening.session, 30)
        assert await direct.one("EXISTS", *keys.of_session(lost.session)) == 0
        roles.check()


async def test_a_commit_that_arrives_after_its_lease_changes_nothing(durable: DurableRedis, direct: AsyncPipe) -> None:
    """A commit of A is on its way for longer than its lease; B takes over; then the commit arrives: STALE."""
    with proxied_roles_on(durable, AGGREGATOR, _CHARS) as roles:
        opening = await _open(direct, max_tokens=300)
        fault = _next_commit(roles.of("aggregator")[0], Kind.HOLD, opening.session)
        roles.add(AGGREGATOR)

        async def is_taken_over() -> bool:
            state = await find_session(direct, opening.session)
            return state.epoch == 2 and state.window > int(fault.commands[0][9]) + 10

        await until(is_taken_over, "another aggregator goes on")
        fault.release()
        wait_until(lambda: fault.replies, "the commit has a reply")
        assert b"STALE" in fault.replies[0]
        await _check_finished(direct, opening.session, 300)
        assert (await find_session(direct, opening.session)).epoch == 2
        roles.check()
