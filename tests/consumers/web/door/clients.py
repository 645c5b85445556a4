"""Requests to the web process, with and without its token."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp

from tests.support.web_server import WebServer

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html,*/*;q=0.8"}
UPGRADE = {"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
# An origin that a test adds to the setting origins.
PAGE = "http://frontend.example:5173"


async def request_code(client: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, str]:
    """The status of the response, and its error code (empty without an error)."""
    async with client.request(method, url, allow_redirects=False, **options) as answer:
        is_json = answer.content_type == "application/json" and answer.status >= 400 and method != "HEAD"
        return answer.status, (await answer.json())["error"]["code"] if is_json else ""


async def exchange(web: WebServer, sent: bytes) -> bytes:
    """Sends the bytes; returns what the server sends until it closes the connection."""
    host, _, port = web.http.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        await writer.drain()
        async with asyncio.timeout(15):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def answers(client: aiohttp.ClientSession, web: WebServer) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return await request_code(client, "GET", f"{web.http}/healthz") == (200, "")
    return False


async def answers_with_token(client: aiohttp.ClientSession, address: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return (await request_code(client, "GET", address, headers=BEARER))[0] == 200
    return False
