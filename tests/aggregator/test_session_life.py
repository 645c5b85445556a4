"""A session's life and its limits, on real processes: the longest life, a full Redis, dead letters, no aggregator, no
producer for a member."""

from __future__ import annotations

import aiohttp
import pytest

from schemas import keys
from schemas.errors import Refused
from schemas.frames import Frame
from schemas.sessions import Limits
from tests.support.council_command import council
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles, roles_on
from tests.support.sessions import check_all_finished, check_each_token_in_one_frame, opening_of, until_ended
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.commit import end_session
from transport.leases import Leases
from transport.redis.connection import AsyncPipe, info_fields
from transport.sessions import find_session, open_session

_CHAR = "ngram:char-6"
_PROMPT = "What is a function?"


async def _until_window(pipe: AsyncPipe, session: str, window: int) -> None:
    async def is_there() -> bool:
        return (await find_session(pipe, session)).window >= window

    await until(is_there, f"window {window} is committed")


def _reasons(frames: list[Frame]) -> list[tuple[str, str | None]]:
    return [(member.state, member.reason) for member in frames[-1].members]


# --- the longest life ------------------------------------------------------------------------------------------------


async def test_a_session_ends_at_its_longest_life_whatever_its_members_do(roles: Roles, pipe: AsyncPipe) -> None:
    """One member writes, one has no producer: at 2.2 s both are dropped, and the producer stops.

    What was written until then is told; its keys stay for the retention, no longer.
    """
    roles.ready("aggregator")
    roles.ready("producers", _CHAR, "--tokens-per-s", "20")
    opening = opening_of(_CHAR, "nobody:7b", max_tokens=2_000, prompt=_PROMPT, limits=Limits(life_ms=2_200))
    await open_session(pipe, opening)
    state = await until_ended(pipe, opening.session)
    frames = await check_each_token_in_one_frame(pipe, opening.session)
    reason = "the session reached its longest life of 0.0366667 min"
    assert _reasons(frames) == [("dropped", reason)] * 2
    assert state.reason == f"Every member dropped: {reason}."
    assert len(frames) == 132
    assert sum(len(frame.tokens) for frame in frames) > 5
    for key in keys.of_session(opening.session):
        assert await pipe.one("TTL", key) <= keys.RETENTION_S

    async def is_released() -> bool:
        pending = [await pipe.one("XPENDING", keys.SESSIONS, group) for group in _groups()]
        return [count for count, *_ in pending] == [0, 0]

    await until(is_released, "aggregator and producer acknowledge it")


async def test_a_session_that_is_ended_without_a_last_frame_stays_for_the_retention(pipe: AsyncPipe) -> None:
    """Opened for an hour and kept for another; ended at once with a reason: all its keys stay an hour from then."""
    opening = opening_of("a")
    await open_session(pipe, opening)
    await pipe.run([end_session(opening.session, 0, "because")])
    lives = await pipe.run([("TTL", key) for key in keys.of_session(opening.session)])
    assert all(0 < life <= keys.RETENTION_S for life in lives)


async def test_a_session_that_is_handed_over_twenty_times_is_not_ended(each_redis: RedisServer) -> None:
    """A hands over, B takes over, B hands over ...: no owner died. Then owners die, and this is counted."""
    pipe = AsyncPipe(each_redis.url)
    await open_session(pipe, opening_of("a"))
    first, second = Leases("g", "first", takeover_idle_ms=5_000), Leases("g", "second", takeover_idle_ms=5_000)
    await pipe.run(first.create_group())
    first.add_new(await pipe.one(*first.read_new(1)))
    for _ in range(10):
        for leaving, coming in ((first, second), (second, first)):
            await pipe.run([leaving.hand_over()])
            _, taken = coming.add_refresh(await pipe.one(*coming.refresh(1)))
            assert [lease.deliveries for lease in taken] == [1]
    dying, deaths = Leases("g", "dying", takeover_idle_ms=0), []
    for _ in range(3):
        # It takes the lease over, and does nothing more.
        _, taken = dying.add_refresh(await pipe.one(*dying.refresh(1)))
        deaths += [lease.deliveries for lease in taken]
        dying.held.clear()
    assert deaths == [2, 3, 4]
    await pipe.close()


def _groups() -> tuple[str, str]:
    return keys.AGGREGATOR_GROUP, keys.producer_group(_CHAR)


# --- a full Redis ----------------------------------------------------------------------------------------------------


async def test_above_four_fifths_of_redis_no_session_is_opened_and_those_that_run_end_well(
    own_redis: RedisServer,
) -> None:
    """A session runs ... Redis is 85 % full: command, API and page refuse with what to do; the session ends well."""
    pipe = AsyncPipe(own_redis.url)
    with roles_on(own_redis.url) as roles:
        aggregator = roles.ready("aggregator")
        roles.ready("producers", _CHAR, "--tokens-per-s", "40")
        web = WebServer(own_redis.url)
        opening = opening_of(_CHAR, max_tokens=100, prompt=_PROMPT)
        await open_session(pipe, opening)
        await _until_window(pipe, opening.session, 20)
        used = int(info_fields(await pipe.one("INFO", "memory"))["used_memory"])
        await pipe.one("CONFIG", "SET", "maxmemory", int(used / 0.85))
        with pytest.raises(Refused, match="Redis is short of memory and takes no new session"):
            await open_session(pipe, opening_of(_CHAR))
        async with aiohttp.ClientSession() as client:
            status, said = await _posted(client, web)
        assert (status, said["error"]["code"]) == (503, "redis_full")
        asked = council("ask", "hi", "--models", _CHAR, url=own_redis.url)
        asked.assert_refused("short of memory", "wait until old sessions expire, or raise its maxmemory")
        await until_ended(pipe, opening.session)
        await check_all_finished(pipe, opening.session)
        assert "Redis refuses" not in aggregator.log()
        web.close()
    await pipe.close()


async def _posted(client: aiohttp.ClientSession, web: WebServer) -> tuple[int, dict[str, dict[str, str]]]:
    """The answer to a session asked for over HTTP, once the web is there."""

    async def answered() -> tuple[int, dict[str, dict[str, str]]] | None:
        try:
            async with client.post(f"{web.http}/api/sessions", json={"prompt": "hi", "models": [_CHAR]}) as answer:
                return answer.status, await answer.json()
        except aiohttp.ClientConnectionError:
            return None

    found = await until(answered, "the web answers")
    assert found is not None
    return found


async def test_running_sessions_lose_nothing_while_redis_is_full(own_redis: RedisServer) -> None:
    """Two sessions ... Redis takes nothing more for some seconds ... it has room: no token is lost or shown twice.

    Each role says it once. Nobody is dropped: without a commit there is no beat, and so no silence.
    """
    pipe = AsyncPipe(own_redis.url)
    with roles_on(own_redis.url) as roles:
        aggregator, producer = roles.ready("aggregator"), roles.ready("producers", _CHAR, "--tokens-per-s", "40")
        openings = [opening_of(_CHAR, max_tokens=120, prompt=_PROMPT) for _ in range(2)]
        for opening in openings:
            await open_session(pipe, opening)
        for opening in openings:
            await _until_window(pipe, opening.session, 20)
        await pipe.one("CONFIG", "SET", "maxmemory", "1mb")

        async def both_noticed() -> bool:
            return all("Redis is out of memory" in role.log() for role in (aggregator, producer))

        await until(both_noticed, "both roles have noticed")
        before = [(await find_session(pipe, opening.session)).window for opening in openings]
        for key in keys.of_session(openings[0].session):
            assert await pipe.one("TTL", key) > 0
        await pipe.one("CONFIG", "SET", "maxmemory", "0")
        for opening, window in zip(openings, before, strict=True):
            assert (await until_ended(pipe, opening.session)).window > window
            await check_all_finished(pipe, opening.session)

        async def both_are_over_it() -> bool:
            return all("Redis has room again" in role.log() for role in (aggregator, producer))

        await until(both_are_over_it, "both roles have noticed that there is room")
        for role in (aggregator, producer):
            assert role.log().count("Redis is out of memory") == role.log().count("Redis has room again") == 1
            assert "Redis is away" not in role.log()
    await pipe.close()


# --- dead letters ----------------------------------------------------------------------------------------------------


async def test_dead_letters_are_counted_and_copied_and_the_session_goes_on(roles: Roles, pipe: AsyncPipe) -> None:
    """Three thousand invalid entries between the tokens: each is counted once, about a thousand are kept."""
    roles.ready("aggregator")
    roles.ready("producers", _CHAR, "--tokens-per-s", "60")
    opening = opening_of(_CHAR, max_tokens=150, prompt=_PROMPT)
    await open_session(pipe, opening)
    key = keys.tokens(opening.session)
    written: list[tuple[bytes, bytes]] = []
    for batch in range(6):
        await _until_window(pipe, opening.session, 12 + batch * 12)
        raws = [b"\xc1 %d" % (batch * 500 + n) for n in range(500)]
        ids = await pipe.run([("XADD", key, "NOMKSTREAM", "*", keys.ENTRY_FIELD, raw) for raw in raws])
        written += zip(ids, raws, strict=True)
    await until_ended(pipe, opening.session)
    frames = await check_all_finished(pipe, opening.session)
    assert sum(frame.counts.dead_letters for frame in frames) == 3_000
    dead = await pipe.one("XRANGE", keys.dead(opening.session), "-", "+")
    kept = [(fields[1], fields[3]) for _, fields in dead]
    # Trimmed by whole nodes of a hundred entries.
    assert keys.SIDE_STREAM_MAXLEN <= len(kept) < keys.SIDE_STREAM_MAXLEN + 100
    assert kept == written[-len(kept) :]


# --- without an aggregator -------------------------------------------------------------------------------------------


async def test_a_session_without_an_aggregator_is_reported_and_goes_on_when_one_is_started(
    roles: Roles, redis: RedisServer, pipe: AsyncPipe
) -> None:
    """No aggregator: the command reports this in one sentence, and opens no session. A session that is open waits, and
    is answered whole when an aggregator comes."""
    roles.ready("producers", _CHAR, "--tokens-per-s", "100")
    outcome = council("ask", _PROMPT, "--models", _CHAR, "--max-tokens", "30", url=redis.url)
    assert (outcome.code, outcome.out) == (1, "")
    outcome.assert_said("No aggregator runs: start one with `council up` or `python -m aggregator`.")
    assert await pipe.one("XRANGE", keys.SESSIONS, "-", "+") == []
    opening = opening_of(_CHAR, max_tokens=30, prompt=_PROMPT)
    await open_session(pipe, opening)
    roles.ready("aggregator")
    await until_ended(pipe, opening.session)
    await check_all_finished(pipe, opening.session)


# --- without a producer ----------------------------------------------------------------------------------------------


async def test_a_member_without_a_producer_is_dropped_within_six_seconds(
    roles: Roles, redis: RedisServer, pipe: AsyncPipe
) -> None:
    """It is dropped after five beats. The other member goes on, and was not held back for longer than a second.

    A session in which nobody serves anybody ends with that reason; and a person who asks for such a model is told.
    """
    roles.ready("aggregator")
    roles.ready("producers", _CHAR, "--tokens-per-s", "30")
    opening = opening_of(_CHAR, "nobody:7b", max_tokens=180, prompt=_PROMPT)
    lonely = opening_of("nobody:7b", "nobody:13b")
    for one in (opening, lonely):
        await open_session(pipe, one)
    assert (await until_ended(pipe, lonely.session)).reason == "Every member dropped: nobody serves it."
    assert (await check_each_token_in_one_frame(pipe, lonely.session))[-1].end_ns < 6 * 10**9
    asked = council("ask", "hi", "--models", "nobody:7b", url=redis.url)
    asked.assert_refused("nobody:7b")
    await until_ended(pipe, opening.session)
    frames = await check_each_token_in_one_frame(pipe, opening.session)
    assert _reasons(frames) == [("finished", "length"), ("dropped", "nobody serves it")]
    first = next(frame for frame in frames if frame.members[1].state == "dropped")
    assert 4 * 10**9 < first.end_ns < 6 * 10**9
    assert not first.final
    released = next(frame for frame in frames if frame.members[0].text)
    assert released.end_ns < 2 * 10**9
