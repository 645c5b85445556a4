"""No stack trace in a response, no prompt, answer or token in a log. docs/security.md names these tests."""

from __future__ import annotations

import contextlib
import logging
import re

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from consumers.web.door.errors import errors_as_json
from runtime.log import Log
from tests.consumers.web.door.clients import (
    TOKEN,
    answers_with_token,
    exchange,
    request_code,
)
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.sessions import until_ended
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe


async def test_an_internal_error_is_one_sentence_without_a_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that is not handled: the log has the traceback, the client one sentence."""

    async def fail(_request: web.Request) -> web.Response:
        raise ValueError("xyzzy")

    application = web.Application(middlewares=[errors_as_json(Log(logging.ERROR))])
    application.router.add_get("/fails", fail)
    error = {"code": "internal", "message": "The web server failed on this request; its log has the reason."}
    async with TestClient(TestServer(application)) as browser, browser.get("/fails") as answer:
        assert (answer.status, await answer.json()) == (500, {"error": error})
    log = capsys.readouterr().err
    assert "ValueError: xyzzy" in log
    assert "a request failed" in log


async def test_no_log_above_debug_contains_prompts_answers_or_the_token(
    redis: RedisServer, roles: Roles, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    """A whole session with invalid requests, at the level info: no log contains its prompt, its answers or the
    council's token."""
    started = [roles.ready("aggregator"), roles.ready("consumers.decipher"), roles.ready("producers", "ngram:word-3")]
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=TOKEN)) as server:
        speaker = ScriptedProducer(redis, "here")
        speaker.offer()
        address = f"{server.http}/api/sessions"
        await until(lambda: answers_with_token(client, f"{server.http}/healthz"), "the server answers")
        asking = {"models": ["here", "ngram:word-3"], "prompt": "xyzzy prompt", "system": "xyzzy system"}
        async with client.post(f"{address}?token={TOKEN}", json=asking) as answer:
            session = (await answer.json())["session"]
        await request_code(client, "POST", f"{address}?token={TOKEN}", json=asking | {"max_tokens": 0})
        async with client.ws_connect(f"{server.http}/ws?session={session}&token={TOKEN}") as socket:
            speaker.take(session)
            speaker.say("xyzzy token", lane="thinking")
            speaker.say("xyzzy token")
            speaker.fail("xyzzy reason")
            await request_code(client, "POST", f"{address}/{session}/cancel?token={TOKEN}")
            await until_ended(pipe, session)
            await socket.close()
        for path in (f"/xyzzy?token={TOKEN}", f"/?token={TOKEN}x", f"/api/sessions/xyzzy?token={TOKEN}"):
            await request_code(client, "GET", server.http + path)
        await exchange(server, f"GET /?token={TOKEN}\xff bad\r\n\r\n".encode("latin-1"))
        # An event for the logs.
        redis.kill()
        redis.start()
        wait_until(lambda: "Redis" in server.log(), "the web process missed Redis")
        wait_until(lambda: all(role.log() for role in started), "the other roles missed Redis")
        server.end()
        logs = [server.log(), *(role.log() for role in started)]
    assert all(logs)
    for log in logs:
        assert "xyzzy" not in log, log
        assert TOKEN not in log, log


def test_every_row_of_the_threat_model_names_tests_that_exist() -> None:
    page = (ROOT / "docs/security.md").read_text()
    table = page.partition("| threat | protection | test |\n")[2].partition("\n\n")[0]
    lines = [line for line in table.splitlines() if "---" not in line]
    assert len(lines) >= 15
    for line in lines:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, f"no test: {line}"
        for path, name in named:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"
