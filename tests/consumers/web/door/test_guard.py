"""Hosts and origins: which pages may use the server. docs/security.md names these tests."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest

from consumers.web.door.guard import checked_origins
from schemas.errors import Refused
from tests.consumers.web.door.clients import (
    BEARER,
    PAGE,
    TOKEN,
    request_code,
)
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.web_server import WebServer


async def test_pages_of_named_origins_are_accepted_and_no_others(
    redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    with contextlib.closing(WebServer(redis.url, COUNCIL_ORIGINS=f'["{PAGE}"]')) as web:
        session = FrameWriter(redis).session
        address = f"{web.http}/api/sessions/{session}"
        preflight = {"Origin": PAGE, "Access-Control-Request-Method": "DELETE"}
        async with client.options(address, headers=preflight) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
        async with client.get(address, headers={"Origin": PAGE}) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
            assert answer.headers["Vary"] == "Origin"
        assert await request_code(client, "POST", f"{address}/cancel", headers={"Origin": PAGE}) == (202, "")
        async with client.ws_connect(f"{web.http}/ws?session={session}", headers={"Origin": PAGE}) as found:
            assert (await found.receive_json())["type"] == "startup_complete"
        # Behind a proxy the Host is the proxy's name.
        assert await request_code(client, "GET", address, headers={"Host": "frontend.example"}) == (200, "")
        for foreign in (f"{PAGE}0", "http://frontend.example", "null", f"{PAGE}.evil.example"):
            async with client.get(address, headers={"Origin": foreign}) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers
            assert await request_code(client, "DELETE", address, headers={"Origin": foreign}) == (
                403,
                "forbidden_origin",
            )
            preflight["Origin"] = foreign
            assert (await request_code(client, "OPTIONS", address, headers=preflight))[0] == 405


async def test_pages_of_other_origins_cannot_guess_tokens(protected: WebServer, client: aiohttp.ClientSession) -> None:
    """A request for an image has no Origin, but the browser's Sec-Fetch headers. Links are accepted."""
    for site in ("cross-site", "same-site"):
        image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        frame = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        for number in range(12):
            for headers in (image, frame):
                address = f"{protected.http}/x?token=guess-number-{number}"
                assert await request_code(client, "GET", address, headers=headers) == (403, "forbidden_origin")
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert await request_code(client, "GET", f"{protected.http}/?token={TOKEN}", headers=link) == (303, "")
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    assert await request_code(client, "GET", f"{protected.http}/healthz", headers=BEARER | own) == (200, "")


@pytest.mark.parametrize(
    "origin",
    ["*", "", "frontend.example", "http://", "http://a/path", "ftp://a", "http://a:x", "http://ü", "http://a b"],
)
def test_an_invalid_origin_is_refused(origin: str) -> None:
    with pytest.raises(Refused, match="is not a valid origin: give scheme, host and port of the page's address"):
        checked_origins([origin])
    assert checked_origins(["HTTP://LocalHost:5173"]) == ("http://localhost:5173",)
