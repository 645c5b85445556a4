"""Rate limits for requests, and limits on new and open sessions. docs/security.md names these tests."""

from __future__ import annotations

import asyncio

import aiohttp

from consumers.web.door.limits import MOST_OPEN_SESSIONS, REQUESTS, Buckets, Rate
from tests.consumers.web.door.clients import (
    request_code,
)
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import ScriptedProducer, offer_aggregator
from tests.support.waiting import until
from tests.support.web_server import WebServer


async def test_an_address_with_too_many_requests_is_refused_with_429(
    web: WebServer, client: aiohttp.ClientSession
) -> None:
    async def one() -> int:
        return (await request_code(client, "GET", f"{web.http}/healthz"))[0]

    found: list[int] = []
    while 429 not in found and len(found) < 4 * REQUESTS.burst:
        found += await asyncio.gather(*(one() for _ in range(200)))
    assert found.count(200) >= REQUESTS.burst
    assert 429 in found
    async with client.get(f"{web.http}/healthz") as answer:
        if answer.status == 429:
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["error"]["code"] == "too_many_requests"


def test_a_bucket_starts_full_and_fills_at_its_rate() -> None:
    buckets = Buckets(Rate(3, 2.0), most=2)
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b", 10.0) == 0.0
    assert [buckets.take("a", 10.5) for _ in range(2)] == [0.0, 0.5]
    assert [buckets.take("a", 100.0) for _ in range(4)][:3] == [0.0, 0.0, 0.0]
    # Over its limit it forgets the least recently used name.
    buckets.take("c", 100.0)
    assert [buckets.left(name, 100.0) for name in "abc"] == [0.0, 3.0, 2.0]


async def test_new_and_open_sessions_are_limited(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    speaker = ScriptedProducer(redis, "here")
    address, body = f"{web.http}/api/sessions", {"prompt": "Hello", "models": ["here"]}
    found = []
    while (429, "too_many_sessions") not in found and len(found) <= 40:
        speaker.offer()
        offer_aggregator(redis)
        found.append(await request_code(client, "POST", address, json=body))
    assert found[-1] == (429, "too_many_sessions")
    # First the rate limit is reached, then the number of open sessions.
    assert 20 <= found.count((201, "")) <= MOST_OPEN_SESSIONS

    async def full() -> str | None:
        speaker.offer()
        offer_aggregator(redis)
        async with client.post(address, json=body) as answer:
            message = (await answer.json()).get("error", {}).get("message", "")
            return message if "open already" in message else None

    assert await until(full, "no more sessions may be open") == (
        f"{MOST_OPEN_SESSIONS} sessions are open already: wait until one ends, or cancel one."
    )
    assert redis.run("XLEN", "council:sessions") == MOST_OPEN_SESSIONS
