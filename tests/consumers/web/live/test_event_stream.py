"""`/api/sessions/ID/events`: DECIPHER's events as Server-Sent Events, for curl and a browser's EventSource."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import Any

import aiohttp
import pytest

from schemas import keys
from schemas.events import EnergyField, EnergyUpdate, Event, TokenStream
from tests.support.live_clients import EventStreamClient, all_receive, server_sent_events
from tests.support.protocol import client_events_of, texts_by_model
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.sessions import opening_of, until_ended
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.events import find_composed
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

Client = aiohttp.ClientSession


@pytest.fixture
async def session(redis: RedisServer, roles: Roles, pipe: AsyncPipe) -> tuple[str, ScriptedProducer]:
    """A session, and its model, whose text the test writes."""
    roles.ready("aggregator")
    roles.ready("consumers.decipher")
    opening, speaker = opening_of("test:speaker"), ScriptedProducer(redis, "test:speaker")
    await open_session(pipe, opening)
    speaker.take(opening.session)
    return opening.session, speaker


async def all_of(client: Client, web: WebServer, session: str, last_id: str = "") -> list[tuple[str, Event]]:
    return [pair async for pair in server_sent_events(client, web, session, last_id)]


async def until_composed(pipe: AsyncPipe, session: str) -> None:
    await until_ended(pipe, session)

    async def is_over() -> bool:
        return (await find_composed(pipe, session)).is_over

    await until(is_over, "all events are composed")


async def test_every_event_comes_once_with_its_id_and_the_response_ends_with_the_session(
    web: WebServer, client: Client, pipe: AsyncPipe, session: tuple[str, ScriptedProducer]
) -> None:
    name, speaker = session
    speaker.say("The sky")
    reader = EventStreamClient(client, web, name)
    reading = asyncio.create_task(reader.read())
    await all_receive(reader)
    speaker.say(" is\nblue")
    await all_receive(reader)
    speaker.finish()
    await reading
    assert reader.breaks == 0
    assert reader.entries == await client_events_of(pipe, name)
    assert texts_by_model([event for _, event in reader.entries]) == {"test-speaker": "The sky is\nblue"}
    # After the end all events are still kept.
    assert await all_of(client, web, name) == reader.entries


async def test_last_event_id_continues_after_any_event(
    web: WebServer, client: Client, pipe: AsyncPipe, session: tuple[str, ScriptedProducer]
) -> None:
    """Also after an event in the middle of a window; after the last one the response is 204."""
    name, speaker = session
    speaker.say("one")
    speaker.finish()
    await until_composed(pipe, name)
    events = await client_events_of(pipe, name)
    assert [type(event) for _, event in events[-3:]] == [TokenStream, EnergyUpdate, EnergyField]
    for index, (entry_id, _) in enumerate(events):
        assert await all_of(client, web, name, entry_id) == events[index + 1 :]
    headers = {"Last-Event-ID": events[-1][0]}
    async with client.get(f"{web.http}/api/sessions/{name}/events", headers=headers) as answer:
        assert (answer.status, await answer.read()) == (204, b"")


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
async def test_curl_reads_the_events_over_both_http_versions(
    web: WebServer, pipe: AsyncPipe, session: tuple[str, ScriptedProducer], client: Client
) -> None:
    """HTTP/1.1 in chunks and HTTP/1.0 up to the end of the connection return the same lines."""
    name, speaker = session
    speaker.say("one")
    commands = [
        asyncio.create_task(
            asyncio.to_thread(
                subprocess.run,
                ["curl", "--silent", "--no-buffer", version, f"{web.http}/api/sessions/{name}/events"],
                capture_output=True, timeout=60, check=True,
            )
        )
        for version in ("--http1.1", "--http1.0")
    ]  # fmt: skip
    reader = EventStreamClient(client, web, name)
    reading = asyncio.create_task(reader.read())
    await all_receive(reader)
    speaker.say(", two")
    await all_receive(reader)
    speaker.finish()
    await reading
    modern, old = [(await command).stdout.decode() for command in commands]
    assert modern == old
    lines = modern.splitlines()
    assert lines[0].startswith("id: 1-0")
    assert lines[1] == "event: energy_update"
    assert [line.removeprefix("id: ") for line in lines if line.startswith("id: ")] == [i for i, _ in reader.entries]


async def test_proxies_are_asked_not_to_hold_events_back(
    web: WebServer, session: tuple[str, ScriptedProducer], client: Client
) -> None:
    async with client.get(f"{web.http}/api/sessions/{session[0]}/events") as response:
        assert response.headers["X-Accel-Buffering"] == "no"
    async with client.get(f"{web.http}/api/sessions") as response:
        assert "X-Accel-Buffering" not in response.headers


async def test_a_comment_reports_that_the_first_events_are_no_longer_kept(
    redis: RedisServer, web: WebServer, client: Client, pipe: AsyncPipe, session: tuple[str, ScriptedProducer]
) -> None:
    name, speaker = session
    speaker.say("one")
    speaker.finish()
    await until_composed(pipe, name)
    redis.run("XTRIM", keys.events(name), "MAXLEN", "=", "1")
    async with client.get(f"{web.http}/api/sessions/{name}/events") as answer:
        first = (await answer.text()).splitlines()[0]
    assert first == ": the first events are no longer kept; GET /api/sessions/ID returns the whole text"


async def test_a_web_server_that_stops_does_not_end_the_response_as_complete(
    web: WebServer, client: Client, session: tuple[str, ScriptedProducer]
) -> None:
    name, speaker = session
    speaker.say("one")
    found: list[Any] = []

    async def read() -> None:
        async for pair in server_sent_events(client, web, name):
            found.append(pair)  # noqa: PERF401  # the test reads it while it grows

    reading = asyncio.create_task(read())

    async def has_begun() -> bool:
        return any(isinstance(event, EnergyUpdate) for _, event in found)

    await until(has_begun, "the response begins")
    assert await asyncio.to_thread(web.end) < 2.0
    with pytest.raises(aiohttp.ClientError):
        await reading


REFUSED_IDS = ["x", "1", "1-", "-1", "1-1-1", "1-x", f"{2**64}-0", "9" * 50, "٣-0"]


async def test_invalid_requests_are_refused(
    web: WebServer, client: Client, session: tuple[str, ScriptedProducer]
) -> None:
    name, _ = session
    for entry_id in REFUSED_IDS:
        headers = {"Last-Event-ID": entry_id}
        async with client.get(f"{web.http}/api/sessions/{name}/events", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_last_event_id"), entry_id
    for address, status, code in ((f"{name}/events?after=1", 400, "bad_request"), ("abc/events", 404, "session_gone")):
        async with client.get(f"{web.http}/api/sessions/{address}") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
