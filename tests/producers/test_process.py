"""Producers as real processes on a real Redis: claims, started text that is never repeated, and the entries that they
write."""

from __future__ import annotations

import asyncio
import signal
import time

import msgspec

from schemas.entries import AnyEntry, Claim, Failed, Finished, Token, decode_entry
from schemas.keys import entry_ms
from schemas.rules.lanes import lane_end
from schemas.rules.served import last_failures
from schemas.sessions import Limits
from tests.producers.member.test_grants import calls
from tests.support.faulty_server import faulty_server
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles, roles_on
from tests.support.sessions import check_the_law, opening_of, token_stream, until_ended, written_texts
from tests.support.waiting import until, wait_until
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import cancel_session, find_session, open_session
from transport.tokens import write_entry


async def _entries(pipe: AsyncPipe, session: str) -> list[AnyEntry]:
    return [decode_entry(raw) for _, raw in await token_stream(pipe, session)]


async def _has_begun(pipe: AsyncPipe, session: str, tokens: int) -> bool:
    state = await find_session(pipe, session)
    return bool(state.progress) and state.progress[0].next_seq >= tokens


async def test_a_producer_writes_signs_and_its_sequence_numbers_are_dense(roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    opening = opening_of("ngram:char-6", max_tokens=30)
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    entries = await _entries(pipe, opening.session)
    (claim,) = [entry for entry in entries if isinstance(entry, Claim)]
    assert claim.pauses
    tokens = [entry for entry in entries if isinstance(entry, Token)]
    assert [token.seq for token in tokens] == list(range(30))
    assert {token.quality for token in tokens} == {"real"}
    arrivals = [token.arrival_ns for token in tokens]
    assert arrivals == sorted(arrivals)
    assert all(token.written_ns >= token.arrival_ns for token in tokens)
    (finished,) = [entry for entry in entries if isinstance(entry, Finished)]
    assert (finished.tokens, finished.reason) == (30, "length")


async def test_a_session_that_has_not_begun_is_taken_over(roles: Roles, pipe: AsyncPipe) -> None:
    """The first producer is paused before it reads the session, and killed: the second answers."""
    roles.ready("aggregator")
    first = roles.ready("producers", "ngram:char-6")
    first.process.send_signal(signal.SIGSTOP)
    opening = opening_of("ngram:char-6", max_tokens=20)
    await open_session(pipe, opening)
    # The paused one may have the session's lease: its read was under way when it was paused.
    second = roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    await until_ended(pipe, opening.session)
    frames = await check_the_law(pipe, opening.session)
    assert frames[-1].members[0].state == "finished"
    assert second.process.poll() is None
    first.kill()


async def test_a_request_without_text_is_sent_by_another_producer_when_the_first_is_killed(
    roles: Roles, pipe: AsyncPipe
) -> None:
    """
    first    claim ... asks its server, which is silent ... SIGKILL
    second                                    ready ............  claim, the whole answer
    """
    async with faulty_server() as server:
        roles.ready("aggregator")
        first = roles.start("producers", "m", "--backend", server.url, "--name", "never")
        await asyncio.to_thread(first.wait_ready)
        # More than the five beats for which a member may be silent; the lease of a dead process ends after three.
        opening = opening_of("m", limits=Limits(beats_without_entry=15))
        await open_session(pipe, opening)

        async def is_asked() -> bool:
            return server.asked["never"] == 1

        await until(is_asked, "the first producer's server is asked")
        second = roles.start("producers", "m", "--backend", server.url, "--name", "good")
        await asyncio.to_thread(second.wait_ready)
        first.kill()
        await until_ended(pipe, opening.session)
        assert server.asked == {"never": 1, "good": 1}
    frames = await check_the_law(pipe, opening.session)
    assert frames[-1].members[0].state == "finished"
    assert "".join(frame.members[0].text for frame in frames) == "One fine day"
    entries = await token_stream(pipe, opening.session)
    claims = [entry_id for entry_id, raw in entries if isinstance(decode_entry(raw), Claim)]
    assert {token.claim for _, raw in entries if isinstance(token := decode_entry(raw), Token)} == {claims[1]}


async def test_a_member_whose_server_is_away_or_becomes_silent_drops_and_the_others_continue(
    roles: Roles, pipe: AsyncPipe
) -> None:
    """The member that the others' text waited for is gone: all of their text is released."""
    reasons = {
        "away": "cannot be reached: check that the model server is running",
        "silent": "sent nothing for 0.3 s",
        "reset": "closed the connection unexpectedly",
    }
    async with faulty_server() as server:
        roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
        for model in reasons:
            url = "http://127.0.0.1:1" if model == "away" else server.url
            await asyncio.to_thread(roles.start("producers", model, "--backend", url).wait_ready)
        opening = opening_of("ngram:char-6", *reasons, max_tokens=40, limits=Limits(silence_ms=300))
        await open_session(pipe, opening)
        await until_ended(pipe, opening.session)

        async def are_recorded() -> bool:
            return set(last_failures(await list_processes(pipe))) == set(reasons)

        await until(are_recorded, "the failures are in the process records")
        failures = last_failures(await list_processes(pipe))
        # The address, and what it did there.
        assert failures["away"].reason == f"away at http://127.0.0.1:1 {reasons['away']}"
        assert failures["silent"].reason.startswith(f"silent at {server.url} sent nothing for 0.3 s")
        assert failures["silent"].server == server.url
    frames = await check_the_law(pipe, opening.session)
    good, *bad = frames[-1].members
    assert [member.state for member in (good, *bad)] == ["finished", "dropped", "dropped", "dropped"]
    for member, reason in zip(bad, reasons.values(), strict=True):
        assert reason in member.reason
    written = await written_texts(pipe, opening.session)
    assert {number: text for number, text in written.items() if number} == {2: "One fine day", 3: "One fine day"}
    for number, text in written.items():
        assert "".join(frame.members[number].text for frame in frames) == text


async def test_a_member_that_pauses_is_ahead_by_its_lead_at_most(roles: Roles, pipe: AsyncPipe) -> None:
    """A token starts within the slowest member's text, plus a twentieth of what that wrote in a second."""
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "40")
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "1000")
    opening = opening_of("ngram:char-6", "ngram:word-3", max_tokens=120)
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    frames = await check_the_law(pipe, opening.session)
    assert [member.state for member in frames[-1].members] == ["finished", "finished"]
    ends, slowest = [0, 0], [(0, 0)]
    for entry_id, raw in await token_stream(pipe, opening.session):
        entry = decode_entry(raw)
        if isinstance(entry, Finished):
            break
        if isinstance(entry, Token):
            now_ms = entry_ms(entry_id)
            # Sixty windows and the present one.
            before = next(end for ms, end in reversed(slowest) if ms < now_ms - 1_020 or not ms)
            assert ends[entry.member] <= min(ends) + max(1, (ends[0] - before) // 20)
            ends[entry.member] = lane_end(entry, ends[entry.member])
            slowest += [(now_ms, ends[0])] if entry.member == 0 else []
    assert min(ends) > 50
    assert any(frame.members[1].state == "held" for frame in frames)


async def test_started_text_is_never_repeated(roles: Roles, pipe: AsyncPipe) -> None:
    """The producer dies after it began; another one of the same model takes the session over: `failed`, and no second
    text."""
    roles.ready("aggregator")
    victim = roles.ready("producers", "ngram:char-6", "--tokens-per-s", "15")
    opening = opening_of("ngram:char-6", max_tokens=400)
    await open_session(pipe, opening)
    await until(lambda: _has_begun(pipe, opening.session, 5), "the member has begun")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "15")
    victim.kill()
    await until_ended(pipe, opening.session)
    frames = await check_the_law(pipe, opening.session)
    member = frames[-1].members[0]
    assert member.state == "dropped"
    # The reason is that of the first one: the producer that takes over, or five beats of silence.
    assert member.reason in ("producer died after it began", "producer gone")
    entries = await _entries(pipe, opening.session)
    assert len({entry.claim for entry in entries if isinstance(entry, Token)}) == 1
    text = "".join(frame.members[0].text for frame in frames)
    assert text == (await written_texts(pipe, opening.session))[0]


async def test_a_producer_that_does_not_drain_ends_what_it_has_begun_and_hands_over_the_rest(
    roles: Roles, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    first = roles.ready("producers", "ngram:char-6", "--tokens-per-s", "15", COUNCIL_DRAIN_S="0")
    opening = opening_of("ngram:char-6", max_tokens=400)
    await open_session(pipe, opening)
    await until(lambda: _has_begun(pipe, opening.session, 5), "the member has begun")
    assert first.end() == 0
    await until_ended(pipe, opening.session, 10)
    frames = await check_the_law(pipe, opening.session)
    assert frames[-1].members[0].reason == "its producer was stopped"
    assert "Traceback" not in first.log()


async def test_a_producer_looks_for_abandoned_sessions_ten_times_a_second_unless_it_is_alone(
    roles: Roles, pipe: AsyncPipe
) -> None:
    """Each refresh of the leases, one a second, looks once; the others are the looks in between."""
    roles.ready("producers", "ngram:char-6")
    assert await _looks_a_refresh(pipe) < 1.5
    roles.ready("producers", "ngram:char-6")
    await _looks_a_refresh(pipe)
    assert await _looks_a_refresh(pipe) > 3


async def _looks_a_refresh(pipe: AsyncPipe) -> float:
    """How often producers ask for pending entries for each refresh of their leases."""
    looks, refreshes = await calls(pipe, "xpending"), await calls(pipe, "evalsha")

    async def have_refreshed() -> bool:
        return await calls(pipe, "evalsha") >= refreshes + 4

    await until(have_refreshed, "the leases are refreshed, and again")
    return (await calls(pipe, "xpending") - looks) / (await calls(pipe, "evalsha") - refreshes)


async def test_a_cancelled_session_stops_the_model(roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    producer = roles.ready("producers", "ngram:char-6", "--tokens-per-s", "15")
    opening = opening_of("ngram:char-6", max_tokens=400)
    await open_session(pipe, opening)
    await until(lambda: _has_begun(pipe, opening.session, 5), "the member has begun")
    await cancel_session(pipe, opening.session)
    await until_ended(pipe, opening.session)

    async def is_acknowledged() -> bool:
        return (await pipe.one("XPENDING", "council:sessions", "producer:ngram:char-6"))[0] == 0

    await until(is_acknowledged, "the producer lets go of the session")
    assert producer.process.poll() is None


async def test_connections_that_break_during_an_answer_lose_no_token(own_redis: RedisServer) -> None:
    """Redis closes every connection, twice: producer and aggregator connect again, and every token is in one frame."""
    pipe = AsyncPipe(own_redis.url)
    with roles_on(own_redis.url) as roles:
        roles.ready("aggregator")
        roles.ready("producers", "ngram:char-6", "--tokens-per-s", "40")
        opening = opening_of("ngram:char-6", max_tokens=400, limits=Limits(beats_without_entry=50))
        await open_session(pipe, opening)
        await until(lambda: _has_begun(pipe, opening.session, 5), "the member has begun")
        await pipe.one("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: _has_begun(pipe, opening.session, 60), "the member goes on")
        await pipe.one("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until_ended(pipe, opening.session)
        frames = await check_the_law(pipe, opening.session)
        (finished,) = {e.tokens for e in await _entries(pipe, opening.session) if isinstance(e, Finished)}
        assert sum(len(frame.tokens) for frame in frames) == finished > 60
        # Written again from where the aggregator is, not from the beginning.
        assert sum(frame.counts.duplicates for frame in frames) < 30
        assert frames[-1].members[0].state == "finished"
    await pipe.close()


async def test_a_member_of_another_model_is_not_served(roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("producers", "ngram:char-6")
    opening = opening_of("ngram:word-3")
    await open_session(pipe, opening)

    async def is_acknowledged() -> bool:
        groups = await pipe.one("XINFO", "GROUPS", "council:sessions")
        facts = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
        return any(fact[b"last-delivered-id"] != b"0-0" and fact[b"pending"] == 0 for fact in facts)

    await until(is_acknowledged, "the session was looked at and let go")
    assert len(await token_stream(pipe, opening.session)) == 1


async def test_a_late_producer_of_a_failed_session_writes_nothing(roles: Roles, pipe: AsyncPipe) -> None:
    """The session has ended before its producer starts, which acknowledges it and writes nothing."""
    roles.ready("aggregator")
    opening = opening_of("ngram:char-6", limits=Limits(beats_without_claim=1))
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)
    length = len(await token_stream(pipe, opening.session))
    roles.ready("producers", "ngram:char-6")

    async def is_acknowledged() -> bool:
        return (await pipe.one("XPENDING", "council:sessions", "producer:ngram:char-6"))[0] == 0

    await until(is_acknowledged, "the ended session is acknowledged")
    assert len(await token_stream(pipe, opening.session)) == length


async def test_a_failed_mark_drops_the_member_with_its_reason(roles: Roles, pipe: AsyncPipe) -> None:
    roles.ready("aggregator")
    opening = opening_of("x", "y")
    await open_session(pipe, opening)
    for member in (0, 1):
        claim = (await pipe.one(*write_entry(opening.session, Claim(member, 0)))).decode()
        await pipe.one(*write_entry(opening.session, Failed(member, claim, 0, f"reason {member}")))
    state = await until_ended(pipe, opening.session)
    assert state.reason == "Every member dropped: x: reason 0; y: reason 1."


async def test_a_redis_that_stalls_longer_than_the_leases_loses_no_member(own_redis: RedisServer) -> None:
    """Two producers of one model; Redis stops for longer than a lease: each lease looks abandoned, no member drops."""
    pipe = AsyncPipe(own_redis.url)
    with roles_on(own_redis.url) as roles:
        roles.ready("aggregator")
        for _ in range(2):
            roles.ready("producers", "ngram:char-6", "--tokens-per-s", "15")
        openings = [opening_of("ngram:char-6", max_tokens=150) for _ in range(4)]
        for opening in openings:
            await open_session(pipe, opening)
        for opening in openings:
            await until(lambda name=opening.session: _has_begun(pipe, name, 5), "the members have begun")
        own_redis.process.send_signal(signal.SIGSTOP)
        stalled_until = time.monotonic() + 4.0
        wait_until(lambda: time.monotonic() > stalled_until, "the leases look left")
        own_redis.process.send_signal(signal.SIGCONT)
        for opening in openings:
            await until_ended(pipe, opening.session)
            frames = await check_the_law(pipe, opening.session)
            assert [(m.state, m.reason) for m in frames[-1].members if m.state != "finished"] == []
    await pipe.close()


async def test_an_error_of_redis_does_not_lose_a_lease(roles: Roles, pipe: AsyncPipe, redis: RedisServer) -> None:
    """Redis forgets the scripts, then refuses writes for two seconds: the session is finished nevertheless."""
    roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "30")
    opening = opening_of("ngram:char-6", max_tokens=200)
    await open_session(pipe, opening)
    await until(lambda: _has_begun(pipe, opening.session, 5), "the member has begun")
    await pipe.one("SCRIPT", "FLUSH")
    await until(lambda: _has_begun(pipe, opening.session, 40), "the member goes on")
    await pipe.one("CONFIG", "SET", "min-replicas-to-write", "1")
    refused_until = time.monotonic() + 2.0
    wait_until(lambda: time.monotonic() > refused_until, "writes are refused for a while")
    await pipe.one("CONFIG", "SET", "min-replicas-to-write", "0")
    await until_ended(pipe, opening.session)
    frames = await check_the_law(pipe, opening.session)
    assert frames[-1].members[0].state == "finished"


async def test_an_answer_that_waits_for_an_aggregator_is_written_once(roles: Roles, pipe: AsyncPipe) -> None:
    """Without an aggregator for some seconds after the end, the stream does not grow."""
    aggregator = roles.ready("aggregator")
    roles.ready("producers", "ngram:char-6", "--tokens-per-s", "100")
    # In step mode it would first wait until its grants lapse.
    opening = msgspec.structs.replace(opening_of("ngram:char-6", max_tokens=100), sync="free")
    await open_session(pipe, opening)
    await until(lambda: _has_begun(pipe, opening.session, 5), "the member has begun")
    aggregator.kill()

    async def is_written() -> bool:
        return any(isinstance(entry, Finished) for entry in await _entries(pipe, opening.session))

    await until(is_written, "the answer is written")
    waited_until = time.monotonic() + 3.0
    wait_until(lambda: time.monotonic() > waited_until, "some seconds without an aggregator")
    tokens = [entry.seq for entry in await _entries(pipe, opening.session) if isinstance(entry, Token)]
    assert len(tokens) == len(set(tokens))
    roles.ready("aggregator")
    await until_ended(pipe, opening.session)
    await check_the_law(pipe, opening.session)
