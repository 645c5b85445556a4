"""The token: which requests need it, how it is sent, where it must not appear. docs/security.md names these tests."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from consumers.web.door.access import checked_token, require_token
from consumers.web.door.limits import WRONG_TOKENS
from schemas.errors import Refused
from tests.consumers.web.door.clients import (
    BEARER,
    HTML,
    PAGE,
    TOKEN,
    answers_with_token,
    request_code,
)
from tests.consumers.web.test_refusals import assert_start_refused
from tests.support.council_command import council, environment
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.running_council import Up
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from tests.support.web_server import WebServer


async def test_every_route_file_and_socket_requires_the_token(
    redis: RedisServer, protected: WebServer, client: aiohttp.ClientSession
) -> None:
    session = FrameWriter(redis).session
    async with client.get(f"{protected.http}/api/openapi.json", headers=BEARER) as answer:
        document = await answer.json()
    paths = [
        (method.upper(), re.sub(r"\{session\}", session, path).replace("{member}", "0").replace("{model}", "m"))
        for path, operations in document["paths"].items()
        for method in operations
    ]
    folder = ROOT / "consumers/web/static"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "index.html"]
    pages = [("GET", f"/static/{path.relative_to(folder)}") for path in files]
    assert len(paths) > 12
    assert len(pages) > 40
    for method, path in pages:
        assert await request_code(client, method, protected.http + path, headers=BEARER) == (200, ""), path
    sockets = [("GET", f"/frames?session={session}"), ("GET", "/ws"), ("GET", f"/ws?session={session}")]
    probes = [("GET", "/healthz"), ("GET", "/readyz")]
    closed = [found for found in paths if found not in probes]
    assert len(closed) == len(paths) - len(probes)
    others = [("GET", "/"), ("GET", "/nothing"), ("HEAD", "/"), ("POST", "/healthz"), ("GET", "/healthz/")]
    for method, path in [*closed, *pages, *sockets, *others]:
        # The token is checked before anything else; an invalid cookie counts as no token.
        for headers in ({}, {"Cookie": "council=x"}):
            status, code = await request_code(client, method, protected.http + path, headers=headers)
            assert (status, code) == (401, "no_token" if method != "HEAD" else ""), path
    for path in (f"/frames?session={session}", "/ws"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(protected.http + path)
        assert refused.value.status == 401
    assert redis.run("EXISTS", f"council:{{{session}}}:state") == 1


async def test_the_token_is_accepted_in_a_header_and_in_the_address(
    redis: RedisServer, protected: WebServer, client: aiohttp.ClientSession
) -> None:
    session = FrameWriter(redis).session
    address = f"{protected.http}/api/sessions/{session}"
    for headers in (BEARER, {"Authorization": f"bearer  {TOKEN}"}):
        assert await request_code(client, "GET", address, headers=headers) == (200, "")
    assert await request_code(client, "GET", f"{address}?token={TOKEN}") == (200, "")
    async with client.ws_connect(f"{protected.http}/frames?session={session}", headers=BEARER) as found:
        assert not found.closed
    async with client.ws_connect(f"{protected.http}/ws?token={TOKEN}&session={session}") as found:
        assert (await found.receive_json())["type"] == "startup_complete"
    # If both are given, the header counts.
    wrong = {"Authorization": "Bearer 0123456789abcdef"}
    assert await request_code(client, "GET", f"{address}?token={TOKEN}", headers=wrong) == (401, "wrong_token")
    assert await request_code(client, "GET", f"{address}?token={TOKEN}&token={TOKEN}") == (401, "no_token")


@pytest.mark.parametrize("way", ["sign-in", "address"])
async def test_signing_in_sets_a_cookie_that_does_not_contain_the_token(
    redis: RedisServer, protected: WebServer, way: str
) -> None:
    session = FrameWriter(redis).session
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(protected.http, headers=HTML) as answer:
            text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
            assert (answer.status, answer.content_type) == (401, "text/html")
            assert "requires a token" in text
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
        if way == "sign-in":
            wrong = {"token": "0123456789abcdef"}
            async with browser.post(f"{protected.http}/sign-in", data=wrong, headers=HTML) as answer:
                assert answer.status == 401
                assert "This is not the council's token." in await answer.text()
            request = browser.post(f"{protected.http}/sign-in", data={"token": f" {TOKEN} "}, allow_redirects=False)
        else:
            request = browser.get(f"{protected.http}/?token={TOKEN}", headers=HTML, allow_redirects=False)
        async with request as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            assert TOKEN not in str(answer.headers)
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        async with browser.get(protected.http, headers=HTML) as answer:
            assert answer.status == 200
            assert "<title>" in await answer.text()
        assert await request_code(browser, "GET", f"{protected.http}/api/sessions/{session}") == (200, "")
        async with browser.ws_connect(f"{protected.http}/frames?session={session}") as found:
            assert not found.closed
        # A page of another origin may make the browser send the cookie; its Origin is refused.
        foreign = {"Origin": "http://evil.example", "Content-Type": "application/json"}
        assert await request_code(browser, "POST", f"{protected.http}/api/sessions", headers=foreign, data=b"{}") == (
            403,
            "forbidden_origin",
        )
        assert await request_code(browser, "POST", f"{protected.http}/sign-in", headers=foreign) == (
            403,
            "forbidden_origin",
        )


async def test_after_ten_wrong_tokens_even_the_right_one_is_refused_for_a_while(
    protected: WebServer, client: aiohttp.ClientSession
) -> None:
    address = f"{protected.http}/healthz"
    for number in range(WRONG_TOKENS.burst):
        wrong = {"Authorization": f"Bearer wrong-wrong-wrong-{number}"}
        assert await request_code(client, "GET", address, headers=wrong) == (401, "wrong_token")
    async with client.get(address, headers=BEARER) as answer:
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 6
        assert (await answer.json())["error"]["code"] == "too_many_tokens"
    async with client.post(f"{protected.http}/sign-in", data={"token": TOKEN}) as answer:
        assert answer.status == 429
    # A request without a token is not counted as a wrong one.
    assert await request_code(client, "GET", f"{protected.http}/api/version") == (401, "no_token")


async def test_probes_without_the_token_get_yes_or_no_and_no_reason(
    redis: RedisServer, roles: Roles, protected: WebServer, client: aiohttp.ClientSession
) -> None:
    async def probe(path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        async with client.get(protected.http + path, headers=headers) as answer:
            return answer.status, await answer.text()

    no = '{"error":{"code":"not_ready","message":"The council is not ready: ask again with its token for the reason."}}'
    assert await probe("/healthz") == (200, '{"ok":true}')
    assert await probe("/readyz") == (503, no)
    status, reason = await probe("/readyz", BEARER)
    assert (status, "no aggregator runs" in reason) == (503, True)
    assert (await probe("/readyz", {"Authorization": "Bearer 0123456789abcdef"}))[0] == 401
    for role in (["aggregator"], ["consumers.decipher"], ["producers", "ngram:word-3"]):
        roles.ready(*role)
    assert await probe("/readyz") == (200, '{"ready":true}')
    redis.kill()
    try:
        assert await probe("/readyz") == (503, no)
        assert "redis_away" in (await probe("/readyz", BEARER))[1]
    finally:
        redis.start()


def test_the_token_is_read_from_a_file(redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    for text, sentence in (
        (None, "which cannot be read (No such file or directory): write the token into it."),
        ("short\n", "The token must have 16 to 512"),
        (TOKEN * 20, "The token must have 16 to 512"),
        ("schlüssel-schlüssel", "The token must have 16 to 512"),
    ):
        if text is not None:
            file.write_text(text)
        assert_start_refused(redis, ["--port", "0"], {"COUNCIL_TOKEN_FILE": str(file)}, sentence)
        council("up", COUNCIL_TOKEN_FILE=str(file)).assert_refused(sentence)
    file.write_text(f"  {TOKEN}\n")
    both = {"COUNCIL_TOKEN_FILE": str(file), "COUNCIL_TOKEN": TOKEN}
    assert_start_refused(redis, ["--port", "0"], both, "COUNCIL_TOKEN and COUNCIL_TOKEN_FILE are both set")


async def test_a_client_sends_the_token_of_the_file(
    redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN_FILE=str(tmp_path / "token"))) as web:
        await until(lambda: answers_with_token(client, f"{web.http}/api/version"), "it answers")
        assert await request_code(client, "GET", f"{web.http}/api/version") == (401, "no_token")


def test_secrets_are_compared_in_constant_time() -> None:
    """They are compared as digests, which have one length, by hmac.compare_digest, and in no other line."""
    source = (ROOT / "consumers/web/door/access.py").read_text()
    # Each secret is made and compared; the cookie's is sent, too.
    uses = [line.strip() for line in source.splitlines() if re.search(r"self\._(digest|cookie_value)\b", line)]
    assert [line.split("(")[0] for line in uses] == [
        "self._digest = _digest",
        "self._cookie_value = hmac.new",
        "if hmac.compare_digest",
        "return hmac.compare_digest",
        'self._cookie, self._cookie_value, max_age=_COOKIE_LIFE_S, httponly=True, samesite="Lax", path="/"',
    ]


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "x" * 513, "sixteen letters!", "ünïcödé-ünïcödé-", "a\nb" * 9]
)
def test_an_invalid_token_is_refused_and_not_in_the_message(token: str) -> None:
    with pytest.raises(Refused) as refused:
        checked_token(token)
    assert "The token must have 16 to 512 ASCII letters, digits and signs" in str(refused.value)
    assert not token or token not in str(refused.value)
    assert checked_token("x" * 16)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_other_machines_reach_requires_a_token(redis: RedisServer, host: str) -> None:
    for words, sentence in ((["--token", ""], "The token must have 16"), (["--token", "short"], "The token must")):
        assert_start_refused(redis, words, {"COUNCIL_TOKEN": TOKEN}, sentence)
    done = subprocess.run(
        [sys.executable, "-m", "consumers.web", "--port", "0", "--host", host], env=environment(redis.url),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"Other machines can reach {host}: set a token, as with COUNCIL_TOKEN=$(")
    council("up", "--no-open", "--port", "0", "--host", host).assert_refused("Other machines can reach")
    council("up", "--host", host, "--token", "short").assert_refused("--token: the token must have 16 to 512")
    council("up", "--host", host, COUNCIL_TOKEN="short").assert_refused("COUNCIL_TOKEN: the token must have 16")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("127.9.9.9", socket.AF_INET)])
def test_loopback_requires_no_token(host: str, family: socket.AddressFamily) -> None:
    with socket.create_server((host, 0), family=family) as listening:
        require_token(listening, None)
    with socket.create_server(("0.0.0.0", 0)) as listening, pytest.raises(Refused, match="Other machines can reach"):
        require_token(listening, None)


def test_the_default_is_loopback_and_only_the_web_process_has_the_token(tmp_path: Path) -> None:
    """With `council up` no other process has the token, and no log and no process record contains it."""
    with contextlib.closing(Up(tmp_path, "--models", "ngram:word-3", COUNCIL_TOKEN=TOKEN)) as up:
        assert up.address.startswith("http://127.0.0.1:")
        assert "sign in with the token" in up.text()
        (web,) = up.pids("web")
        having = [pid for pid in up.family() if TOKEN.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
        # And the supervisor, whose environment contains it.
        assert sorted(having) == sorted([web, up.process.pid])
        assert TOKEN not in up.text()
        assert TOKEN not in str(up.status())
        outcome = council("ask", "hi", "--max-tokens", "3", TMPDIR=str(tmp_path))
        assert outcome.code == 0, outcome.said


async def test_the_cookie_is_accepted_from_this_servers_page_only(redis: RedisServer) -> None:
    """Browsers send it to every port of a host, also with the sockets of pages from other ports."""
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=TOKEN, COUNCIL_ORIGINS=f'["{PAGE}"]')) as web:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            await until(lambda: answers_with_token(browser, f"{web.http}/healthz"), "it answers")
            assert await request_code(browser, "GET", f"{web.http}/?token={TOKEN}") == (303, "")
            assert await request_code(browser, "GET", f"{web.http}/api/sessions") == (200, "")
            assert await request_code(browser, "GET", f"{web.http}/api/sessions", headers={"Origin": web.http}) == (
                200,
                "",
            )
            assert await request_code(browser, "GET", f"{web.http}/api/sessions", headers={"Origin": PAGE}) == (
                401,
                "no_token",
            )
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await browser.ws_connect(f"{web.http}/ws", headers={"Origin": PAGE})
            async with browser.ws_connect(f"{web.http}/ws?token={TOKEN}", headers={"Origin": PAGE}) as found:
                assert (await found.receive_json())["type"] == "startup_complete"


async def test_an_invalid_form_counts_as_a_wrong_token(protected: WebServer, client: aiohttp.ClientSession) -> None:
    for form in (b"a&b&c&d&e", b"\xff", b"token", b""):
        assert await request_code(client, "POST", f"{protected.http}/sign-in", data=form) == (401, "wrong_token")
    assert protected.log() == ""
