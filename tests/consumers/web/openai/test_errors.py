"""Errors below /v1 have OpenAI's form, whichever part of the server refuses the request."""

from __future__ import annotations

import logging
from typing import Any

import aiohttp
import pytest
from aiohttp import web as aiohttp_web
from aiohttp.test_utils import make_mocked_request

from consumers.web.door.errors import errors_as_json
from runtime.log import Log
from schemas.errors import CouncilError
from tests.support.redis_servers import RedisServer
from tests.support.web_server import WebServer

CHAT = "/v1/chat/completions"
TOKEN = "a-token-of-the-council"
KEYS = {"code", "message", "type", "param"}


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code", "kind"),
    [
        ("GET", "/v1/nothing", {}, 404, "not_found", "not_found_error"),
        ("GET", CHAT, {}, 405, "method_not_allowed", "invalid_request_error"),
        ("POST", CHAT, {"data": "x"}, 415, "unsupported_media_type", "invalid_request_error"),
        ("POST", CHAT, {"json": {"x": "a" * 70_000}}, 400, "context_length_exceeded", "invalid_request_error"),
        ("POST", CHAT, {"json": {"model": "council", "messages": [{"role": "user", "content": "x" * 33_000}]}}, 400,
         "context_length_exceeded", "invalid_request_error"),
        ("POST", CHAT, {"json": {"model": 3}}, 400, "bad_model", "invalid_request_error"),
        ("POST", CHAT, {"json": {}, "headers": {"Origin": "http://x.example"}}, 403, "forbidden_origin",
         "permission_error"),
        ("POST", CHAT, {"json": {}, "headers": {"Expect": "x"}}, 417, "no_expectations", "invalid_request_error"),
        ("POST", CHAT, {"json": {}, "headers": {"Host": "x.example"}}, 403, "forbidden_host", "permission_error"),
        ("POST", CHAT, {"json": {"model": "council", "messages": [{"role": "user", "content": "x"}]}}, 503, "no_models",
         "server_error"),
        ("POST", CHAT, {"json": {"model": "council", "messages": [{"role": "assistant", "content": "x"}]}}, 400,
         "bad_messages", "invalid_request_error"),
        # Elsewhere errors stay as they are.
        ("GET", "/api/nothing", {}, 404, "not_found", None),
    ],
)  # fmt: skip
async def test_every_refusal_below_v1_has_openais_form(
    web: WebServer,
    client: aiohttp.ClientSession,
    method: str,
    path: str,
    sent: dict[str, Any],
    status: int,
    code: str,
    kind: str | None,
) -> None:
    async with client.request(method, web.http + path, **sent) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error.get("type")) == (status, code, kind)
    assert set(error) == (KEYS if kind else {"code", "message"})


async def test_the_api_key_of_a_client_is_the_councils_token(redis: RedisServer, client: aiohttp.ClientSession) -> None:
    web = WebServer(redis.url, COUNCIL_TOKEN=TOKEN)
    try:
        for key, status in (("", 401), ("sk-wrong", 401), (TOKEN, 200)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with client.get(f"{web.http}/v1/models", headers=headers) as response:
                assert response.status == status
                found = await response.json()
            if status == 401:
                assert found["error"]["type"] == "authentication_error"
                assert set(found["error"]) == KEYS
    finally:
        web.close()


@pytest.mark.parametrize(
    ("path", "sent", "parameter"),
    [
        (CHAT, {"messages": [{"role": "user", "content": " "}]}, "messages"),
        ("/v1/completions", {"prompt": " "}, "prompt"),
        ("/v1/completions", {"prompt": "x" * 33_000}, "prompt"),
    ],
)
async def test_an_error_names_the_parameter_with_the_text(
    web: WebServer, client: aiohttp.ClientSession, path: str, sent: dict[str, Any], parameter: str
) -> None:
    async with client.post(web.http + path, json={"model": "council"} | sent) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, parameter)


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/v1/responses", "/v1"])
async def test_a_client_with_a_wrong_base_url_shows_what_is_right(
    web: WebServer, client: aiohttp.ClientSession, path: str
) -> None:
    async with client.post(web.http + path, json={}) as response:
        message = (await response.json())["error"]["message"]
        assert (response.status, "OpenAI-compatible API ends with /v1" in message) == (404, True)


async def test_an_error_without_a_status_of_its_own_is_a_response_with_its_sentence() -> None:
    async def fail(_request: aiohttp_web.Request) -> aiohttp_web.StreamResponse:
        raise CouncilError("It crashed two aggregators.")

    answer = errors_as_json(Log(logging.ERROR))
    response = await answer(make_mocked_request("POST", CHAT), fail)
    assert isinstance(response, aiohttp_web.Response)
    assert response.status == 500
    assert b"It crashed two aggregators." in response.body  # type: ignore[operator]
