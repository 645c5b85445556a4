"""The web's API and sockets, with the real process, real clients and a real council."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import pytest

from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer, offer_aggregator
from tests.support.waiting import wait_until
from tests.support.web_server import CHAR, PACE, WORD, WebServer, watch, windows
from transport.commit import end_session
from transport.redis.connection import AsyncPipe, Pipe
from transport.sessions import find_session, read_opening


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
    assert sorted((model["model"], model["continues"]) for model in served.pop("models")) == [
        (CHAR, "yes"), (WORD, "yes")
    ]  # fmt: skip
    assert served == {
        "members": [], "councils": [], "tier": "mid", "max_parallel_models": 4, "max_loaded_models": 6,
        "target_fps": 60,
    }  # fmt: skip

    found = await opened(client, web, models=[WORD, CHAR], weights={WORD: 2}, max_tokens=30, temperature=0.5)
    session = found.pop("session")
    assert found == {"models": [WORD, CHAR], "names": [WORD, CHAR], "warnings": [], "tier": "mid"}
    (messages, code), (again, _) = await asyncio.gather(watch(client, web, session), watch(client, web, session))
    assert code == 1000
    assert again == messages
    assert windows(messages) == list(range(len(messages)))
    frames = [json.loads(message) for message in messages]
    assert [frame["final"] for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert all("".join(frame["members"][member]["text"] for frame in frames) for member in (0, 1))

    # A client that connects after the end receives the same bytes.
    assert await watch(client, web, session) == (messages, 1000)
    async with client.get(f"{web.http}/api/sessions") as answer:
        (listed,) = (await answer.json())["sessions"]
    assert listed.pop("opened_ms") > 0
    last = len(messages) - 1
    assert listed == {
        "session": session, "prompt_start": "What is a list?",
        "status": "ended", "phase": None, "window_index": last, "models": [WORD, CHAR], "names": [WORD, CHAR],
        "reason": None, "replay_of": None, "recording": None, "recorded_ms": None,
    }  # fmt: skip


async def test_a_warning_names_the_models_that_the_tier_leaves_out(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    for name in ("a", "b", "c"):
        ScriptedProducer(redis, name).offer()
    offer_aggregator(redis)
    found = await opened(client, web, models=["a", "b", "c"], tier="low")
    assert (found["models"], found["tier"]) == (["a", "b"], "low")
    assert found["warnings"] == ["The low tier runs 2 models at once; left out: c."]


async def test_the_weighting_of_a_request_is_in_the_opening(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    ScriptedProducer(redis, "a").offer()
    offer_aggregator(redis)
    for request, weighting in (({}, "fixed"), ({"weighting": "certainty", "weights": {"a": 2}}, "certainty")):
        session = (await opened(client, web, **request))["session"]
        opening = await read_opening(pipe, await find_session(pipe, session))
        assert (opening.weighting, opening.members[0].weight) == (weighting, 2.0 if request else 1.0)


async def test_the_sync_of_a_request_is_in_the_opening(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, pipe: AsyncPipe
) -> None:
    ScriptedProducer(redis, "a").offer()
    offer_aggregator(redis)
    for request, sync in (({}, "step"), ({"sync": "free"}, "free")):
        session = (await opened(client, web, **request))["session"]
        assert (await read_opening(pipe, await find_session(pipe, session))).sync == sync


async def test_a_cancelled_session_ends(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, roles: Roles
) -> None:
    roles.ready("aggregator")
    ScriptedProducer(redis, "slow").offer()
    session = (await opened(client, web))["session"]
    async with client.post(f"{web.http}/api/sessions/{session}/cancel") as answer:
        assert (answer.status, await answer.json()) == (202, {"session": session, "status": "open", "members": [0]})
    messages, code = await watch(client, web, session)
    assert code == 1000
    assert json.loads(messages[-1])["members"][0]["state"] == "dropped"


async def test_one_connection_reads_a_session_for_all_its_clients(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = FrameWriter(redis)
    recorder.write(5)

    def readers() -> int:
        return str(redis.run("CLIENT", "LIST")).count("cmd=xread ")

    wait_until(lambda: readers() == 1, "one connection waits for new sessions")

    async with contextlib.AsyncExitStack() as stack:
        address = f"{web.http}/frames?session={recorder.session}"
        sockets = [await stack.enter_async_context(client.ws_connect(address)) for _ in range(5)]
        first = [[(await found.receive()).data for _ in range(5)] for found in sockets]
        assert all(messages == first[0] for messages in first)
        wait_until(lambda: readers() > 1, "the session is read")
        assert readers() == 2
    wait_until(lambda: readers() == 1, "a session without clients is not read")


async def test_a_session_that_ends_without_a_final_frame_is_closed_with_its_reason(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = FrameWriter(redis)
    recorder.write(3)
    async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as found:
        assert [(await found.receive()).type for _ in range(3)] == [aiohttp.WSMsgType.TEXT] * 3
        with contextlib.closing(Pipe(redis.url)) as pipe:
            pipe.run([end_session(recorder.session, 0, "The session cannot be read.")])
        closed = await found.receive(10)
    assert (closed.data, closed.extra) == (1011, "The session cannot be read.")


# --- clients that misbehave ------------------------------------------------------------------------------------------


async def test_messages_of_a_client_are_ignored_unless_they_are_too_large(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession
) -> None:
    recorder = FrameWriter(redis)
    async with client.ws_connect(f"{web.http}/frames?session={recorder.session}") as found:
        await found.send_str('{"type": "cancel"}')
        await found.send_bytes(b"\xff" * 100)
        recorder.write(1)
        assert windows([(await found.receive(5)).data]) == [0]
        await found.send_str("x" * 5_000)
        assert (await found.receive(5)).data == 1009
