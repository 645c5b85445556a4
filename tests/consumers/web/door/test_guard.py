"""Hosts and origins: which pages may use the server. docs/security.md names these tests."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest

from consumers.web.door.origins import checked_origins
from schemas.errors import Refused
from tests.consumers.web.door.clients import (
    BEARER,
    PAGE,
    TOKEN,
    request_code,
)
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from tests.support.web_server import WebServer, record_of


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


async def test_the_origin_null_and_any_port_of_a_host_can_be_named(
    redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """Files and sandboxed frames have the origin null; their requests need the token, and no cookie counts."""
    variables = {"COUNCIL_ORIGINS": '["null", "http://localhost:*"]', "COUNCIL_TOKEN": TOKEN}
    with contextlib.closing(WebServer(redis.url, **variables)) as web:
        address = f"{web.http}/api/sessions"
        for origin in ("null", "file://", "http://localhost:5173", "http://localhost"):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
            async with client.get(address, headers=headers | BEARER) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, origin)
                assert {"Retry-After", "X-Council-Warning"} <= set(
                    answer.headers["Access-Control-Expose-Headers"].split(", ")
                )
            assert await request_code(client, "GET", address, headers=headers) == (401, "no_token")
            async with client.ws_connect(f"{web.http}/ws?token={TOKEN}", headers={"Origin": origin}) as found:
                assert (await found.receive_json())["type"] == "startup_complete"
        foreign = ("https://localhost:5173", "http://localhost.evil.example:80", "http://a@localhost:1",
                   "http://localhost:*", "http://127.0.0.1:1", "nullx", "file://x")  # fmt: skip
        for origin in foreign:
            headers = {"Origin": origin, **BEARER}
            assert await request_code(client, "POST", address, headers=headers) == (403, "forbidden_origin"), origin
            async with client.get(address, headers=headers) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            assert (await request_code(browser, "POST", f"{web.http}/sign-in", data={"token": TOKEN}))[0] == 303
            assert (await request_code(browser, "GET", address))[0] == 200
            for origin in ("null", "file://", "http://localhost:5173"):
                assert (await request_code(browser, "GET", address, headers={"Origin": origin}))[0] == 401


async def test_a_page_of_a_named_origin_may_send_the_headers_that_its_client_asks_for(
    redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    asked = ["authorization", "content-type", "x-stainless-arch", "x-stainless-retry-count", "openai-organization"]
    preflight = {"Origin": "null", "Access-Control-Request-Method": "POST"}
    wrong = ["*", "a b", "x" * 65, "caf\u00e9", ""]
    many = [f"x-{number}" for number in range(200)]
    with contextlib.closing(WebServer(redis.url, COUNCIL_ORIGINS='["null"]')) as web:

        async def allowed(names: list[str]) -> list[str]:
            headers = preflight | {"Access-Control-Request-Headers": ",".join(names)}
            async with client.options(f"{web.http}/v1/models", headers=headers) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "null")
                return answer.headers["Access-Control-Allow-Headers"].lower().split(", ")

        always = ["authorization", "content-type", "last-event-id"]
        assert set(await allowed(asked)) == {*asked, *always}
        assert await allowed(wrong) == always
        assert await allowed(many) == [*always, *many[:64]]


async def test_refused_origins_are_noted_once_and_only_as_browsers_send_them(
    redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    with contextlib.closing(WebServer(redis.url, COUNCIL_SUPERVISED="")) as web:
        origins = [
            "http://localhost:5173", "HTTP://LOCALHOST:5173", "null", "file://", "chrome-extension://abc",
            "http://a\u009b31m", "http://x y", "http://b:*", "*", "http://" + "c" * 300,
            *(f"http://host-{number}" for number in range(20)),
        ]  # fmt: skip
        for origin in (*origins, *origins):
            assert (await request_code(client, "POST", f"{web.http}/api/sessions", headers={"Origin": origin}))[
                0
            ] == 403
        # A fetch without a preflight, and the question before one with: the browser refuses both.
        for method, foreign in (("GET", "http://get"), ("OPTIONS", "http://options")):
            await request_code(client, method, f"{web.http}/healthz", headers={"Origin": foreign})
        for host in ("council.lan:8145", "COUNCIL.lan:8145", "a/b", "x:*", "a\u009b31m", "[::"):
            assert await request_code(client, "GET", f"{web.http}/", headers={"Host": host}) == (403, "forbidden_host")
        found = await until(lambda: _refused_origins(redis, web), "the process record has them")
        expected = ["http://localhost:5173", "null", "chrome-extension://abc", *(f"http://host-{n}" for n in range(13))]
        assert found == expected
        log = web.log()
        assert log.count('add "http://localhost:5173" to the setting origins') == 1
        assert log.count('add "null" to the setting origins') == 1
        assert log.count('add "http://council.lan:8145" to the setting origins') == 1
        assert log.count("was refused") == len(expected) + 1
        # What the sentence names is accepted.
        assert list(checked_origins(found)) == found


async def _refused_origins(redis: RedisServer, web: WebServer) -> list[str]:
    record = record_of(redis, web)
    return str(record.detail.get("refused_origins", "")).split() if record else []


@pytest.mark.parametrize(
    "origin",
    [
        "", "frontend.example", "http://", "http://a/path", "ftp://a", "http://a:x", "http://ü", "http://a b",
        "file://", "http://a\tb", "http://a:0", "http://a:65536", "http://u@a", "http://[::1", "http://\u212a.example",
    ],
)  # fmt: skip
def test_an_invalid_origin_is_refused(origin: str) -> None:
    with pytest.raises(Refused, match="is not a valid origin: give scheme, host and port of the page's address"):
        checked_origins([origin])


@pytest.mark.parametrize(
    "origin",
    ["*", "http://*", "http://*:*", "http://*.example", "http://*.example:*", "*://localhost", "http://localhost:51*",
     "http://localhost:**", "null*", "null:*", "http://localhost:*/", "localhost:*"],
)  # fmt: skip
def test_a_star_may_only_stand_for_the_whole_port(origin: str) -> None:
    with pytest.raises(Refused, match=r"scheme and host must be given, and \* may only stand for the whole port"):
        checked_origins([origin])


def test_origins_are_kept_as_browsers_send_them() -> None:
    given = {
        "HTTP://LocalHost:5173": "http://localhost:5173",
        "http://localhost:80": "http://localhost",
        "https://a.example:443": "https://a.example",
        "https://a.example:80": "https://a.example:80",
        "http://[::1]:*": "http://[::1]:*",
        "Null": "null",
        "chrome-extension://abc": "chrome-extension://abc",
    }
    assert checked_origins(list(given)) == tuple(given.values())
