"""Following a stream: each read proves that what was read last still stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aggregator.core.replay import replayed
from schemas import keys
from schemas.entries import Claim, Token, encode_entry
from schemas.errors import SessionGone, SetBack
from schemas.events import TokenStream, TokenStreamPayload, encode_event
from schemas.frames import Frame, encode_frame
from schemas.sessions import Opening
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import emptied
from tests.support.sessions import opening_of
from transport.events import EventBatch, write_events
from transport.following import StreamReader
from transport.frames import frames_after
from transport.recording import read_part
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import find_session, open_session

EVENT = encode_event(TokenStream(1, TokenStreamPayload(("a",), False, "s", "m")))


class Frames:
    """A session's frames stream, which a test writes, and empties as a Redis that lost its end."""

    def __init__(self, pipe: AsyncPipe, opening: Opening) -> None:
        self.pipe, self.session, self.key = pipe, opening.session, keys.frames(opening.session)

    async def write(self, *values: tuple[str, str, str]) -> None:
        """(id, content, nonce) each."""
        for entry_id, raw, nonce in values:
            await self.pipe.one("XADD", self.key, entry_id, "e", raw, "n", nonce)

    async def lose(self) -> None:
        await self.pipe.run(emptied(self.key))

    def reader(self, after: str = "0-0") -> StreamReader:
        return frames_after(self.pipe, self.session, after)


@pytest.fixture
async def frames(pipe: AsyncPipe) -> Frames:
    opening = opening_of("a")
    await open_session(pipe, opening)
    return Frames(pipe, opening)


FIRST = (("1-0", "a", "n1"), ("2-0", "b", "n1"), ("3-0", "", "n1"))
# What is written after the loss of the entries after 1-0, while the reader was away.
LOSSES = {
    "nothing": FIRST[:1],
    "less": (*FIRST[:1], ("2-0", "x", "n2")),
    "other content": (*FIRST[:1], ("2-0", "x", "n2"), ("3-0", "y", "n2"), ("4-0", "z", "n2")),
    "the last one is equal": (*FIRST[:1], ("2-0", "x", "n2"), ("3-0", "", "n2"), ("4-0", "z", "n2")),
    "the last one is left out": (*FIRST[:1], ("2-0", "x", "n2"), ("4-0", "z", "n2")),
}


@pytest.mark.parametrize("written", LOSSES.values(), ids=LOSSES)
async def test_a_reader_that_was_away_notices_that_redis_lost_what_it_read(
    frames: Frames, written: tuple[tuple[str, str, str], ...]
) -> None:
    """Its own connection never breaks. Two quiet frames have the same content: their nonces differ."""
    await frames.write(*FIRST)
    reader = frames.reader()
    assert [entry.raw for entry in await reader.read()] == [b"a", b"b", b""]
    await frames.lose()
    await frames.write(*written)
    with pytest.raises(SetBack):
        await reader.read()


async def test_a_reader_continues_behind_what_stands(frames: Frames) -> None:
    """From the beginning and from an id in the middle; without new entries, and with a loss behind what was read."""
    readers = [frames.reader(), frames.reader("2-0")]
    await frames.write(*FIRST[:2])
    assert [len(await reader.read()) for reader in readers] == [2, 0]
    assert [await reader.read() for reader in readers] == [[], []]
    await frames.write(FIRST[2])
    await frames.lose()
    await frames.write(*FIRST[:2], ("3-0", "other", "n2"))
    assert [[entry.raw for entry in await reader.read()] for reader in readers] == [[b"other"], [b"other"]]
    await frames.lose()
    for reader in readers:
        with pytest.raises(SetBack):
            await reader.read()
    await frames.pipe.one("DEL", keys.state(frames.session))
    with pytest.raises(SessionGone):
        await readers[0].read()


@pytest.fixture
async def waiting(redis: RedisServer) -> AsyncIterator[BlockingPipe]:
    pipe = BlockingPipe(redis.url)
    yield pipe
    await pipe.close()


async def test_a_reader_that_waits_proves_it_when_an_entry_comes(frames: Frames, waiting: BlockingPipe) -> None:
    await frames.write(*FIRST)
    reader = frames_after(waiting, frames.session)
    await reader.read(1)
    reading = asyncio.create_task(reader.read(10_000))
    await frames.pipe.run([("MULTI",), *emptied(frames.key), *_adds(frames), ("EXEC",)])
    with pytest.raises(SetBack):
        await reading


def _adds(frames: Frames) -> list[tuple[str, ...]]:
    return [("XADD", frames.key, e, "e", raw, "n", nonce) for e, raw, nonce in LOSSES["the last one is equal"]]


def test_a_quiet_frame_of_another_token_stream_has_another_cut() -> None:
    """The rule for readers that compare the frame alone, as a recorder that reads its file again: a token is lost and
    written again later; all that follows is equal, and the member has long been silent."""
    opening = opening_of("a")

    def last_frame(token_ms: int) -> Frame:
        # The token is written at the same distance from its id, as by a producer that writes it again.
        token = Token(0, "1001-0", 0, "answer", "one", 0, (token_ms - 1) * 1_000_000)
        stream = [("1000-0", opening), ("1001-0", Claim(0, 0)), (f"{token_ms}-0", token)]
        entries = [(entry_id, encode_entry(entry)) for entry_id, entry in stream]
        return [closed.frame for closed in replayed(entries, 120)][-1]

    kept, again = last_frame(1_100), last_frame(1_900)
    assert [frame.members[0].text for frame in (kept, again)] == ["", ""]
    assert kept.cut != again.cut
    assert encode_frame(kept) != encode_frame(again)


async def test_events_of_a_frame_that_redis_lost_are_not_written(frames: Frames) -> None:
    """DECIPHER has read the frame; another one has its id when the events are written. Its nonce differs."""
    await frames.write(*FIRST)

    def batch(nonce: bytes) -> EventBatch:
        return EventBatch("0-0", "3-0", [("3-0", EVENT)], False, b"", {}, "", b"e1", nonce)

    for nonce in (b"n2", b"n3"):
        assert not (await write_events(frames.pipe, frames.session, batch(nonce))).is_written
    assert await frames.pipe.one("XLEN", keys.events(frames.session)) == 0
    assert (await write_events(frames.pipe, frames.session, batch(b"n1"))).is_written
    assert await frames.pipe.one("XRANGE", keys.events(frames.session), "-", "+") == [
        [b"3-0", [b"e", EVENT, b"n", b"e1"]]
    ]


async def test_a_recording_whose_last_event_redis_lost_is_torn(frames: Frames) -> None:
    """Its last frame stands."""
    key = keys.events(frames.session)

    async def part(last: object = None) -> bool:
        found = await read_part(frames.pipe, frames.session, None, "0-0", "1-0", last)  # type: ignore[arg-type]
        return found.is_torn

    await frames.pipe.one("XADD", key, "1-0", "e", EVENT, "n", "n1")
    first = await read_part(frames.pipe, frames.session, None, "0-0", "0-0")
    assert first.last_event is not None
    assert not await part(first.last_event)
    await frames.pipe.run(emptied(key))
    assert await part(first.last_event)
    await frames.pipe.one("XADD", key, "1-0", "e", EVENT, "n", "n2")
    assert await part(first.last_event)
    assert not await part()
    assert (await find_session(frames.pipe, frames.session)).window == -1
