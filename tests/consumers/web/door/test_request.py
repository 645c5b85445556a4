"""Parts of a request: large bodies, invalid encodings, addresses. docs/security.md names these tests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp

from consumers.web.door.request import plain_address
from tests.consumers.web.door.clients import (
    exchange,
    request_code,
)
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.web_server import WebServer


def test_an_ipv4_mapped_address_becomes_an_ipv4_address() -> None:
    assert plain_address("::ffff:192.0.2.2") == "192.0.2.2"
    assert [plain_address(one) for one in ("192.0.2.2", "::1", "2001:db8::1", "")] == [
        "192.0.2.2", "::1", "2001:db8::1", "",
    ]  # fmt: skip


async def test_what_is_too_large_is_refused(redis: RedisServer, web: WebServer, client: aiohttp.ClientSession) -> None:
    address, kind = f"{web.http}/api/sessions", {"Content-Type": "application/json"}
    assert await request_code(client, "POST", address, headers=kind, data=b"x" * 100_000) == (413, "body_too_large")

    async def endless() -> Any:
        for _ in range(2_000):
            yield b"x" * 1_024

    with contextlib.suppress(aiohttp.ClientError):  # it may close before it has received everything
        assert await request_code(client, "POST", address, headers=kind, data=endless()) == (413, "body_too_large")
    packed = kind | {"Content-Encoding": "gzip"}
    assert await request_code(client, "POST", address, headers=packed, data=b"x") == (415, "unsupported_media_type")
    async with client.ws_connect(f"{web.http}/ws") as found:
        await found.send_bytes(b"x" * 5_000)
        async with asyncio.timeout(10):
            while (message := await found.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.data == 1009
    assert await request_code(client, "GET", f"{web.http}/healthz") == (200, "")


async def test_invalid_utf_8_is_refused(redis: RedisServer, web: WebServer, client: aiohttp.ClientSession) -> None:
    ScriptedProducer(redis, "here").offer()
    kind = {"Content-Type": "application/json"}
    for body in (b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"\xff\xfe{\x00}\x00", b'{"prompt": "a\x00b"}'):
        assert await request_code(client, "POST", f"{web.http}/api/sessions", headers=kind, data=body) == (
            400,
            "bad_json",
        )
    for path in (b"/api/sessions/%ff%fe", b"/api/sessions/%ED%A0%80", b"/ws?session=%ff", b"/frames?session=%ff%00"):
        head, _, body = (
            await exchange(web, b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        ).partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"404", b"426"), (path, head)
        assert b'"error"' in body
    async with client.ws_connect(f"{web.http}/ws") as found:
        # A text message that is not UTF-8: the connection ends with the code for that.
        await found._writer.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)
        async with asyncio.timeout(10):
            while (message := await found.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.data == 1007
    assert web.log() == ""
