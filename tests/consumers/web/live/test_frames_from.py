"""`/frames?from=WINDOW`: all frames that are kept from there on, each once, and then each as it comes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from consumers.web.live.feeds import RECENT_WINDOWS
from consumers.web.live.viewers import PATIENCE_S
from tests.consumers.web.live.test_slow_clients import deaf_socket
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import Recorder
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer, record_of

WINDOWS = 2_000


@pytest.fixture
def recorder(redis: RedisServer, web: WebServer) -> Recorder:
    """A session of half a minute, which goes on."""
    wait_until(lambda: record_of(redis, web), "the web is ready")
    found = Recorder(redis, text="abc ")
    found.write(WINDOWS)
    redis.run("HSET", f"council:{{{found.session}}}:state", "window", str(WINDOWS - 1))
    return found


async def listen(client: aiohttp.ClientSession, web: WebServer, asked: str, into: list[Any]) -> int:
    async with client.ws_connect(f"{web.http}/frames?{asked}") as socket:
        async for message in socket:
            into.append(json.loads(message.data))  # noqa: PERF401  # what has come is looked at meanwhile
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
        # Not there yet: it begins when it is.
        (WINDOWS + 20, WINDOWS + 20),
        (None, WINDOWS - 1 - RECENT_WINDOWS + 1),
    ],
)
async def test_every_frame_from_a_window_on_comes_once_and_in_order(
    recorder: Recorder, web: WebServer, client: aiohttp.ClientSession, first: int | None, shown_from: int
) -> None:
    frames: list[Any] = []
    asked = f"session={recorder.session}" + ("" if first is None else f"&from={first}")
    listening = asyncio.create_task(listen(client, web, asked, frames))

    async def has_the_past() -> bool:
        return len(frames) >= WINDOWS - shown_from

    await until(has_the_past, "what was there has come")
    recorder.write(40)
    recorder.write(1, final=True)
    assert await listening == 1000
    assert [frame["window_index"] for frame in frames] == list(range(shown_from, WINDOWS + 41))


async def test_of_a_session_that_has_ended_all_comes_and_then_the_end(
    recorder: Recorder, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder.write(1, final=True)
    frames: list[Any] = []
    assert await listen(client, web, f"session={recorder.session}&from=0", frames) == 1000
    assert [frame["window_index"] for frame in frames] == list(range(WINDOWS + 1))


@pytest.mark.parametrize("written", ["-1", "1.5", "x", ""])
async def test_a_window_that_is_none_is_refused(
    recorder: Recorder, web: WebServer, client: aiohttp.ClientSession, written: str
) -> None:
    async with client.get(f"{web.http}/frames?session={recorder.session}&from={written}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "bad_from"


async def test_who_asks_for_the_past_and_takes_nothing_is_sent_away(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """It waits in nobody's way: another client gets everything meanwhile."""
    recorder = Recorder(redis, text="x" * 8_000)
    recorder.write(WINDOWS)
    redis.run("HSET", f"council:{{{recorder.session}}}:state", "window", str(WINDOWS - 1))
    wait_until(lambda: record_of(redis, web), "the web is ready")
    asleep = deaf_socket(web, f"/frames?session={recorder.session}&from=0")
    began_s = asyncio.get_running_loop().time()
    frames: list[Any] = []
    awake = asyncio.create_task(listen(client, web, f"session={recorder.session}&from=0", frames))

    async def is_sent_away() -> bool:
        record = record_of(redis, web)
        return record is not None and record.detail["clients_too_slow"] == 1

    await until(is_sent_away, "the client that takes nothing is sent away")
    assert asyncio.get_running_loop().time() - began_s >= PATIENCE_S - 1
    recorder.write(1, final=True)
    assert await awake == 1000
    assert [frame["window_index"] for frame in frames] == list(range(WINDOWS + 1))
    asleep.close()


async def test_what_one_asks_for_takes_nothing_from_those_who_come_later(
    recorder: Recorder, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """One asks for a window that is far ahead, and watches first; others get the past all the same."""
    first: list[Any] = []
    ahead = asyncio.create_task(listen(client, web, f"session={recorder.session}&from={WINDOWS + 10_000}", first))
    await until(lambda: is_watched(client, web), "the first one watches")
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
