"""The web's API and sockets: the real process, real clients, a real council behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from schemas import keys
from tests.commands import environment
from tests.roles import RedisServer, Roles
from tests.waiting import until, wait_until
from tests.web_server import CHAR, PACE, WORD, Recorder, Speaker, WebServer, record_of, watch, windows
from transport.commit import end_session
from transport.connection import Pipe


@pytest.fixture
def web(redis: RedisServer) -> Iterator[WebServer]:
    found = WebServer(redis.url)
    yield found
    found.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


@pytest.fixture
def council(roles: Roles) -> Roles:
    """An aggregator and two fast models."""
    started = [roles.start("aggregator"), roles.start("producers", WORD, *PACE), roles.start("producers", CHAR, *PACE)]
    for role in started:
        role.wait_ready()
    return roles


async def opened(client: aiohttp.ClientSession, web: WebServer, **request: Any) -> dict[str, Any]:
    async with client.post(
        f"{web.http}/api/sessions", json={"prompt": "What is a list?", "seed": 7} | request
    ) as answer:
        found: dict[str, Any] = await answer.json()
        assert answer.status == 201, found
        return found


# --- sessions and their frames ---------------------------------------------------------------------------------------


async def test_a_session_is_opened_watched_to_its_final_frame_and_listed(
    web: WebServer, client: aiohttp.ClientSession, council: Roles
) -> None:
    async with client.get(f"{web.http}/api/models") as answer:
        served = await answer.json()
    assert sorted(served.pop("models")) == [CHAR, WORD]
    assert served == {"tier": "mid", "max_parallel_models": 4}

    found = await opened(client, web, models=[WORD, CHAR], weights={WORD: 2}, max_tokens=30, temperature=0.5)
    session = found.pop("session")
    assert found == {"models": [WORD, CHAR], "warnings": [], "tier": "mid"}
    (messages, code), (again, _) = await asyncio.gather(watch(client, web, session), watch(client, web, session))
    assert code == 1000
    assert again == messages
    assert windows(messages) == list(range(len(messages)))
    frames = [json.loads(message) for message in messages]
    assert [frame["final"] for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert all("".join(frame["members"][member]["text"] for frame in frames) for member in (0, 1))

    # Whoever comes after the end reads the same bytes.
    assert await watch(client, web, session) == (messages, 1000)
    async with client.get(f"{web.http}/api/sessions") as answer:
        (listed,) = (await answer.json())["sessions"]
    assert listed.pop("opened_ms") > 0
    last = len(messages) - 1
    assert listed == {
        "session": session, "status": "ended", "window_index": last, "models": [WORD, CHAR], "reason": None,
    }  # fmt: skip


async def test_a_tier_leaves_models_out_and_says_so(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    for name in ("a", "b", "c"):
        Speaker(redis, name).offer()
    found = await opened(client, web, models=["a", "b", "c"], tier="low")
    assert (found["models"], found["tier"]) == (["a", "b"], "low")
    assert found["warnings"] == ["The low tier runs 2 models at once; left out: c."]


async def test_a_cancelled_session_ends(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, roles: Roles
) -> None:
    roles.ready("aggregator")
    Speaker(redis, "slow").offer()
    session = (await opened(client, web))["session"]
    async with client.delete(f"{web.http}/api/sessions/{session}") as answer:
        assert (answer.status, (await answer.json())["session"]) == (202, session)
    messages, code = await watch(client, web, session)
    assert code == 1000
    assert json.loads(messages[-1])["members"][0]["state"] == "dropped"


async def test_however_many_watch_a_session_one_connection_reads_it(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = Recorder(redis)
    recorder.write(5)

    def readers() -> int:
        return str(redis.run("CLIENT", "LIST")).count("cmd=xread ")

    async with contextlib.AsyncExitStack() as stack:
        address = f"{web.http}/frames?session={recorder.session}"
        sockets = [await stack.enter_async_context(client.ws_connect(address)) for _ in range(5)]
        first = [[(await found.receive()).data for _ in range(5)] for found in sockets]
        assert all(messages == first[0] for messages in first)
        wait_until(readers, "the session is read")
        assert readers() == 1
    wait_until(lambda: not readers(), "nobody reads what nobody watches")


async def test_a_session_that_ends_without_a_final_frame_is_closed_with_its_reason(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = Recorder(redis)
    recorder.write(3)
    async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as found:
        assert [(await found.receive()).type for _ in range(3)] == [aiohttp.WSMsgType.TEXT] * 3
        with contextlib.closing(Pipe(redis.url)) as pipe:
            pipe.run([end_session(recorder.session, "The session cannot be read.")])
        goodbye = await found.receive()
    assert (goodbye.data, goodbye.extra) == (1011, "The session cannot be read.")


# --- clients that misbehave ------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_is_cut_off_and_hurts_nobody(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = Recorder(redis, text="x" * 2_000)
    wait_until(lambda: record_of(redis, web), "the web is ready")
    host, port = web.address.split(":")
    deaf = aiohttp.ClientSession(connector=aiohttp.TCPConnector())
    async with deaf, deaf.ws_connect(f"http://{host}:{port}/frames?session={recorder.session}") as asleep:
        assert asleep._conn is not None
        assert asleep._conn.transport is not None
        asleep._conn.transport.pause_reading()  # type: ignore[attr-defined]
        async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as awake:

            async def was_cut_off() -> bool:
                recorder.write(400)
                for _ in range(400):
                    assert (await awake.receive(5)).type is aiohttp.WSMsgType.TEXT
                record = record_of(redis, web)
                return record is not None and record.detail["too_slow"] == 1

            await until(was_cut_off, "the client that does not read is cut off")
        asleep._conn.transport.resume_reading()  # type: ignore[attr-defined]
        received = [message.data async for message in asleep]
    # What it gets when it wakes up has no hole.
    assert windows(received) == list(range(len(received)))
    assert len(received) < recorder.count
    assert asleep.close_code == 1013


async def test_what_a_client_says_is_ignored_unless_it_is_large(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = Recorder(redis)
    async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as found:
        await found.send_str('{"type": "cancel"}')
        await found.send_bytes(b"\xff" * 100)
        recorder.write(1)
        assert windows([(await found.receive(5)).data]) == [0]
        await found.send_str("x" * 5_000)
        assert (await found.receive(5)).data == 1009


# --- what is refused -------------------------------------------------------------------------------------------------

BAD_BODIES = [
    (b"{", "bad_json", "The body is no JSON"),
    (b"\xff\xfe", "bad_json", "The body is no JSON"),
    (b"[]", "bad_request", "no JSON object"),
    (b"{}", "bad_request", "The field 'prompt' is missing."),
    (b'{"prompt": 5}', "bad_request", "The field 'prompt' is wrong: input should be a valid string."),
    (b'{"prompt": "a", "promt": "b"}', "bad_request", "There is no field 'promt': the fields are prompt, models,"),
    (b'{"prompt": "a", "models": "m"}', "bad_request", "The field 'models' is wrong"),
    (b'{"prompt": "a", "seed": true}', "bad_request", "The field 'seed' is wrong"),
    (b'{"prompt": "a", "max_tokens": "9"}', "bad_request", "The field 'max_tokens' is wrong"),
    (b'{"prompt": "  "}', "empty_prompt", "The prompt is empty"),
    (b'{"prompt": "a", "max_tokens": 0}', "bad_max_tokens", "give a number from 1 to 8192"),
    (b'{"prompt": "a", "temperature": NaN}', "bad_temperature", "give a number from 0 to 2"),
    (b'{"prompt": "a", "seed": -1}', "bad_seed", "seed is -1"),
    (b'{"prompt": "a", "models": ["nobody"]}', "unknown_model", "There is no model 'nobody' here; available: here."),
    (b'{"prompt": "a", "weights": {"here": 0}}', "zero_weights", "All weights are 0"),
    (b'{"prompt": "a", "tier": "top"}', "unknown_tier", "There is no tier 'top'"),
]


async def test_every_bad_body_is_refused_with_a_code_and_one_sentence(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    for body, code, sentence in BAD_BODIES:
        Speaker(redis, "here").offer()
        found = await error_of(client, "POST", f"{web.http}/api/sessions", data=body)
        assert found[:2] == (400, code), (body, found)
        assert sentence in found[2]
        assert found[2].endswith(".")
    assert redis.run("EXISTS", keys.SESSIONS) == 0


async def error_of(client: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, str, str]:
    """Status, code and message; fails where the answer holds anything else."""
    headers = {"Content-Type": "application/json"} | options.pop("headers", {})
    async with client.request(method, url, headers=headers, **options) as answer:
        found = await answer.json()
        assert set(found) == {"error"}
        assert set(found["error"]) == {"code", "message"}
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
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
    session = Recorder(redis).session
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
        (["--host", "no.such.host.invalid"], {}, "There is no address 'no.such.host.invalid' here"),
        (["--fd", "0"], {}, "File descriptor 0 is no listening socket."),
        ([], {"COUNCIL_TIER": "top"}, "There is no tier 'top'"),
        ([], {"COUNCIL_LIMITS": "[1]"}, "COUNCIL_LIMITS is no JSON object"),
        ([], {"COUNCIL_LIMITS": '{"patience": 1}'}, "There is no limit 'patience'"),
        ([], {"REDIS_URL": "unix:///no/redis.sock"}, "No Redis answers"),
    ],
)
def test_a_wrong_start_is_one_sentence_and_exit_code_2(
    redis: RedisServer, arguments: list[str], variables: dict[str, str], sentence: str
) -> None:
    assert_start_refused(redis, arguments, variables, sentence)


def test_a_port_in_use_is_one_sentence_and_exit_code_2(redis: RedisServer) -> None:
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
