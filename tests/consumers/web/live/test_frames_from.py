"""`/frames?from=WINDOW`: all kept frames from that window on, each once, and then each new one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from consumers.web.live.feeds import RECENT_WINDOWS
from consumers.web.live.viewers import STALL_S
from tests.consumers.web.live.test_slow_clients import unread_socket
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer, record_of

WINDOWS = 2_000


@pytest.fixture
def recorder(redis: RedisServer, web: WebServer) -> FrameWriter:
    """A session of half a minute that is still open."""
    wait_until(lambda: record_of(redis, web), "the web is ready")
    found = FrameWriter(redis, text="abc ")
    found.write(WINDOWS)
    redis.run("HSET", f"council:{{{found.session}}}:state", "window", str(WINDOWS - 1))
    return found


async def listen(client: aiohttp.ClientSession, web: WebServer, query: str, into: list[Any]) -> int:
    """Appends every frame; returns the close code."""
    async with client.ws_connect(f"{web.http}/frames?{query}") as socket:
        async for message in socket:
            into.append(json.loads(message.data))  # noqa: PERF401  # the test reads it while it grows
        assert socket.close_code is not None
        return socket.close_code


@pytest.mark.parametrize(
    ("first", "shown_from"),
    [
        (0, 0),
        (700, 700),
        (WINDOWS - RECENT_WINDOWS, WINDOWS - RECENT_WINDOWS),
        (WINDOWS - 10, WINDOWS - 10),
        (WINDOWS, WINDOWS),
        # A window of the future: the frames begin when it is committed.
        (WINDOWS + 20, WINDOWS + 20),
        (None, WINDOWS - 1 - RECENT_WINDOWS + 1),
    ],
)
async def test_every_frame_from_a_window_on_comes_once_and_in_order(
    recorder: FrameWriter, web: WebServer, client: aiohttp.ClientSession, first: int | None, shown_from: int
) -> None:
    frames: list[Any] = []
    query = f"session={recorder.session}" + ("" if first is None else f"&from={first}")
    listening = asyncio.create_task(listen(client, web, query, frames))

    async def has_the_past() -> bool:
        return len(frames) >= WINDOWS - shown_from

    await until(has_the_past, "the past frames have come")
    recorder.write(40)
    recorder.write(1, final=True)
    assert await listening == 1000
    assert [frame["window_index"] for frame in frames] == list(range(shown_from, WINDOWS + 41))


async def test_a_session_that_has_ended_is_sent_whole_and_then_closed(
    recorder: FrameWriter, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder.write(1, final=True)
    frames: list[Any] = []
    assert await listen(client, web, f"session={recorder.session}&from=0", frames) == 1000
    assert [frame["window_index"] for frame in frames] == list(range(WINDOWS + 1))


@pytest.mark.parametrize("window", ["-1", "1.5", "x", ""])
async def test_an_invalid_window_is_refused(
    recorder: FrameWriter, web: WebServer, client: aiohttp.ClientSession, window: str
) -> None:
    async with client.get(f"{web.http}/frames?session={recorder.session}&from={window}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "bad_from"


async def test_a_client_that_asks_for_the_past_and_reads_nothing_is_closed(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """Another client receives everything meanwhile."""
    recorder = FrameWriter(redis, text="x" * 8_000)
    recorder.write(WINDOWS)
    redis.run("HSET", f"council:{{{recorder.session}}}:state", "window", str(WINDOWS - 1))
    wait_until(lambda: record_of(redis, web), "the web is ready")
    stalled = unread_socket(web, f"/frames?session={recorder.session}&from=0")
    began_s = asyncio.get_running_loop().time()
    frames: list[Any] = []
    reading = asyncio.create_task(listen(client, web, f"session={recorder.session}&from=0", frames))

    async def is_closed() -> bool:
        record = record_of(redis, web)
        return record is not None and record.detail["clients_too_slow"] == 1

    await until(is_closed, "the client that reads nothing is closed")
    assert asyncio.get_running_loop().time() - began_s >= STALL_S - 1
    recorder.write(1, final=True)
    assert await reading == 1000
    assert [frame["window_index"] for frame in frames] == list(range(WINDOWS + 1))
    stalled.close()


async def test_a_viewer_far_ahead_does_not_cut_the_past_of_later_viewers(
    recorder: FrameWriter, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """The first client asks for a window far ahead; clients that come later still receive the past."""
    first: list[Any] = []
    ahead = asyncio.create_task(listen(client, web, f"session={recorder.session}&from={WINDOWS + 10_000}", first))
    await until(lambda: is_watched(client, web), "the first client watches")
    shown: list[list[Any]] = [[], []]
    others = [
        asyncio.create_task(listen(client, web, f"session={recorder.session}{asked}", into))
        for asked, into in zip(("", "&from=0"), shown, strict=True)
    ]

    async def have_the_past() -> bool:
        return (len(shown[0]), len(shown[1])) == (RECENT_WINDOWS, WINDOWS)

    await until(have_the_past, "the last ten seconds, and everything")
    recorder.write(1, final=True)
    assert await asyncio.gather(ahead, *others) == [1000] * 3
    assert [frame["window_index"] for frame in shown[0]] == list(range(WINDOWS - RECENT_WINDOWS, WINDOWS + 1))
    assert [frame["window_index"] for frame in shown[1]] == list(range(WINDOWS + 1))
    assert first == []


async def is_watched(client: aiohttp.ClientSession, web: WebServer) -> bool:
    async with client.get(f"{web.http}/api/status") as answer:
        processes = (await answer.json())["processes"]
    return any(each["role"] == "web" and each["clients"] == 1 for each in processes)
