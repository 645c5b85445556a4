"""`/ws`: the real-time protocol, on real sockets of the real process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from consumers.web.live.protocol_client import ROUND
from schemas import keys
from schemas.events import EnergyField, EnergyUpdate, Heartbeat, ProtocolMessage, StartupComplete, TokenStream
from schemas.frames import decode_frame
from schemas.grid import window_index_at
from schemas.sessions import Limits, Replay
from tests.support.live_clients import (
    EventStreamClient,
    FramesClient,
    ProtocolClient,
    all_receive,
    energies,
    messages_until,
    text_ends_with,
    text_of,
)
from tests.support.protocol import checked, numbers_of, texts_by_model, without_end
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.sessions import committed_frames, opening_of, until_ended
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.events import find_composed
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, find_session, open_session

Client = aiohttp.ClientSession


@pytest.fixture
def speaker(redis: RedisServer, roles: Roles) -> ScriptedProducer:
    """A model whose text the test writes, an aggregator and DECIPHER."""
    roles.ready("aggregator")
    roles.ready("consumers.decipher")
    return ScriptedProducer(redis, "test:speaker")


async def begun(pipe: AsyncPipe, speaker: ScriptedProducer, text: str = "") -> str:
    """A session that the speaker has claimed, and in which it has written this text."""
    # The speaker writes nothing while the test does something else, which takes long on a busy machine.
    opening = opening_of(speaker.model, limits=Limits(beats_without_entry=60))
    await open_session(pipe, opening)
    speaker.take(opening.session)
    if text:
        speaker.say(text)
    return opening.session


@contextlib.asynccontextmanager
async def connected(client: Client, web: WebServer, query: str = "") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A socket that has received startup_complete."""
    async with client.ws_connect(f"{web.http}/ws{query}") as socket:
        first = checked(await text_of(socket))
        assert isinstance(first, StartupComplete)
        yield socket


async def test_startup_complete_comes_first_and_heartbeats_at_least_every_second(
    web: WebServer, client: Client
) -> None:
    async with client.ws_connect(f"{web.http}/ws") as socket:
        first = checked(await text_of(socket))
        assert isinstance(first, StartupComplete)
        assert (first.payload.model, first.payload.tier, first.payload.frameRate) == ("ensemble", "Mid-Tier", 60)
        assert first.payload.capabilities == ("council", "turbo", "visualization")
        heartbeats = [checked(await text_of(socket)) for _ in range(3)]
    assert all(isinstance(heartbeat, Heartbeat) for heartbeat in heartbeats)
    assert [heartbeat.payload.sequence for heartbeat in heartbeats] == [0, 1, 2]  # type: ignore[union-attr]
    assert {heartbeat.payload.frameRate for heartbeat in heartbeats} == {0.0}  # type: ignore[union-attr]
    assert len({heartbeat.payload.connectionId for heartbeat in heartbeats}) == 1  # type: ignore[union-attr]
    times = [first.timestamp, *(heartbeat.timestamp for heartbeat in heartbeats)]
    # Times are the server's own; on a busy machine a timer may fire late.
    assert all(800 < later - earlier < 1_500 for earlier, later in pairwise(times))


async def test_a_client_from_the_beginning_receives_every_frame(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer
) -> None:
    session = await begun(pipe, speaker)
    reader, frames = ProtocolClient(client, web, session, 1), FramesClient(client, web, session)
    reading = asyncio.gather(reader.read(), frames.read())
    await all_receive(reader)
    for word in ("The", " sky", " is", " blue"):
        speaker.say(word)
        await all_receive(reader)
    speaker.finish()
    await reading
    state = await until_ended(pipe, session)
    first = window_index_at(state.origin_ns)
    received = energies(reader.events)
    assert {number - first: energy for number, energy in received.items()} == {
        frame["window_index"]: frame["energy"]
        for frame in frames.frames
        if frame["window_index"] + first >= min(received)
    }
    assert texts_by_model(reader.events) == {"test-speaker": "The sky is blue"}
    assert numbers_of(reader.events) == sorted(numbers_of(reader.events))


async def test_a_later_client_receives_the_text_so_far_and_the_current_state(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer
) -> None:
    session = await begun(pipe, speaker, "\n The sky")
    async with connected(client, web, f"?session={session}") as early:
        await messages_until(early, text_ends_with("The sky"))
        speaker.say(" is", "thinking")
        speaker.say(" is b")
        await messages_until(early, text_ends_with(" is b"))
        async with connected(client, web, f"?session={session}") as late:
            energy, *found = await messages_until(late, text_ends_with("b"))
            assert isinstance(energy, EnergyUpdate)
            assert (energy.payload.deltaEnergy, energy.payload.tokensGenerated) == (0.0, 0)
            assert energy.payload.totalEnergy > 0
            assert texts_by_model(found) == {"test-speaker": "\n The sky is b"}
            assert [type(message).__name__ for message in found[:2]] == ["EnergyField", "TokenStream"]
            speaker.say("lue")
            rest = await messages_until(late, text_ends_with("lue"))
            assert texts_by_model(rest) == {"test-speaker": "lue"}
            numbers = numbers_of([energy, *found, *rest])
            assert numbers == sorted(numbers)
    speaker.finish()
    await until_ended(pipe, session)
    # A client that connects after the end receives the whole text and isComplete.
    async with connected(client, web, f"?session={session}") as last:
        found = await messages_until(last, text_ends_with("lue"))
        assert texts_by_model(found) == {"test-speaker": "\n The sky is blue"}
        assert found[-1].payload.isComplete  # type: ignore[union-attr]
        assert isinstance(checked(await text_of(last)), Heartbeat)


async def test_a_client_that_reconnects_receives_what_it_missed_and_nothing_twice(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer
) -> None:
    session = await begun(pipe, speaker, "one")
    async with connected(client, web, f"?session={session}") as socket:
        received = await messages_until(socket, text_ends_with("one"))
    seen = numbers_of(received)[-1]
    async with connected(client, web, f"?session={session}") as other:
        await messages_until(other, text_ends_with("one"))
        speaker.say(", two")
        await messages_until(other, text_ends_with(", two"))
    async with connected(client, web, f"?session={session}&after={seen}") as socket:
        missed = await messages_until(socket, text_ends_with(", two"))
        assert texts_by_model(missed) == {"test-speaker": ", two"}
        assert min(numbers_of(missed)) > seen
        speaker.say(", three")
        rest = await messages_until(socket, text_ends_with(", three"))
        assert texts_by_model(rest) == {"test-speaker": ", three"}
    speaker.finish()
    state = await until_ended(pipe, session)
    # With a number before the session all is new; after its last frame its end follows, and after that a heartbeat.
    async with connected(client, web, f"?session={session}&after=0") as socket:
        assert texts_by_model(await messages_until(socket, text_ends_with("three"))) == {
            "test-speaker": "one, two, three"
        }
    last = window_index_at(state.origin_ns) + state.window
    async with connected(client, web, f"?session={session}&after={last}") as socket:
        end = await messages_until(socket, lambda found: len(found) == 3)
        assert [type(message) for message in end] == [EnergyUpdate, EnergyField, Heartbeat]
        assert numbers_of(end) == [last + 1] * 2
    async with connected(client, web, f"?session={session}&after={last + 1}") as socket:
        assert isinstance(checked(await text_of(socket)), Heartbeat)


async def test_without_a_session_a_client_watches_the_newest_live_one_and_then_the_next(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer, redis: RedisServer
) -> None:
    """nothing runs | first | second, while the first goes on | the second ends: the first again | it ends | third"""
    other, third = ScriptedProducer(redis, "test:other"), ScriptedProducer(redis, "test:third")
    received: list[ProtocolMessage] = []

    async def sessions_of(socket: aiohttp.ClientWebSocketResponse, text: str) -> set[str]:
        """The sessions of all texts up to this one."""
        found = await messages_until(socket, text_ends_with(text))
        received.extend(found)
        texts = [message.payload for message in found if isinstance(message, TokenStream) and message.payload.tokens]
        return {payload.sessionId for payload in texts}

    async with connected(client, web) as socket:
        assert isinstance(checked(await text_of(socket)), Heartbeat)
        first = await begun(pipe, speaker, "first")
        assert await sessions_of(socket, "first") == {first}
        second = await begun(pipe, other, "second")
        assert await sessions_of(socket, "second") == {second}
        speaker.say(", unseen")
        other.say(" ends")
        other.finish()
        assert await sessions_of(socket, " ends") == {second}
        # The whole text of the first session: the client did not receive what was written meanwhile.
        assert await sessions_of(socket, "first, unseen") == {first}
        speaker.finish()
        await until_ended(pipe, first)
        assert await receive_heartbeat(socket)
        latest = await begun(pipe, third, "third")
        assert await sessions_of(socket, "third") == {latest}
        # About 60 Hz while a session runs, and 0 after it.
        await until_frame_rate(socket, 30.0, 90.0)
        third.finish()
        await until_frame_rate(socket, 0.0, 0.0)
    numbers = numbers_of(received)
    assert numbers == sorted(numbers)


async def test_a_client_without_a_session_first_receives_the_rest_of_the_one_that_it_watched(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer, redis: RedisServer
) -> None:
    """first | outage: first goes on, second | first to its end, then second | outage: second ends | its rest, third"""
    other, third = ScriptedProducer(redis, "test:other"), ScriptedProducer(redis, "test:third")
    await begun(pipe, speaker, "first")
    async with connected(client, web) as socket:
        received = await messages_until(socket, text_ends_with("first"))
    speaker.say(", missed")
    second = await begun(pipe, other, "second")
    async with connected(client, web, f"?after={numbers_of(received)[-1]}") as socket:
        received += await messages_until(socket, text_ends_with(", missed"))
        speaker.say(", the end")
        speaker.finish()
        received += await messages_until(socket, text_ends_with("second"))
    assert texts_by_model(received) == {"test-speaker": "first, missed, the end", "test-other": "second"}
    other.say(", missed")
    other.finish()
    await until_ended(pipe, second)
    await begun(pipe, third, "third")
    async with connected(client, web, f"?after={numbers_of(received)[-1]}") as socket:
        received += await messages_until(socket, text_ends_with("third"))
    # Of the second session only what followed: it had ended before the client was back.
    assert texts_by_model(received) == {
        "test-speaker": "first, missed, the end",
        "test-other": "second, missed",
        "test-third": "third",
    }
    assert numbers_of(received) == sorted(numbers_of(received))
    ended = [message.payload.modelId for message in received if getattr(message.payload, "isComplete", False)]
    assert ended == ["test-speaker", "test-other"]


async def test_frame_numbers_rise_from_a_replay_that_ran_ahead_to_the_next_session(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer, redis: RedisServer
) -> None:
    """a replay shows a minute in a moment | it ends | a live session, a minute behind | the client reconnects"""
    async with connected(client, web) as socket:
        # Its frames are recorded ones: the aggregator would compute others, and open the session again.
        replay = FrameWriter(redis, opened="1000000000000-0", replay=Replay("recorded", frames=True))
        replay.announce()
        replay.write(3_600, final=True)
        state = await find_session(pipe, replay.session)
        first = window_index_at(state.shown_origin_ns)
        received = await messages_until(socket, lambda found: first + 3_599 in numbers_of(found[-1:]))
        redis.run("HSET", keys.state(replay.session), "status", "ended")
        session = await begun(pipe, speaker, "live")
        received += await messages_until(socket, text_ends_with("live"))
        received += await messages_until(socket, lambda found: len(numbers_of(found)) > 60)
    numbers = numbers_of(received)
    assert numbers == sorted(numbers)
    assert numbers[0] >= first
    by_clock = window_index_at((await find_session(pipe, session)).origin_ns)
    assert by_clock <= numbers[-1] - ROUND <= by_clock + 600
    speaker.say(", more")
    async with connected(client, web, f"?after={numbers[-1]}") as socket:
        missed = await messages_until(socket, text_ends_with(", more"))
        missed += await messages_until(socket, lambda found: len(numbers_of(found)) > 3)
    assert texts_by_model(missed) == {"test-speaker": ", more"}
    assert numbers_of(missed) == sorted(numbers_of(missed))
    assert min(numbers_of(missed)) > numbers[-1]
    # The last number of the replay is not one of this session: the client receives all of its text.
    async with connected(client, web, f"?after={first + 3_599}") as socket:
        missed = await messages_until(socket, text_ends_with(", more"))
        missed += await messages_until(socket, lambda found: len(numbers_of(found)) > 3)
    assert texts_by_model(missed) == {"test-speaker": "live, more"}
    assert min(numbers_of(missed)) > ROUND
    # A number of the next round: the session ends during the outage, and its rest comes before the newest session.
    speaker.say(", unseen")
    speaker.finish()
    await until_ended(pipe, session)
    third = ScriptedProducer(redis, "test:third")
    await begun(pipe, third, "third")
    async with connected(client, web, f"?after={numbers[-1]}") as socket:
        missed = await messages_until(socket, text_ends_with("third"))
    assert texts_by_model(missed) == {"test-speaker": ", more, unseen", "test-third": "third"}
    assert numbers[-1] < min(numbers_of(missed))
    assert numbers_of(missed) == sorted(numbers_of(missed))


async def test_a_client_receives_the_state_of_a_session_that_is_just_behind_the_one_before(
    web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer, redis: RedisServer
) -> None:
    """live | a replay shows 1.7 s in a moment, and ends | live again, whose numbers are behind"""
    await begun(pipe, speaker, "live")
    async with connected(client, web) as socket:
        await messages_until(socket, text_ends_with("live"))
        replay = FrameWriter(redis, opened="1000000000000-0", replay=Replay("recorded", frames=True))
        replay.announce()
        replay.write(100, final=True)
        last = window_index_at((await find_session(pipe, replay.session)).shown_origin_ns) + 100
        await messages_until(socket, lambda found: last in numbers_of(found[-1:]))
        redis.run("HSET", keys.state(replay.session), "status", "ended")
        found = await messages_until(socket, text_ends_with("live"))
    assert [type(message) for message in found[-3:]] == [EnergyUpdate, EnergyField, TokenStream]
    assert numbers_of(found[-3:-1]) > [last] * 2


async def test_a_client_of_an_ended_session_is_not_set_back_by_event_streams_that_have_its_end(
    web: WebServer, client: Client, roles: Roles, redis: RedisServer, pipe: AsyncPipe
) -> None:
    """An event stream that has the last events shares its feed, which begins behind them, with the sockets."""
    roles.ready("consumers.decipher")
    ended = FrameWriter(redis)
    ended.announce()
    ended.write(2, final=True)
    redis.run("HSET", keys.state(ended.session), "status", "ended")
    stream = f"{web.http}/api/sessions/{ended.session}/events"

    async def is_composed() -> bool:
        return (await find_composed(pipe, ended.session)).is_over

    await until(is_composed, "the last events are composed")

    async def follow() -> str:
        async with client.get(stream) as answer:
            return await answer.text()

    async def watch() -> None:
        async with connected(client, web, f"?session={ended.session}") as socket:
            assert isinstance(checked(await text_of(socket)), EnergyUpdate)

    for _ in range(4):
        await asyncio.gather(*(one() for _ in range(12) for one in (follow, watch)))


async def receive_heartbeat(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Waits for the next heartbeat, whatever comes before it."""
    while not isinstance(checked(await text_of(socket)), Heartbeat):
        pass
    return True


async def until_frame_rate(socket: aiohttp.ClientWebSocketResponse, least: float, most: float) -> None:
    """Waits for a heartbeat with a frame rate in this range."""
    async with asyncio.timeout(30):
        while True:
            message = checked(await text_of(socket))
            if isinstance(message, Heartbeat) and least <= float(message.payload.frameRate or 0) <= most:
                return


REFUSALS = [
    ("?session=abc", 404, "session_gone"),
    ("?session=", 404, "session_gone"),
    ("?sesion=abc", 400, "bad_request"),
    ("?session={session}&session={session}", 400, "bad_request"),
    ("?session={session}&after=x", 400, "bad_after"),
    ("?session={session}&after=-1", 400, "bad_after"),
    ("?session={session}&after=" + "9" * 16, 400, "bad_after"),
]


async def test_refusals_come_before_the_upgrade(redis: RedisServer, web: WebServer, client: Client) -> None:
    recorder = FrameWriter(redis)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    for query, status, code in REFUSALS:
        async with client.get(f"{web.http}/ws{query.format(session=recorder.session)}", headers=upgrade) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (status, code), query
    async with client.get(f"{web.http}/ws") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (426, "no_websocket")


async def test_reconnecting_with_a_frame_that_is_no_longer_kept_is_refused(
    redis: RedisServer, web: WebServer, client: Client, pipe: AsyncPipe, speaker: ScriptedProducer
) -> None:
    session = await begun(pipe, speaker, "one")
    async with connected(client, web, f"?session={session}") as socket:
        seen = numbers_of(await messages_until(socket, lambda found: len(numbers_of(found)) > 10))[0]
    redis.run("XTRIM", f"council:{{{session}}}:frames", "MAXLEN", "=", "1")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await client.ws_connect(f"{web.http}/ws?session={session}&after={seen}")
    assert refusal.value.status == 410


async def test_messages_of_a_client_are_ignored_unless_they_are_too_large_or_not_utf_8(
    web: WebServer, client: Client
) -> None:
    async with connected(client, web) as socket:
        for text in ('{"type":"prompt","payload":{"text":"never"}}', "\x00", "[]", "{"):
            await socket.send_str(text)
        await socket.send_bytes(b"\xff\xfe" * 100)
        assert await receive_heartbeat(socket)
        await socket.send_str("x" * 2_000)
        while (message := await socket.receive(5)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.data == 1009
    async with connected(client, web) as socket:
        await socket._writer.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)  # type: ignore[attr-defined]
        while (message := await socket.receive(5)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.data == 1007


async def test_sigterm_closes_all_sockets_with_a_reason(web: WebServer, client: Client, redis: RedisServer) -> None:
    recorder = FrameWriter(redis)
    async with connected(client, web) as idle, connected(client, web, f"?session={recorder.session}") as watching:
        ending = asyncio.create_task(asyncio.to_thread(web.end))
        for socket in (idle, watching):
            while (message := await socket.receive(5)).type is aiohttp.WSMsgType.TEXT:
                pass
            assert (message.data, message.extra) == (1001, "The web server stops: connect again in a moment.")
        assert await ending < 2.0


@pytest.fixture
def council(roles: Roles) -> tuple[Roles, Role]:
    """Two models at a human pace, an aggregator, and DECIPHER, which the test may kill."""
    roles.ready("aggregator")
    for model in ("word-3", "char-6"):
        roles.ready("producers", f"ngram:{model}", "--tokens-per-s", "30")
    return roles, roles.ready("consumers.decipher")


async def test_all_kinds_of_clients_receive_the_same_while_web_and_decipher_are_killed(
    web: WebServer, client: Client, pipe: AsyncPipe, council: tuple[Roles, Role]
) -> None:
    """Two clients of the protocol, one of frames, one of Server-Sent Events; kill -9 of the web, of DECIPHER, of both:
    all receive the same text and the same numbers, and no event twice.

    A client that reads too slowly receives merged frames, as on a busy machine. The text is whole in any case.
    """
    roles, decipher = council
    opening = opening_of("ngram:word-3", "ngram:char-6", max_tokens=2_000, temperature=0.0)
    await open_session(pipe, opening)
    session = opening.session
    protocols = [ProtocolClient(client, web, session, 2) for _ in range(2)]
    frames, stream = FramesClient(client, web, session), EventStreamClient(client, web, session)
    clients: tuple[Any, ...] = (*protocols, frames, stream)
    reading = asyncio.gather(*(reader.read() for reader in clients))
    await all_receive(*clients)
    web.kill()
    # In a thread, since the clients read meanwhile.
    await asyncio.to_thread(web.start)
    await all_receive(*clients)
    decipher.kill()
    decipher = await asyncio.to_thread(roles.ready, "consumers.decipher")
    await all_receive(*clients)
    web.kill()
    decipher.kill()
    roles.start("consumers.decipher")
    await asyncio.to_thread(web.start)
    await all_receive(*clients)
    await cancel_session(pipe, session)
    await reading
    state = await find_session(pipe, session)
    first = window_index_at(state.origin_ns)
    assert all(reader.breaks >= 2 for reader in clients)
    texts = ["".join(frame["members"][index]["text"] for frame in frames.frames) for index in (0, 1)]
    assert all(texts)
    entries = await committed_frames(pipe, session)
    committed = {first + window: decode_frame(raw).energy for window, (_, raw) in enumerate(entries)}
    assert len(committed) == state.window + 1
    windows = [frame["window_index"] for frame in frames.frames]
    assert windows == sorted(set(windows))
    assert {frame["window_index"] + first: frame["energy"] for frame in frames.frames}.items() <= committed.items()
    stream_events = without_end([event for _, event in stream.entries])
    ids = [entry_id for entry_id, _ in stream.entries]
    assert len(set(ids)) == len(ids)
    for events in (stream_events, *(reader.events for reader in protocols)):
        assert sorted(texts_by_model(events).values()) == sorted(texts)
        numbers = numbers_of(events)
        assert numbers == sorted(numbers)
        found = energies(events)
        # A client that reconnects after the session's end receives its last energy only.
        assert found.pop(first + state.window + 1, 0.0) == 0.0
        assert found.items() <= committed.items()
