"""Aggregators as real processes: killed, paused or stopped, the law holds for the stream."""

from __future__ import annotations

import signal

import msgspec

from schemas import keys
from schemas.errors import RedisAway
from schemas.sessions import EnergyProfile, Limits
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, Roles, roles_on
from tests.support.sessions import check_the_law, opening_of, until_ended, written_texts
from tests.support.waiting import until
from transport.commit import end_session, epoch_taken, take_over
from transport.frames import find_frame
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import find_session, open_session


async def _windows(pipe: AsyncPipe, session: str, at_least: int) -> None:
    async def are_there() -> bool:
        return (await find_session(pipe, session)).window >= at_least

    await until(are_there, f"window {at_least} is committed")


async def _owner(pipe: AsyncPipe, aggregators: list[Role]) -> Role:
    """The aggregator that holds the only lease."""

    async def found() -> Role | None:
        consumers = await pipe.one("XINFO", "CONSUMERS", keys.SESSIONS, keys.AGGREGATOR_GROUP)
        facts = [dict(zip(consumer[::2], consumer[1::2], strict=True)) for consumer in consumers]
        names = {record.name: record.pid for record in await list_processes(pipe)}
        pids = [names.get(fact[b"name"].decode()) for fact in facts if fact[b"pending"]]
        return next((role for role in aggregators if role.process.pid in pids), None)

    return await until(found, "an aggregator holds the lease")


async def test_a_killed_aggregator_is_taken_over_and_the_law_holds(roles: Roles, pipe: AsyncPipe) -> None:
    """Two aggregators; the owner is killed in mid-session (SIGKILL): no window is twice or missing."""
    aggregators = [roles.ready("aggregator"), roles.ready("aggregator")]
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "40")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "60")
    opening = opening_of("ngram:word-3", "ngram:char-6", max_tokens=300)
    await open_session(pipe, opening)
    await _windows(pipe, opening.session, 70)
    (await _owner(pipe, aggregators)).kill()
    state = await until_ended(pipe, opening.session)
    assert state.epoch == 2
    frames = await check_the_law(pipe, opening.session)
    assert frames[-1].final
    assert {member.state for member in frames[-1].members} == {"finished"}


async def test_a_paused_aggregator_that_wakes_up_commits_nothing(roles: Roles, pipe: AsyncPipe) -> None:
    """SIGSTOP past the lease, takeover, SIGCONT: the old owner's commits are stale, and it drops the session."""
    aggregators = [roles.ready("aggregator"), roles.ready("aggregator")]
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "25")
    opening = opening_of("ngram:word-3", max_tokens=200)
    await open_session(pipe, opening)
    await _windows(pipe, opening.session, 20)
    owner = await _owner(pipe, aggregators)
    owner.process.send_signal(signal.SIGSTOP)

    async def taken_over() -> bool:
        return (await find_session(pipe, opening.session)).epoch == 2

    await until(taken_over, "the session is taken over")
    owner.process.send_signal(signal.SIGCONT)
    state = await until_ended(pipe, opening.session)
    assert state.epoch == 2
    await check_the_law(pipe, opening.session)
    assert owner.end() == 0


async def test_a_stopped_aggregator_hands_its_sessions_over_at_once(roles: Roles, pipe: AsyncPipe) -> None:
    aggregators = [roles.ready("aggregator"), roles.ready("aggregator")]
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "40")
    opening = opening_of("ngram:word-3", max_tokens=100, temperature=0.0)
    await open_session(pipe, opening)
    await _windows(pipe, opening.session, 20)
    assert (await _owner(pipe, aggregators)).end() == 0

    async def taken_over() -> bool:
        return (await find_session(pipe, opening.session)).epoch == 2

    # Well under the three seconds after which a silent owner's lease is free.
    await until(taken_over, "the session is handed over", 2.5)
    await until_ended(pipe, opening.session)
    await check_the_law(pipe, opening.session)


async def test_a_redis_that_lost_all_data_is_served_again(own_redis: RedisServer) -> None:
    """Redis restarts without its data in mid-session: the session is gone, and new ones work."""
    pipe = AsyncPipe(own_redis.url)
    with roles_on(own_redis.url) as roles:
        aggregator = roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
        lost = opening_of("ngram:char-6", max_tokens=2_000)
        await open_session(pipe, lost)
        await _windows(pipe, lost.session, 30)
        own_redis.kill()
        own_redis.start()
        opening = opening_of("ngram:char-6", max_tokens=40)

        async def opened() -> bool:
            try:
                await open_session(pipe, opening)
            except RedisAway:
                # The connection of before: the next call makes a new one.
                return False
            return True

        await until(opened, "a session is opened on the new server")
        await until_ended(pipe, opening.session)
        frames = await check_the_law(pipe, opening.session)
        assert frames[-1].members[0].state == "finished"
        assert aggregator.process.poll() is None
        assert aggregator.log().count("Redis is away") <= 1
        assert "Traceback" not in aggregator.log()
    await pipe.close()


async def test_late_frames_are_marked_only_on_a_server_that_has_not_had_the_session_from_its_opening_on(
    each_redis: RedisServer,
) -> None:
    """Its first windows are due before the first aggregator has started: no client can have received them before."""
    pipe = AsyncPipe(each_redis.url)
    opening = opening_of("ngram:char-6", max_tokens=5)
    await open_session(pipe, opening)
    with roles_on(each_redis.url) as roles:
        roles.start("aggregator")
        roles.start("producers", "ngram:char-6", "--tokens-per-s", "100")
        await until_ended(pipe, opening.session)
    last = await find_frame(pipe, opening.session, (await find_session(pipe, opening.session)).window)
    first = await find_frame(pipe, opening.session, 0)
    assert first is not None
    assert last is not None
    assert (first.may_be_written_again, last.may_be_written_again) == (False, False)
    assert first.nonce == last.nonce != b""
    await pipe.close()


async def test_a_session_that_brings_out_a_bug_ends_without_the_others(roles: Roles, pipe: AsyncPipe) -> None:
    """A profile that no admission writes makes the core divide by zero: this session ends, the others go on."""
    profile = EnergyProfile(tps_max=0.0, stall_ms=400.0, smoothing=0.3)
    poison = msgspec.structs.replace(opening_of("ngram:char-6"), profile=profile)
    aggregator = roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    opening = opening_of("ngram:char-6", max_tokens=60)
    await open_session(pipe, opening)
    await open_session(pipe, poison)
    state = await until_ended(pipe, poison.session)
    assert state.reason == "The aggregator failed on this session (ZeroDivisionError)."
    assert (await until_ended(pipe, opening.session)).epoch == 1
    await check_the_law(pipe, opening.session)
    assert aggregator.process.poll() is None


async def test_a_checkpoint_of_another_version_is_not_needed(roles: Roles, pipe: AsyncPipe) -> None:
    """The next owner cannot read the checkpoint: it computes all from the opening, and the law holds."""
    first = roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "40")
    opening = opening_of("ngram:char-6", max_tokens=150)
    await open_session(pipe, opening)
    await _windows(pipe, opening.session, 70)
    assert first.end() == 0
    assert await pipe.one("HEXISTS", keys.state(opening.session), "checkpoint") == 1
    await pipe.one("HSET", keys.state(opening.session), "checkpoint", msgspec.msgpack.encode([99, None, None]))
    roles.ready("aggregator")
    await until_ended(pipe, opening.session)
    await check_the_law(pipe, opening.session)


async def test_a_redis_out_of_memory_is_waited_for(own_redis: RedisServer) -> None:
    """Redis refuses writes in mid-session, then has room again: every token is there once, and no process died."""
    pipe = AsyncPipe(own_redis.url)
    with roles_on(own_redis.url) as roles:
        aggregator = roles.ready("aggregator")
        producer = roles.ready("producers", "ngram:char-6", "--tokens-per-s", "40")
        opening = opening_of("ngram:char-6", max_tokens=200, limits=Limits(beats_without_entry=60))
        await open_session(pipe, opening)
        await _windows(pipe, opening.session, 30)
        await pipe.one("CONFIG", "SET", "maxmemory", "1mb")

        async def both_noticed() -> bool:
            return all("Redis is out of memory" in role.log() for role in (aggregator, producer))

        await until(both_noticed, "aggregator and producer hold what they have")
        await pipe.one("CONFIG", "SET", "maxmemory", "0")
        await until_ended(pipe, opening.session)
        frames = await check_the_law(pipe, opening.session)
        assert frames[-1].members[0].state == "finished"
        texts = await written_texts(pipe, opening.session)
        assert "".join(frame.members[0].text for frame in frames) == texts[0]
        assert aggregator.log().count("Redis is out of memory") == 1
    await pipe.close()


async def test_the_producers_of_an_ended_session_are_stopped(pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(pipe, opening)
    assert await pipe.one(*end_session(opening.session, 0, "because")) == b"OK"
    state = await find_session(pipe, opening.session)
    assert (state.status, state.reason) == ("ended", "because")
    assert len(await pipe.one("XRANGE", keys.control(opening.session), "-", "+")) == 1


async def test_a_former_owner_ends_no_session(pipe: AsyncPipe) -> None:
    """It was paused before it ended the session; another aggregator has continued it."""
    opening = opening_of("a")
    await open_session(pipe, opening)
    first = await pipe.one(*take_over(opening.session))
    await pipe.one(*take_over(opening.session))
    assert await pipe.one(*end_session(opening.session, epoch_taken(first), "because")) == b"STALE"
    assert (await find_session(pipe, opening.session)).status == "open"
    assert await pipe.one(*end_session("none", 1, "because")) == b"GONE"
