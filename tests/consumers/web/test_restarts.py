"""The web process is killed, restarted, or loses Redis: its clients reconnect and miss nothing."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer, record_of, windows


async def test_a_client_that_reconnects_after_a_kill_continues_where_it_was(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, roles: Roles
) -> None:
    """frames 0 1 2 ... k | kill -9, restart on the same socket | 0 1 2 ... k (left out) k+1 ... final"""
    roles.ready("aggregator")
    speaker = ScriptedProducer(redis, "speaker")
    speaker.offer()
    async with client.post(f"{web.http}/api/sessions", json={"prompt": "Hello"}) as answer:
        session = (await answer.json())["session"]
    speaker.take(session)
    seen: list[int] = []
    async with client.ws_connect(f"{web.http}/frames?session={session}") as found:
        while len(seen) < 20:
            seen += windows([(await found.receive(10)).data])
        web.kill()
        seen += windows(await rest_of(found))
    connecting = asyncio.create_task(client.ws_connect(f"{web.http}/frames?session={session}"))
    web.start()
    async with await connecting as found:
        speaker.say("still here")
        speaker.finish()
        messages = await rest_of(found)
    assert '"text":"still here"' in "".join(messages)
    seen += [window for window in windows(messages) if window > seen[-1]]
    assert seen == list(range(len(messages)))


async def rest_of(found: aiohttp.ClientWebSocketResponse) -> list[str]:
    return [message.data async for message in found]


async def test_sigterm_ends_the_process_within_two_seconds_with_open_sockets(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = FrameWriter(redis)
    record = wait_until(lambda: record_of(redis, web), "the web process has a process record")
    assert (record.ready, record.role, f"{record.detail['host']}:{record.detail['port']}") == (True, "web", web.address)
    async with contextlib.AsyncExitStack() as stack:
        address = f"{web.http}/frames?session={recorder.session}"
        sockets = [await stack.enter_async_context(client.ws_connect(address)) for _ in range(4)]
        _unread, *others = sockets
        recorder.write(2_000)
        for found in others:
            await found.receive(5)
        reading = [asyncio.create_task(rest_of(found)) for found in others]
        taken_s = await asyncio.to_thread(web.end)
        assert taken_s < 2.0
        for messages in await asyncio.gather(*reading):
            # A client that read too slowly received some of them merged.
            found_windows = windows(messages)
            assert found_windows[0] == 1
            assert found_windows == sorted(set(found_windows))
        assert [found.close_code for found in others] == [1001] * 3
    assert record_of(redis, web) is None
    assert web.log() == ""


async def test_redis_away_is_logged_once_and_frames_continue_when_it_is_back(
    own_redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """frames 0 to 9 | Redis stops | 503, the socket stays open | Redis is back with its data | frames 10 to 19"""
    recorder = FrameWriter(own_redis)
    recorder.write(10)
    with contextlib.closing(WebServer(own_redis.url)) as web:
        async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as found:
            seen = windows([(await found.receive(10)).data for _ in range(10)])
            own_redis.run("SAVE")
            own_redis.kill()
            wait_until(lambda: "Redis is away" in web.log(), "the web logs that Redis is away")
            async with client.get(f"{web.http}/api/sessions") as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (503, "redis_away")
            async with client.get(f"{web.http}/healthz") as answer:
                assert await answer.json() == {"ok": True}
            own_redis.start()
            recorder.write(10, final=True)
            seen += windows(await rest_of(found))
            assert found.close_code == 1000
        assert seen == list(range(20))
        wait_until(lambda: "Redis is back" in web.log(), "the web logs that Redis is back")
        assert web.log().count("Redis is away") == web.log().count("Redis is back") == 1


async def test_a_session_that_redis_lost_is_closed_with_that_reason(
    own_redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    recorder = FrameWriter(own_redis)
    recorder.write(3)
    with contextlib.closing(WebServer(own_redis.url)) as web:
        async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as found:
            assert windows([(await found.receive(10)).data for _ in range(3)]) == [0, 1, 2]
            own_redis.kill()
            own_redis.start()
            closed = await found.receive(20)
        assert closed.data == 1011
        assert "There is no session" in closed.extra


async def test_the_first_request_after_redis_has_closed_its_connections_is_answered(
    own_redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """By CLIENT KILL, as after the setting `timeout`, and by a restart."""
    with contextlib.closing(WebServer(own_redis.url)) as web:
        wait_until(lambda: record_of(own_redis, web), "the web process has a process record")
        for _ in range(3):
            async with client.get(f"{web.http}/api/sessions") as answer:
                assert answer.status == 200, await answer.text()
            own_redis.run("CLIENT", "KILL", "TYPE", "normal")
        own_redis.kill()
        own_redis.start()
        for _ in range(3):
            async with client.get(f"{web.http}/api/sessions") as answer:
                assert answer.status == 200, await answer.text()
