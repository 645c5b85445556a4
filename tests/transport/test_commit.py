"""The scripts on real Redis, 6.2 and 7.0: a session is opened completely, and a window is committed exactly once."""

from __future__ import annotations

import pytest

from aggregator.core.session import Session
from schemas import keys
from schemas.entries import Alive, Claim, Token
from schemas.errors import RedisRefuses, Refused
from schemas.grid import last_ms_of_window
from schemas.sessions import Opening
from tests.support.redis_servers import RedisServer
from tests.support.sessions import committed_frames, opening_of, token_stream
from transport.commit import Taken, commit_frame, take_over, taken, verdict
from transport.redis.connection import AsyncPipe, redis_ns
from transport.sessions import cancel_session, find_session, open_session
from transport.tokens import entries_read, read_entries, write_entry


class Owner:
    """An aggregator that the test controls: one core, one epoch."""

    def __init__(self, pipe: AsyncPipe, found: Taken) -> None:
        self.pipe, self.epoch = pipe, found.epoch
        self.core = Session(found.opening, found.opened)
        self.name = found.opening.session

    @classmethod
    async def of(cls, pipe: AsyncPipe, opening: Opening) -> Owner:
        found = taken(await pipe.one(*take_over(opening.session)))
        assert found is not None
        return cls(pipe, found)

    async def close(self, entries: list[tuple[str, bytes]], window: int | None = None) -> str:
        """Closes the core's next window with these entries, and tries to commit it."""
        closed = self.core.close(entries)
        frame = closed.frame
        reply = await self.pipe.one(
            *commit_frame(
                frame, self.epoch, last_ms_of_window(self.core.origin_ns, window or frame.window_index),
                progress=self.core.progress, stops=closed.stops, dead=closed.dead, checkpoint=b"",
                end_reason="",
            )
        )  # fmt: skip
        return verdict(reply)


@pytest.fixture
async def each_pipe(each_redis: RedisServer) -> AsyncPipe:
    return AsyncPipe(each_redis.url)


async def test_every_key_of_a_session_has_a_time_to_live_from_the_beginning(
    each_redis: RedisServer, each_pipe: AsyncPipe
) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    names = each_redis.run("KEYS", "*")
    assert sorted(names) == sorted(  # type: ignore[type-var]
        name.encode() for name in (*keys.of_session(opening.session), keys.SESSIONS)
    )
    assert each_redis.keys_without_ttl() == []


async def test_a_session_is_opened_once(each_pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    with pytest.raises(RedisRefuses, match="open already"):
        await open_session(each_pipe, opening)


async def test_a_window_is_committed_once_and_in_order(each_pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    owner, twin = await Owner.of(each_pipe, opening), await Owner.of(each_pipe, opening)
    owner.epoch = twin.epoch
    assert await owner.close([]) == "OK"
    assert await twin.close([]) == "WINDOW"
    assert await twin.close([]) == "OK"
    assert len(await committed_frames(each_pipe, opening.session)) == 2


async def test_an_earlier_owner_is_stale(each_pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    first, second = await Owner.of(each_pipe, opening), await Owner.of(each_pipe, opening)
    assert await first.close([]) == "STALE"
    assert await second.close([]) == "OK"


async def test_a_window_with_an_unread_entry_is_not_closed(each_pipe: AsyncPipe) -> None:
    """open ... claim (in the window) ... the owner, which has not read the claim, commits: AGAIN."""
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    owner = await Owner.of(each_pipe, opening)
    await each_pipe.one(*write_entry(opening.session, Claim(0, 0)))
    # A window after that of the claim, also on a slow machine.
    assert await owner.close([], window=600) == "AGAIN"
    assert await committed_frames(each_pipe, opening.session) == []
    reloaded = await Owner.of(each_pipe, opening)
    entries = entries_read(await each_pipe.one(*read_entries(opening.session, owner.core.opened)))
    assert await reloaded.close(entries, window=600) == "OK"


async def test_no_later_entry_falls_into_a_closed_window(each_pipe: AsyncPipe) -> None:
    """A window far in the future is closed, while the clock is before its end: the id of the next entry is after it."""
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    owner = await Owner.of(each_pipe, opening)
    assert await owner.close([], window=36_000) == "OK"
    last_ms = last_ms_of_window(owner.core.origin_ns, 36_000)
    assert redis_ns(await each_pipe.one("TIME")) // 10**6 < last_ms
    entry_id = (await each_pipe.one(*write_entry(opening.session, Claim(0, 0)))).decode()
    assert keys.entry_ms(entry_id) > last_ms


async def test_a_session_that_is_gone_is_not_created_again(each_redis: RedisServer, each_pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    owner = await Owner.of(each_pipe, opening)
    each_redis.run("FLUSHALL")
    assert await owner.close([]) == "GONE"
    assert await each_pipe.one(*write_entry(opening.session, Alive(0, "1-0", 0))) is None
    assert taken(await each_pipe.one(*take_over(opening.session))) is None
    assert each_redis.run("KEYS", "*") == []


async def test_entries_that_do_not_decode_are_counted_and_copied_to_the_dead_letters(each_pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    owner = await Owner.of(each_pipe, opening)
    await each_pipe.one("XADD", keys.tokens(opening.session), "*", "e", b"\xff not msgpack")
    await each_pipe.one("XADD", keys.tokens(opening.session), "*", "e", b"")
    entries = (await token_stream(each_pipe, opening.session))[1:]
    assert await owner.close(entries, window=600) == "OK"
    dead = await each_pipe.one("XRANGE", keys.dead(opening.session), "-", "+")
    assert [entry[1][3] for entry in dead] == [b"\xff not msgpack", b""]
    assert [entry[1][1].decode() for entry in dead] == [entry_id for entry_id, _ in entries]


async def test_cancelling_stops_members_and_ends_the_session(each_pipe: AsyncPipe) -> None:
    opening = opening_of("a", "b")
    await open_session(each_pipe, opening)
    owner = await Owner.of(each_pipe, opening)
    await cancel_session(each_pipe, opening.session)
    assert await owner.close((await token_stream(each_pipe, opening.session))[1:], window=600) == "OK"
    state = await find_session(each_pipe, opening.session)
    assert state.status == "ended"
    assert all(progress.ended for progress in state.progress)
    assert [
        keys.entry_ms(entry[0].decode()) > 0
        for entry in await each_pipe.one("XRANGE", keys.control(opening.session), "-", "+")
    ]


async def test_a_full_redis_takes_no_new_session(own_redis: RedisServer) -> None:
    used = int(str(own_redis.run("INFO", "memory")).split("used_memory:")[1].split("\\r")[0])
    own_redis.run("CONFIG", "SET", "maxmemory", used + 100_000)
    pipe = AsyncPipe(own_redis.url)
    with pytest.raises(Refused, match="short of memory"):
        await open_session(pipe, opening_of("a"))
    own_redis.run("CONFIG", "SET", "maxmemory", 0)
    await open_session(pipe, opening_of("a"))
    await pipe.close()


async def test_a_token_is_written_as_it_was_measured(each_pipe: AsyncPipe) -> None:
    opening = opening_of("a")
    await open_session(each_pipe, opening)
    claim = (await each_pipe.one(*write_entry(opening.session, Claim(0, 0)))).decode()
    await each_pipe.one(*write_entry(opening.session, Token(0, claim, 0, "answer", "Hé", 1, 2, -0.25, "real")))
    owner = await Owner.of(each_pipe, opening)
    entries = (await token_stream(each_pipe, opening.session))[1:]
    assert await owner.close(entries, window=600) == "OK"
    state = await find_session(each_pipe, opening.session)
    assert [(p.claim, p.next_seq, p.ended) for p in state.progress] == [(claim, 1, False)]
