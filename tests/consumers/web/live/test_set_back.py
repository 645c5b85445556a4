"""Clients of a session whose end Redis lost: each is told to start again, and then receives the true text."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from schemas import keys
from schemas.events import TokenStream, TokenStreamPayload, encode_event
from tests.support.live_clients import Closed, text_of
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer, record_of, windows

Client = aiohttp.ClientSession
# Nonces of two aggregators, and of the second one for windows that the first one may have committed.
ONE, OTHER, AGAIN = b"11111111", b"22222222", b"22222222~"


@pytest.fixture
def writer(redis: RedisServer, web: WebServer) -> FrameWriter:
    """Ten windows of one aggregator."""
    wait_until(lambda: record_of(redis, web), "the web is ready")
    found = FrameWriter(redis, text="abc ")
    found.write(10, nonce=ONE)
    redis.run("HSET", keys.state(found.session), "window", "9")
    return found


async def received(client: Client, web: WebServer, query: str, count: int) -> list[dict[str, Any]]:
    """The first frames of `/frames`. Raises Closed."""
    async with client.ws_connect(f"{web.http}/frames?{query}") as socket:
        return [json.loads(await text_of(socket, 5)) for _ in range(count)]


async def test_a_feed_whose_last_frame_redis_lost_closes_its_clients_and_a_new_one_begins(
    web: WebServer, client: Client, writer: FrameWriter
) -> None:
    """The last frame is written again with the same content; two windows before it have another text. The client's
    connection and that of the web process to Redis never break. The first client has not answered the close yet when
    the next one connects."""
    address = f"{web.http}/frames?session={writer.session}"
    async with client.ws_connect(address) as slow, client.ws_connect(address) as socket:
        assert windows([await text_of(socket) for _ in range(10)]) == list(range(10))
        writer.lose()
        writer.write(7, nonce=ONE)
        writer.text = "other "
        writer.write(2, nonce=AGAIN)
        writer.text = "abc "
        writer.write(2, nonce=AGAIN)
        with pytest.raises(Closed, match="Redis lost the newest data of this session") as closed:
            await text_of(socket)
        assert closed.value.code == 1013
        frames = await received(client, web, f"session={writer.session}", 11)
        assert [frame["members"][0]["text"] for frame in frames] == ["abc "] * 7 + ["other "] * 2 + ["abc "] * 2
        assert slow.close_code is None


CONTINUED = [
    # The cut of the frame before `from`, as FrameWriter writes it, and another one; one that is not committed.
    ("from=8&cut=1-0", True),
    ("from=8&cut=2-0", False),
    ("from=12&cut=1-0", False),
    # Without a cut: a window that was committed once; one that may have been committed before; one past the newest.
    ("from=4", True),
    ("from=8", False),
    ("from=12", False),
    ("from=0", True),
]


@pytest.mark.parametrize(("query", "is_proven"), CONTINUED)
async def test_a_client_of_frames_continues_only_behind_a_frame_that_stands(
    redis: RedisServer, web: WebServer, client: Client, writer: FrameWriter, query: str, is_proven: bool
) -> None:
    """windows 0 .. 4 | Redis lost its end | 5 .. 9 written again | 10 .. 40 are due, and are not committed yet"""
    writer.lose()
    writer.write(5, nonce=ONE)
    writer.write(5, nonce=AGAIN)
    opened = int(str(redis.run("HGET", keys.state(writer.session), "opened"), "ascii").partition("-")[0])
    redis.run("HSET", keys.state(writer.session), "opened", f"{opened - 700}-0")
    reading = asyncio.create_task(received(client, web, f"session={writer.session}&{query}", 1))
    if is_proven:
        assert (await reading)[0]["window_index"] == int(query.removeprefix("from=").partition("&")[0])
        return
    with pytest.raises(Closed) as closed:
        await reading
    assert closed.value.code == 1013


async def test_a_client_that_comes_after_the_end_is_not_sent_away_for_ever(
    redis: RedisServer, web: WebServer, client: Client, writer: FrameWriter
) -> None:
    """It has the text from GET up to the last window, which was written again, and asks for what follows."""
    writer.write(1, nonce=AGAIN, final=True)
    redis.run("HSET", keys.state(writer.session), "window", "10", "status", "ended")
    with pytest.raises(Closed) as closed:
        await received(client, web, f"session={writer.session}&from=11", 1)
    assert closed.value.code == 1000


@pytest.mark.parametrize("query", ["cut=1-0", "from=3&cut=x", "from=3&cut=", f"from=3&cut={'9' * 50}-0"])
async def test_an_invalid_cut_is_refused(web: WebServer, client: Client, writer: FrameWriter, query: str) -> None:
    async with client.get(f"{web.http}/frames?session={writer.session}&{query}") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_cut")


async def test_a_last_event_id_is_accepted_only_for_the_event_that_redis_has(
    redis: RedisServer, web: WebServer, client: Client, writer: FrameWriter
) -> None:
    """With the nonce of the event; without one, as earlier versions sent it, where its frame was written once."""
    writer.write(1, nonce=AGAIN)
    event = encode_event(TokenStream(1, TokenStreamPayload(("a",), False, "s", "m")))
    for window in (8, 10):
        redis.run("XADD", keys.events(writer.session), f"{window + 1}-0", "e", event, "n", OTHER)
    url = f"{web.http}/api/sessions/{writer.session}/events"
    statuses = {"9-0-22222222": 200, "9-0-11111111": 410, "11-0-22222222": 200, "12-0-22222222": 410}
    statuses |= {"9-0": 200, "11-0": 410, "10-0": 410}
    found = {}
    for last_id in statuses:
        async with client.get(url, headers={"Last-Event-ID": last_id}) as answer:
            found[last_id] = answer.status
            if answer.status == 410:
                assert (await answer.json())["error"]["code"] == "events_set_back"
    assert found == statuses
