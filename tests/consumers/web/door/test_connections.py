"""Connections: bytes that are not HTTP, idle and slow clients, and their number. docs/security.md names these tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time

import aiohttp
from aiohttp import web

from consumers.web.door.connections import Connections
from tests.consumers.web.door.clients import (
    BEARER,
    answers,
    exchange,
    request_code,
)
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer, record_of

NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET\r\n\r\n",
    b"\xff\xfe\xfd\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\xff\xfe: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(300)) + b"\r\n",
]


async def test_bytes_that_are_not_http_get_one_sentence_and_the_connection_closes(
    web: WebServer, client: aiohttp.ClientSession
) -> None:
    assert await request_code(client, "GET", f"{web.http}/healthz") == (200, "")
    for sent in NO_HTTP:
        head, _, body = (await exchange(web, sent)).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), (sent[:60], head)
        assert b"default-src 'self'" in head
        assert b"aiohttp" not in head
        assert body == b'{"error":{"code":"bad_http","message":"This is not a valid HTTP request."}}'
    assert await request_code(client, "GET", f"{web.http}/healthz") == (200, "")
    assert web.log() == ""


async def test_a_request_with_expect_is_refused_before_its_body(
    protected: WebServer, client: aiohttp.ClientSession
) -> None:
    assert await request_code(client, "GET", f"{protected.http}/healthz", headers=BEARER) == (200, "")
    for expected in (b"100-continue", b"zzz"):
        for path in (b"/healthz", b"/nothing"):
            sent = b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nExpect: " + expected + b"\r\n\r\n"
            head, _, body = (await exchange(protected, sent)).partition(b"\r\n\r\n")
            assert head.split()[1] == b"417"
            assert json.loads(body)["error"]["code"] == "no_expectations"


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192) if hard > 0 else 8_192, hard))


async def test_idle_sockets_and_slow_senders_are_closed_and_delay_no_other_client(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """Sockets that send nothing, a head and a body that are sent letter by letter: closed after ten seconds; until then
    other clients are answered quickly."""
    _raise_file_limit()
    assert await request_code(client, "GET", f"{web.http}/healthz") == (200, "")
    host, _, port = web.address.partition(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(1_000)]
    began_s = time.monotonic()
    head = asyncio.create_task(_dribble(web, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "))
    kind = b"Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    body = asyncio.create_task(_dribble(web, b"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + kind))
    waits = []
    while time.monotonic() < began_s + 2:
        asked_s = time.monotonic()
        assert await request_code(client, "GET", f"{web.http}/") == (200, "")
        waits.append(time.monotonic() - asked_s)
        await asyncio.sleep(0.05)
    assert sorted(waits)[len(waits) // 2] < 0.25
    async with asyncio.timeout(30):
        assert await head == b""
        assert b"408" in (await body).split(b"\r\n")[0]
        assert [await reader.read() for reader, _ in idle] == [b""] * 1_000
    assert time.monotonic() - began_s > 5
    for _, writer in idle:
        writer.close()
    assert await request_code(client, "GET", f"{web.http}/healthz") == (200, "")
    assert web.log() == ""


async def _dribble(web: WebServer, start: bytes) -> bytes:
    """Sends `start`, then a letter every half second; returns what the server sends until it closes."""
    host, _, port = web.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(start)
    answer = asyncio.create_task(reader.read())
    with contextlib.suppress(ConnectionError):
        while not answer.done():
            writer.write(b"x")
            await writer.drain()
            await asyncio.wait([answer], timeout=0.5)
    try:
        return await answer
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_with_too_many_connections_the_longest_idle_ones_are_closed(
    redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    with contextlib.closing(WebServer(redis.url, files=256)) as web:
        await until(lambda: answers(client, web), "the server answers")
        session = FrameWriter(redis).session
        async with client.ws_connect(f"{web.http}/frames?session={session}") as watching:
            host, _, port = web.address.partition(":")
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(300)]
            assert await request_code(client, "GET", f"{web.http}/healthz") == (200, "")
            async with asyncio.timeout(10):
                # The first ones were closed for the last ones; the client that watches stays.
                await idle[0][0].read()
            assert not watching.closed
            for _, writer in idle:
                writer.close()
        record = wait_until(
            lambda: (found := record_of(redis, web)) and found.detail["connections_refused"] and found,
            "its process record contains the number of refused connections",
        )
        assert int(record.detail["connections_refused"]) > 100
        assert web.log() == ""


async def test_a_client_that_still_receives_a_response_is_not_idle() -> None:
    """Of three connections, the one that loads a large response stays; an idle one is closed for a fourth."""
    connections, body = Connections(most=3), b"x" * 8_000_000

    async def show(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    application = web.Application(middlewares=[connections.middleware])
    application.router.add_get("/", show)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    accepting = await connections.listen(runner.server, listening)
    host, port = listening.getsockname()
    try:
        loading, asking = await asyncio.open_connection(host, port, limit=1_000)
        asking.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await loading.readline()).endswith(b" 200 OK\r\n")
        others = [await asyncio.open_connection(host, port) for _ in range(3)]
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                assert await others[0][0].read() == b""
            assert (await loading.read()).endswith(body)
        assert (connections.count, connections.refused) == (2, 1)
        for _, writer in others:
            writer.close()
    finally:
        accepting.close()
        await runner.cleanup()
