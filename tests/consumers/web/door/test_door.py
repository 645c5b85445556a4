"""The web's door: who may come in, and what those find who should not. docs/security.md names these tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from consumers.web.door.access import checked_token, require_token
from consumers.web.door.connections import Connections
from consumers.web.door.guard import checked_origins
from consumers.web.door.limits import MOST_OPEN_SESSIONS, REQUESTS, WRONG_TOKENS, Buckets, Rate
from consumers.web.door.request import plain_address
from schemas.errors import Refused
from tests.consumers.web.test_refusals import assert_start_refused
from tests.support.commands import council, environment
from tests.support.project import ROOT
from tests.support.roles import RedisServer, Roles
from tests.support.running import Up
from tests.support.sessions import until_ended
from tests.support.waiting import until, wait_until
from tests.support.web_server import Recorder, Speaker, WebServer, record_of
from transport.redis.connection import AsyncPipe

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html,*/*;q=0.8"}
UPGRADE = {"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
PAGE = "http://frontend.example:5173"


@pytest.fixture
def locked(redis: RedisServer) -> Iterator[WebServer]:
    """A web process that asks for a token, on every address of this machine."""
    found = WebServer(redis.url, host="0.0.0.0", COUNCIL_TOKEN=TOKEN)
    found.http = found.http.replace("0.0.0.0", "127.0.0.1")
    yield found
    found.close()


async def asked(client: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, str]:
    """The status, and the code of the error (empty: none)."""
    async with client.request(method, url, allow_redirects=False, **options) as answer:
        is_json = answer.content_type == "application/json" and answer.status >= 400 and method != "HEAD"
        return answer.status, (await answer.json())["error"]["code"] if is_json else ""


# --- the token -------------------------------------------------------------------------------------------------------


async def test_the_token_is_asked_for_on_every_route_and_socket(
    redis: RedisServer, locked: WebServer, client: aiohttp.ClientSession
) -> None:
    session = Recorder(redis).session
    async with client.get(f"{locked.http}/api/openapi.json", headers=BEARER) as answer:
        document = await answer.json()
    paths = [
        (method.upper(), re.sub(r"\{session\}", session, path).replace("{member}", "0").replace("{model}", "m"))
        for path, operations in document["paths"].items()
        for method in operations
    ]
    pages = [("GET", f"/static/{path.name}") for path in (ROOT / "consumers/web/static").iterdir()]
    assert len(paths) > 12
    assert len(pages) > 6
    sockets = [("GET", f"/frames?session={session}"), ("GET", "/ws"), ("GET", f"/ws?session={session}")]
    for method, path in [*paths, *pages, *sockets, ("GET", "/"), ("GET", "/nothing"), ("HEAD", "/")]:
        # Before anything else is looked at, and without a token like with a cookie that is none.
        for headers in ({}, {"Cookie": "council=x"}):
            status, code = await asked(client, method, locked.http + path, headers=headers)
            assert (status, code) == (401, "no_token" if method != "HEAD" else ""), path
    for path in (f"/frames?session={session}", "/ws"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(locked.http + path)
        assert refused.value.status == 401
    assert redis.run("EXISTS", f"council:{{{session}}}:state") == 1


async def test_the_token_opens_every_way(redis: RedisServer, locked: WebServer, client: aiohttp.ClientSession) -> None:
    session = Recorder(redis).session
    address = f"{locked.http}/api/sessions/{session}"
    for headers in (BEARER, {"Authorization": f"bearer  {TOKEN}"}):
        assert await asked(client, "GET", address, headers=headers) == (200, "")
    assert await asked(client, "GET", f"{address}?token={TOKEN}") == (200, "")
    async with client.ws_connect(f"{locked.http}/frames?session={session}", headers=BEARER) as found:
        assert not found.closed
    async with client.ws_connect(f"{locked.http}/ws?token={TOKEN}&session={session}") as found:
        assert (await found.receive_json())["type"] == "startup_complete"
    # Where both come, what is in the header counts.
    wrong = {"Authorization": "Bearer 0123456789abcdef"}
    assert await asked(client, "GET", f"{address}?token={TOKEN}", headers=wrong) == (401, "wrong_token")
    assert await asked(client, "GET", f"{address}?token={TOKEN}&token={TOKEN}") == (401, "no_token")


@pytest.mark.parametrize("way", ["sign-in", "address"])
async def test_a_person_signs_in_and_has_a_cookie_that_is_not_the_token(
    redis: RedisServer, locked: WebServer, way: str
) -> None:
    session = Recorder(redis).session
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(locked.http, headers=HTML) as answer:
            text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
            assert (answer.status, answer.content_type) == (401, "text/html")
            assert "asks for its token" in text
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
        if way == "sign-in":
            wrong = {"token": "0123456789abcdef"}
            async with browser.post(f"{locked.http}/sign-in", data=wrong, headers=HTML) as answer:
                assert answer.status == 401
                assert "That is not this council's token." in await answer.text()
            request = browser.post(f"{locked.http}/sign-in", data={"token": f" {TOKEN} "}, allow_redirects=False)
        else:
            request = browser.get(f"{locked.http}/?token={TOKEN}", headers=HTML, allow_redirects=False)
        async with request as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            assert TOKEN not in str(answer.headers)
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        async with browser.get(locked.http, headers=HTML) as answer:
            assert answer.status == 200
            assert "<title>" in await answer.text()
        assert await asked(browser, "GET", f"{locked.http}/api/sessions/{session}") == (200, "")
        async with browser.ws_connect(f"{locked.http}/frames?session={session}") as found:
            assert not found.closed
        # A page elsewhere may have the browser send the cookie along: its Origin gives it away.
        foreign = {"Origin": "http://evil.example", "Content-Type": "application/json"}
        assert await asked(browser, "POST", f"{locked.http}/api/sessions", headers=foreign, data=b"{}") == (
            403,
            "forbidden_origin",
        )
        assert await asked(browser, "POST", f"{locked.http}/sign-in", headers=foreign) == (403, "forbidden_origin")


async def test_wrong_tokens_are_few_and_then_even_the_right_one_waits(
    locked: WebServer, client: aiohttp.ClientSession
) -> None:
    address = f"{locked.http}/healthz"
    for number in range(WRONG_TOKENS.burst):
        wrong = {"Authorization": f"Bearer wrong-wrong-wrong-{number}"}
        assert await asked(client, "GET", address, headers=wrong) == (401, "wrong_token")
    async with client.get(address, headers=BEARER) as answer:
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 6
        assert (await answer.json())["error"]["code"] == "too_many_tokens"
    async with client.post(f"{locked.http}/sign-in", data={"token": TOKEN}) as answer:
        assert answer.status == 429
    # Who asks without one is told how, and counts for nothing.
    assert await asked(client, "GET", address) == (401, "no_token")


def test_every_comparison_of_secrets_takes_the_same_time() -> None:
    """Of digests, which have one length, by a function that looks at every byte; nowhere else is a secret compared."""
    source = (ROOT / "consumers/web/door/access.py").read_text()
    # Each secret is made, compared, and the cookie's is sent.
    uses = [line.strip() for line in source.splitlines() if re.search(r"self\._(digest|pass)\b", line)]
    assert [line.split("(")[0] for line in uses] == [
        "self._digest = _digest",
        "self._pass = hmac.new",
        "if hmac.compare_digest",
        "return hmac.compare_digest",
        "response.set_cookie",
    ]


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "x" * 513, "sixteen letters!", "ünïcödé-ünïcödé-", "a\nb" * 9]
)
def test_a_token_that_is_none_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(Refused) as refused:
        checked_token(token)
    assert "The token must have 16 to 512 letters, digits and signs" in str(refused.value)
    assert not token or token not in str(refused.value)
    assert checked_token("x" * 16)


# --- where it listens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_needs_a_token(redis: RedisServer, host: str) -> None:
    for words, sentence in ((["--token", ""], "The token must have 16"), (["--token", "short"], "The token must")):
        assert_start_refused(redis, words, {"COUNCIL_TOKEN": TOKEN}, sentence)
    done = subprocess.run(
        [sys.executable, "-m", "consumers.web", "--port", "0", "--host", host], env=environment(redis.url),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"On {host} others could use this council: set a token, as with COUNCIL_TOKEN=$(")
    council("up", "--no-open", "--port", "0", "--host", host).assert_refused("others could use this council")
    council("up", "--host", host, "--token", "short").assert_refused("--token: the token must have 16 to 512")
    council("up", "--host", host, COUNCIL_TOKEN="short").assert_refused("COUNCIL_TOKEN: the token must have 16")


def test_an_ipv4_address_is_itself_at_a_socket_for_both() -> None:
    assert plain_address("::ffff:192.0.2.2") == "192.0.2.2"
    assert [plain_address(one) for one in ("192.0.2.2", "::1", "2001:db8::1", "")] == [
        "192.0.2.2", "::1", "2001:db8::1", "",
    ]  # fmt: skip


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("127.9.9.9", socket.AF_INET)])
def test_loopback_needs_none(host: str, family: socket.AddressFamily) -> None:
    with socket.create_server((host, 0), family=family) as listening:
        require_token(listening, None)
    with socket.create_server(("0.0.0.0", 0)) as listening, pytest.raises(Refused, match="others could use"):
        require_token(listening, None)


def test_by_default_nobody_else_reaches_it_and_the_token_stays_where_it_belongs(tmp_path: Path) -> None:
    """`council up` with a token: it is known to the web process, and stands in no other, no log and no record."""
    with contextlib.closing(Up(tmp_path, "--models", "ngram:word-3", COUNCIL_TOKEN=TOKEN)) as up:
        assert up.address.startswith("http://127.0.0.1:")
        assert "sign in with the token" in up.text()
        (web,) = up.pids("web")
        knowing = [pid for pid in up.family() if TOKEN.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
        # The supervisor, whom a person told it.
        assert sorted(knowing) == sorted([web, up.process.pid])
        assert TOKEN not in up.text()
        assert TOKEN not in str(up.status())
        outcome = council("ask", "hi", "--max-tokens", "3", TMPDIR=str(tmp_path))
        assert outcome.code == 0, outcome.said


# --- foreign pages ---------------------------------------------------------------------------------------------------


async def test_pages_of_a_named_origin_may_and_no_others(redis: RedisServer, client: aiohttp.ClientSession) -> None:
    with contextlib.closing(WebServer(redis.url, COUNCIL_ORIGINS=f'["{PAGE}"]')) as web:
        session = Recorder(redis).session
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
        assert await asked(client, "POST", f"{address}/cancel", headers={"Origin": PAGE}) == (202, "")
        async with client.ws_connect(f"{web.http}/ws?session={session}", headers={"Origin": PAGE}) as found:
            assert (await found.receive_json())["type"] == "startup_complete"
        # A proxy that this council is behind keeps its own name.
        assert await asked(client, "GET", address, headers={"Host": "frontend.example"}) == (200, "")
        for foreign in (f"{PAGE}0", "http://frontend.example", "null", f"{PAGE}.evil.example"):
            async with client.get(address, headers={"Origin": foreign}) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers
            assert await asked(client, "DELETE", address, headers={"Origin": foreign}) == (403, "forbidden_origin")
            preflight["Origin"] = foreign
            assert (await asked(client, "OPTIONS", address, headers=preflight))[0] == 405


async def test_no_page_elsewhere_can_guess_tokens_or_spend_requests(
    locked: WebServer, client: aiohttp.ClientSession
) -> None:
    """An image of it says no Origin; a browser says what it is for. To follow a link is something else."""
    for site in ("cross-site", "same-site"):
        image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        frame = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        for number in range(12):
            for headers in (image, frame):
                address = f"{locked.http}/x?token=guess-number-{number}"
                assert await asked(client, "GET", address, headers=headers) == (403, "forbidden_origin")
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert await asked(client, "GET", f"{locked.http}/?token={TOKEN}", headers=link) == (303, "")
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    assert await asked(client, "GET", f"{locked.http}/healthz", headers=BEARER | own) == (200, "")


async def test_the_cookie_counts_for_our_own_page_alone(redis: RedisServer) -> None:
    """Browsers send it to every port of a host, and with the sockets of pages there."""
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=TOKEN, COUNCIL_ORIGINS=f'["{PAGE}"]')) as web:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            await until(lambda: _is_there(browser, f"{web.http}/healthz"), "it answers")
            assert await asked(browser, "GET", f"{web.http}/?token={TOKEN}") == (303, "")
            assert await asked(browser, "GET", f"{web.http}/api/sessions") == (200, "")
            assert await asked(browser, "GET", f"{web.http}/api/sessions", headers={"Origin": web.http}) == (200, "")
            assert await asked(browser, "GET", f"{web.http}/api/sessions", headers={"Origin": PAGE}) == (
                401,
                "no_token",
            )
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await browser.ws_connect(f"{web.http}/ws", headers={"Origin": PAGE})
            async with browser.ws_connect(f"{web.http}/ws?token={TOKEN}", headers={"Origin": PAGE}) as found:
                assert (await found.receive_json())["type"] == "startup_complete"


async def test_a_form_that_is_none_is_a_wrong_token(locked: WebServer, client: aiohttp.ClientSession) -> None:
    for form in (b"a&b&c&d&e", b"\xff", b"token", b""):
        assert await asked(client, "POST", f"{locked.http}/sign-in", data=form) == (401, "wrong_token")
    assert locked.said() == ""


@pytest.mark.parametrize(
    "origin",
    ["*", "", "frontend.example", "http://", "http://a/path", "ftp://a", "http://a:x", "http://ü", "http://a b"],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(Refused, match="is none: write the beginning of the page's address"):
        checked_origins([origin])
    assert checked_origins(["HTTP://LocalHost:5173"]) == ("http://localhost:5173",)


# --- what is sent ----------------------------------------------------------------------------------------------------


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


async def test_what_is_no_http_gets_one_sentence_and_the_end(web: WebServer, client: aiohttp.ClientSession) -> None:
    assert await asked(client, "GET", f"{web.http}/healthz") == (200, "")
    for sent in NO_HTTP:
        head, _, body = (await exchange(web, sent)).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), (sent[:60], head)
        assert b"default-src 'self'" in head
        assert b"aiohttp" not in head
        assert (
            body == b'{"error":{"code":"bad_http","message":"This is no HTTP request that this server understands."}}'
        )
    assert await asked(client, "GET", f"{web.http}/healthz") == (200, "")
    assert web.said() == ""


async def exchange(web: WebServer, sent: bytes) -> bytes:
    """All that the server answers until it closes."""
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


async def test_what_expects_something_gets_nothing_before_the_door(
    locked: WebServer, client: aiohttp.ClientSession
) -> None:
    assert await asked(client, "GET", f"{locked.http}/healthz", headers=BEARER) == (200, "")
    for expected in (b"100-continue", b"zzz"):
        for path in (b"/healthz", b"/nothing"):
            sent = b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nExpect: " + expected + b"\r\n\r\n"
            head, _, body = (await exchange(locked, sent)).partition(b"\r\n\r\n")
            assert head.split()[1] == b"417"
            assert json.loads(body)["error"]["code"] == "no_expectations"


async def test_what_is_too_large_is_refused(redis: RedisServer, web: WebServer, client: aiohttp.ClientSession) -> None:
    address, kind = f"{web.http}/api/sessions", {"Content-Type": "application/json"}
    assert await asked(client, "POST", address, headers=kind, data=b"x" * 100_000) == (413, "body_too_large")

    async def endless() -> Any:
        for _ in range(2_000):
            yield b"x" * 1_024

    with contextlib.suppress(aiohttp.ClientError):  # it may close before it has been sent all that
        assert await asked(client, "POST", address, headers=kind, data=endless()) == (413, "body_too_large")
    packed = kind | {"Content-Encoding": "gzip"}
    assert await asked(client, "POST", address, headers=packed, data=b"x") == (415, "unsupported_media_type")
    async with client.ws_connect(f"{web.http}/ws") as found:
        await found.send_bytes(b"x" * 5_000)
        async with asyncio.timeout(10):
            while (message := await found.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.data == 1009
    assert await asked(client, "GET", f"{web.http}/healthz") == (200, "")


async def test_bad_utf_8_is_refused_or_shown_as_what_it_is_not(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    Speaker(redis, "here").offer()
    kind = {"Content-Type": "application/json"}
    for body in (b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"\xff\xfe{\x00}\x00", b'{"prompt": "a\x00b"}'):
        assert await asked(client, "POST", f"{web.http}/api/sessions", headers=kind, data=body) == (400, "bad_json")
    for path in (b"/api/sessions/%ff%fe", b"/api/sessions/%ED%A0%80", b"/ws?session=%ff", b"/frames?session=%ff%00"):
        head, _, body = (
            await exchange(web, b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        ).partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"404", b"426"), (path, head)
        assert b'"error"' in body
    async with client.ws_connect(f"{web.http}/ws") as found:
        # A text message that is none: the connection ends with the code for that.
        await found._writer.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)
        async with asyncio.timeout(10):
            while (message := await found.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.data == 1007
    assert web.said() == ""


# --- how much, and how slowly ----------------------------------------------------------------------------------------


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192) if hard > 0 else 8_192, hard))


async def test_a_thousand_idle_sockets_and_slow_talkers_cost_nobody_else_and_are_closed(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    """Sockets that say nothing, a head that dribbles, a body that never ends: gone after ten seconds, and until then
    whoever asks is answered."""
    _raise_file_limit()
    assert await asked(client, "GET", f"{web.http}/healthz") == (200, "")
    host, _, port = web.address.partition(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(1_000)]
    began_s = time.monotonic()
    head = asyncio.create_task(_dribble(web, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "))
    kind = b"Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    body = asyncio.create_task(_dribble(web, b"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + kind))
    waits = []
    while time.monotonic() < began_s + 2:
        asked_s = time.monotonic()
        assert await asked(client, "GET", f"{web.http}/") == (200, "")
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
    assert await asked(client, "GET", f"{web.http}/healthz") == (200, "")
    assert web.said() == ""


async def _dribble(web: WebServer, start: bytes) -> bytes:
    """Says the start, then a letter now and then; what comes back until the end."""
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


async def test_with_more_connections_than_there_can_be_the_idlest_make_room(
    redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    with contextlib.closing(WebServer(redis.url, files=256)) as web:
        await until(lambda: _answers(client, web), "it answers")
        session = Recorder(redis).session
        async with client.ws_connect(f"{web.http}/frames?session={session}") as watching:
            host, _, port = web.address.partition(":")
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(300)]
            assert await asked(client, "GET", f"{web.http}/healthz") == (200, "")
            async with asyncio.timeout(10):
                # The first ones were closed for the last ones, and whoever watches stays.
                await idle[0][0].read()
            assert not watching.closed
            for _, writer in idle:
                writer.close()
        record = wait_until(
            lambda: (found := record_of(redis, web)) and found.detail["connections_refused"] and found,
            "it tells how many it refused",
        )
        assert int(record.detail["connections_refused"]) > 100
        assert web.said() == ""


async def test_who_takes_an_answer_is_not_idle() -> None:
    """Of three connections the one that loads something large stays, and one that does nothing goes for a fourth."""
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


async def _answers(client: aiohttp.ClientSession, web: WebServer) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return await asked(client, "GET", f"{web.http}/healthz") == (200, "")
    return False


async def test_whoever_asks_too_fast_is_told_to_slow_down(web: WebServer, client: aiohttp.ClientSession) -> None:
    async def one() -> int:
        return (await asked(client, "GET", f"{web.http}/healthz"))[0]

    found: list[int] = []
    while 429 not in found and len(found) < 4 * REQUESTS.burst:
        found += await asyncio.gather(*(one() for _ in range(200)))
    assert found.count(200) >= REQUESTS.burst
    assert 429 in found
    async with client.get(f"{web.http}/healthz") as answer:
        if answer.status == 429:
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["error"]["code"] == "too_many_requests"


def test_a_bucket_holds_its_burst_and_fills_at_its_rate() -> None:
    buckets = Buckets(Rate(3, 2.0), most=2)
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b", 10.0) == 0.0
    assert [buckets.take("a", 10.5) for _ in range(2)] == [0.0, 0.5]
    assert [buckets.take("a", 100.0) for _ in range(4)][:3] == [0.0, 0.0, 0.0]
    # Of more than it remembers it forgets the one that asked least lately.
    buckets.take("c", 100.0)
    assert [buckets.left(name, 100.0) for name in "abc"] == [0.0, 3.0, 2.0]


async def test_no_more_sessions_are_open_than_can_be_answered(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    speaker = Speaker(redis, "here")
    address, body = f"{web.http}/api/sessions", {"prompt": "Hello", "models": ["here"]}
    found = []
    while (429, "too_many_sessions") not in found and len(found) <= 40:
        speaker.offer()
        found.append(await asked(client, "POST", address, json=body))
    assert found[-1] == (429, "too_many_sessions")
    # By their pace first, then by their number.
    assert 20 <= found.count((201, "")) <= MOST_OPEN_SESSIONS

    async def full() -> str | None:
        speaker.offer()
        async with client.post(address, json=body) as answer:
            said = (await answer.json()).get("error", {}).get("message", "")
            return said if "open already" in said else None

    assert await until(full, "no more sessions may be open") == (
        f"{MOST_OPEN_SESSIONS} sessions are open already: wait until one ends, or cancel one."
    )
    assert redis.run("XLEN", "council:sessions") == MOST_OPEN_SESSIONS


# --- what leaves -----------------------------------------------------------------------------------------------------


async def test_no_stack_trace_leaves(redis: RedisServer, web: WebServer, client: aiohttp.ClientSession) -> None:
    """What nobody thought of: the log has it all, and whoever asked a sentence."""
    session = Recorder(redis).session
    redis.run("HSET", f"council:{{{session}}}:state", "window", "no number")
    broken = {"code": "internal", "message": "The web server broke on this request; its log says why."}
    for path in (f"/api/sessions/{session}", f"/frames?session={session}", f"/ws?session={session}"):
        async with client.get(web.http + path, headers=UPGRADE) as answer:
            assert (answer.status, await answer.json()) == (500, {"error": broken})
    assert "ValueError" in web.said()
    assert "a request broke" in web.said()


async def test_prompts_and_tokens_are_never_in_a_log_above_debug(
    redis: RedisServer, roles: Roles, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """A whole session, bad requests among it, at the level info: neither what was asked, nor what was answered, nor the
    council's token."""
    started = [roles.ready("aggregator"), roles.ready("consumers.decipher"), roles.ready("producers", "ngram:word-3")]
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=TOKEN)) as web:
        speaker = Speaker(redis, "here")
        speaker.offer()
        address = f"{web.http}/api/sessions"
        await until(lambda: _is_there(client, f"{web.http}/healthz"), "it answers")
        asking = {"models": ["here", "ngram:word-3"], "prompt": "xyzzy prompt", "system": "xyzzy system"}
        async with client.post(f"{address}?token={TOKEN}", json=asking) as answer:
            session = (await answer.json())["session"]
        await asked(client, "POST", f"{address}?token={TOKEN}", json=asking | {"max_tokens": 0})
        async with client.ws_connect(f"{web.http}/ws?session={session}&token={TOKEN}") as socket:
            speaker.take(session)
            speaker.say("xyzzy token", lane="thinking")
            speaker.say("xyzzy token")
            speaker.fail("xyzzy reason")
            await asked(client, "POST", f"{address}/{session}/cancel?token={TOKEN}")
            await until_ended(pipe, session)
            await socket.close()
        for path in (f"/xyzzy?token={TOKEN}", f"/?token={TOKEN}x", f"/api/sessions/xyzzy?token={TOKEN}"):
            await asked(client, "GET", web.http + path)
        await exchange(web, f"GET /?token={TOKEN}\xff bad\r\n\r\n".encode("latin-1"))
        # Something to tell.
        redis.kill()
        redis.start()
        wait_until(lambda: "Redis" in web.said(), "the web process missed Redis")
        wait_until(lambda: all(role.said() for role in started), "the other roles missed Redis")
        web.end()
        logs = [web.said(), *(role.said() for role in started)]
    assert all(logs)
    for log in logs:
        assert "xyzzy" not in log, log
        assert TOKEN not in log, log


async def _is_there(client: aiohttp.ClientSession, address: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        return (await asked(client, "GET", address, headers=BEARER))[0] == 200
    return False


# --- the page about it -----------------------------------------------------------------------------------------------


def test_every_line_of_the_threat_model_names_tests_that_exist() -> None:
    page = (ROOT / "docs/security.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) >= 15
    for line in lines:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, f"no test: {line}"
        for path, name in named:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"
