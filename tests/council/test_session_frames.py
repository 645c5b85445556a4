"""`council.frames`: which sessions it reads, and how it ends."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest

from council import frames, session_frames
from schemas import keys
from schemas.errors import CouncilError, NoAggregator, OtherVersion, Refused, SessionGone, SetBack
from schemas.frames import FRAME_VERSION, encode_frame
from tests.support.frames import made_frame
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from transport import silence


def announced(redis: RedisServer, **fields: Any) -> FrameWriter:
    writer = FrameWriter(redis, "text ", **fields)
    writer.announce()
    return writer


async def windows(session: str | None, redis: RedisServer) -> list[tuple[str, int]]:
    """(session, window) of each frame that frames() yields."""
    return [(frame.session, frame.window_index) async for frame in frames(session, redis.url)]


async def test_one_session_is_read_from_its_beginning_to_its_final_frame(redis: RedisServer) -> None:
    before, ended = announced(redis), announced(redis)
    ended.write(3, final=True)
    redis.run("HSET", keys.state(ended.session), "status", "ended")
    before.write(2, final=True)
    assert await windows(ended.session, redis) == [(ended.session, window) for window in range(3)]
    # Without a name: of those that run, the one that was opened last.
    assert await windows(None, redis) == [(before.session, window) for window in range(2)]


async def test_each_session_follows_whole_and_once_in_the_order_of_opening(redis: RedisServer) -> None:
    running, found = announced(redis), list[tuple[str, int]]()
    later = list[FrameWriter]()

    async def read() -> None:
        async for frame in frames(redis_url=redis.url, each=True):
            found.append((frame.session, frame.window_index))

    async def has(count: int) -> bool:
        return len(found) == count

    reading = asyncio.create_task(read())
    try:
        running.write(1)
        await until(lambda: has(1), "the running session is read")
        # Both are opened, and end, before the one that is read.
        later += [announced(redis), announced(redis)]
        for writer in reversed(later):
            writer.write(2, final=True)
        running.write(1, final=True)
        await until(lambda: has(6), "the sessions that were opened meanwhile are read")
        later.append(announced(redis))
        later[-1].write(1, final=True)
        await until(lambda: has(7), "a session that is opened now is read")
    finally:
        reading.cancel()
    sessions = [running, *later]
    assert found == [(writer.session, window) for writer in sessions for window in range(writer.count)]


async def test_what_was_read_and_stands_no_more_is_an_error(redis: RedisServer) -> None:
    writer = announced(redis)
    writer.write(2, nonce=b"11111111")
    reading = frames(writer.session, redis.url)
    assert (await anext(reading)).window_index == 0
    assert (await anext(reading)).window_index == 1
    writer.lose()
    writer.write(2, nonce=b"22222222")
    with pytest.raises(SetBack, match="read it again from its beginning"):
        await anext(reading)


async def test_each_end_without_a_final_frame_is_one_sentence(redis: RedisServer) -> None:
    with pytest.raises(SessionGone, match="There is no session 'none' here"):
        await windows("none", redis)
    with pytest.raises(Refused, match="leave one of them out"):
        await anext(frames("none", redis.url, each=True))
    wrong: Any
    for wrong, sentence in [
        ({"session": 5}, "session is 5: give a session's id as a text."),
        ({"each": "yes"}, "each is 'yes': give True or False."),
        ({"redis_url": 5}, "redis_url is 5: give the address of a Redis."),
        ({"session": "\udcff", "redis_url": redis.url}, "characters that are not valid Unicode: correct it."),
    ]:
        with pytest.raises(Refused, match=re.escape(sentence)):
            await anext(frames(**wrong))
    with pytest.raises(Refused, match="No Redis answers at"):
        await anext(frames(redis_url="redis://127.0.0.1:1/0"))
    writer = announced(redis)
    raw = msgspec.msgpack.decode(encode_frame(made_frame(0, ())))
    redis.run("XADD", writer.key, "1-0", "e", msgspec.msgpack.encode([FRAME_VERSION + 1, *raw[1:]]))
    with pytest.raises(OtherVersion, match=f"A frame has version {FRAME_VERSION + 1}"):
        await windows(writer.session, redis)
    failed = announced(redis)
    redis.run("HSET", keys.state(failed.session), "status", "ended", "reason", "The council broke.")
    with pytest.raises(CouncilError, match=r"^The council broke\.$"):
        await windows(failed.session, redis)
    reading = frames(writer.session, redis.url)
    redis.run("XDEL", writer.key, "1-0")
    redis.run("DEL", keys.state(writer.session))
    with pytest.raises(SessionGone, match="There is no session"):
        await anext(reading)


@pytest.mark.parametrize("opened", ["*", "1000-0"], ids=["live", "replay"])
async def test_silence_is_an_error_except_in_a_replay_which_may_be_paused(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    writer, looked = FrameWriter(redis, opened=opened), silence.raise_reason

    async def look_then_write(*arguments: Any) -> None:
        await looked(*arguments)
        writer.write(1, final=True)

    monkeypatch.setattr(silence, "NO_AGGREGATOR_S", 0.0)
    monkeypatch.setattr(session_frames, "raise_reason", look_then_write)
    if opened == "*":
        with pytest.raises(NoAggregator, match="start one with `council up`"):
            await windows(writer.session, redis)
    else:
        assert await windows(writer.session, redis) == [(writer.session, 0)]
