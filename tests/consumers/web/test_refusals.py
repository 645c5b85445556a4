"""Refused bodies, requests, sockets and arguments: each with a code and one sentence that names the correction."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import aiohttp
import pytest

from schemas import keys
from tests.support.council_command import environment
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.web_server import WebServer

BAD_BODIES = [
    (b"{", "bad_json", "The body is not valid JSON"),
    (b"\xff\xfe", "bad_json", "The body is not valid JSON"),
    (b"[]", "bad_request", "not a JSON object"),
    (b"{}", "bad_request", "The field 'prompt' is missing."),
    (b'{"prompt": 5}', "bad_request", "The field 'prompt' is wrong: input should be a valid string."),
    (b'{"prompt": "a", "promt": "b"}', "bad_request", "Unknown field 'promt'; known fields: prompt, messages,"),
    (b'{"prompt": "a", "models": "m"}', "bad_request", "The field 'models' is wrong"),
    (b'{"prompt": "a", "seed": true}', "bad_request", "The field 'seed' is wrong"),
    (b'{"prompt": "a", "max_tokens": "9"}', "bad_request", "The field 'max_tokens' is wrong"),
    (b'{"prompt": "  "}', "empty_prompt", "The prompt is empty"),
    (b'{"prompt": "a", "max_tokens": 0}', "bad_max_tokens", "give a number from 1 to 8192"),
    (b'{"prompt": "a", "temperature": NaN}', "bad_temperature", "give a number from 0 to 2"),
    (b'{"prompt": "a", "seed": -1}', "bad_seed", "seed is -1"),
    (b'{"prompt": "a", "models": ["nobody"]}', "unknown_model", "There is no model 'nobody' here; available: here."),
    (b'{"prompt": "a", "weights": {"here": 0}}', "zero_weights", "All weights are 0"),
    (b'{"prompt": "a", "weighting": "heavy"}', "bad_request", "'weighting' is wrong: input should be 'fixed' or"),
    (b'{"prompt": "a", "sync": "fast"}', "bad_request", "The field 'sync' is wrong: input should be"),
    (b'{"prompt": "a", "models": [7]}', "bad_request", "The field 'models.0' is wrong: input should be a valid string"),
    (b'{"prompt": "a", "models": [{"name": "b"}]}', "bad_request", "The field 'models.0.model' is missing."),
    (
        b'{"prompt": "a", "models": [{"model": "m", "x": 1}]}',
        "bad_request",
        "Unknown field 'models.0.x'; known fields:",
    ),
    (b'{"prompt": "a", "models": [{"model": "m", "seed": 1.5}]}', "bad_request", "The field 'models.0.seed' is wrong"),
    (b'{"prompt": "a", "models": [{"model": "m", "name": "7"}]}', "bad_member_name", "'7' is not a valid name"),
    (b'{"prompt": "a", "tier": "top"}', "unknown_tier", "Unknown tier 'top'"),
]
# A name that does not exist, and fields that are valid by themselves and do not fit together.
STATUSES = {"unknown_model": 404, "zero_weights": 409}


async def test_an_invalid_body_is_refused_with_a_code_and_one_sentence(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    for body, code, sentence in BAD_BODIES:
        ScriptedProducer(redis, "here").offer()
        found = await error_of(client, "POST", f"{web.http}/api/sessions", data=body)
        assert found[:2] == (STATUSES.get(code, 400), code), (body, found)
        assert sentence in found[2]
        assert found[2].endswith(".")
    assert redis.run("EXISTS", keys.SESSIONS) == 0


async def error_of(client: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, str, str]:
    """Status, code and message; fails if the response contains anything else."""
    headers = {"Content-Type": "application/json"} | options.pop("headers", {})
    async with client.request(method, url, headers=headers, **options) as answer:
        found = await answer.json()
        assert set(found) == {"error"}
        assert set(found["error"]) == {"code", "message"}
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Server"] == "council"
        return answer.status, found["error"]["code"], found["error"]["message"]


FOREIGN = {"Origin": "http://evil.example"}
REFUSALS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/nothing", {}, 404, "not_found"),
    ("GET", "/static/../api.py", {}, 404, "not_found"),
    ("PUT", "/api/sessions", {}, 405, "method_not_allowed"),
    (
        "POST",
        "/api/sessions",
        {"data": b"{}", "headers": {"Content-Type": "text/plain"}},
        415,
        "unsupported_media_type",
    ),
    ("POST", "/api/sessions", {"data": b" " * 65_537}, 413, "body_too_large"),
    ("POST", "/api/sessions", {"data": b'{"prompt": "%s"}' % (b"a" * 32_769)}, 413, "prompt_too_long"),
    ("POST", "/api/sessions", {"data": b'{"prompt": "a"}'}, 409, "no_models"),
    ("DELETE", "/api/sessions/abc", {}, 404, "session_gone"),
    ("GET", "/frames?session=abc", {"headers": {"Upgrade": "h2c", "Connection": "Upgrade"}}, 426, "no_websocket"),
    ("GET", "/frames", {}, 400, "no_session"),
    ("GET", "/healthz", {"headers": {"Host": "evil.example"}}, 403, "forbidden_host"),
    ("GET", "/", {"headers": {"Host": "127.0.0.1.evil.example:80"}}, 403, "forbidden_host"),
    ("GET", "/", {"headers": {"Host": "[::"}}, 403, "forbidden_host"),
    ("POST", "/api/sessions", {"data": b"{}", "headers": FOREIGN}, 403, "forbidden_origin"),
    ("POST", "/api/sessions", {"data": b"{}", "headers": {"Origin": "null"}}, 403, "forbidden_origin"),
    ("POST", "/api/sessions", {"data": b"{}", "headers": {"Origin": "http://127.0.0.1:1"}}, 403, "forbidden_origin"),
    ("DELETE", "/api/sessions/abc", {"headers": FOREIGN}, 403, "forbidden_origin"),
]


async def test_every_refusal_has_its_status_and_code(web: WebServer, client: aiohttp.ClientSession) -> None:
    for method, path, options, status, code in REFUSALS:
        found = await error_of(client, method, web.http + path, **options)
        assert found[:2] == (status, code), (method, path, found)


async def test_a_socket_is_refused_before_the_upgrade(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    session = FrameWriter(redis).session
    own = {"Origin": web.http}
    for headers, name, status in (
        (own, "abc", 404),
        (FOREIGN, session, 403),
        (own | {"Host": "evil.example"}, session, 403),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await client.ws_connect(f"{web.http}/frames?session={name}", headers=headers)
        assert refusal.value.status == status
    async with client.ws_connect(f"{web.http}/frames?session={session}", headers=own) as found:
        assert not found.closed


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        (["--port", "70000"], {}, "--port is '70000': give a whole number from 0 to 65535."),
        (["--port", "http"], {}, "--port is 'http'"),
        (["--host", "no.such.host.invalid"], {}, "'no.such.host.invalid' is not an address of this machine"),
        (["--fd", "0"], {}, "File descriptor 0 is not a listening socket."),
        ([], {"COUNCIL_TIER": "top"}, "Unknown tier 'top'"),
        ([], {"COUNCIL_LIMITS": "[1]"}, "COUNCIL_LIMITS is not a JSON object"),
        ([], {"COUNCIL_LIMITS": '{"patience": 1}'}, "Unknown limit 'patience'"),
        ([], {"REDIS_URL": "unix:///no/redis.sock"}, "No Redis answers"),
    ],
)
def test_invalid_arguments_or_variables_end_the_start_with_one_sentence_and_code_2(
    redis: RedisServer, arguments: list[str], variables: dict[str, str], sentence: str
) -> None:
    assert_start_refused(redis, arguments, variables, sentence)


def test_a_port_in_use_ends_the_start_with_one_sentence_and_code_2(redis: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert_start_refused(redis, ["--port", str(port)], {}, f"Port {port} is in use on 127.0.0.1")


def assert_start_refused(redis: RedisServer, arguments: list[str], variables: dict[str, str], sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "consumers.web", *arguments], env=environment(redis.url) | variables,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert sentence in done.stderr
