"""The HTTP API for sessions and the council, checked against its OpenAPI document."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from openapi_spec_validator import validate

from schemas import keys
from schemas.events import protocol_model_ids
from schemas.frames import decode_frame
from schemas.grid import NS_PER_MS, next_grid_point_ns
from schemas.keys import entry_ms
from tests.support.openapi_client import DescribedApi
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer, offer_aggregator
from tests.support.sessions import committed_frames, until_ended
from tests.support.waiting import until
from tests.support.web_server import CHAR, WORD, WebServer, record_of, watch
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

QUICK = ("--tokens-per-s", "200")
SLOW = ("--tokens-per-s", "12")


@pytest.fixture
async def api(web: WebServer, client: aiohttp.ClientSession) -> DescribedApi:
    return await DescribedApi.read(client, web.http)


async def ask(api: DescribedApi, **request: Any) -> str:
    body = {"prompt": "What is a list?", "seed": 7, "models": [WORD, CHAR]} | request
    return str((await api.ask("POST", "/api/sessions", 201, json=body))["session"])


# --- showing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["step", "free"])
async def test_a_session_at_any_window_has_the_text_of_all_frames_up_to_it(
    redis: RedisServer, roles: Roles, api: DescribedApi, pipe: AsyncPipe, sync: str
) -> None:
    for role in (["aggregator"], ["consumers.decipher"], ["producers", WORD, *QUICK], ["producers", CHAR, *QUICK]):
        roles.ready(*role)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "What is a list?"},
    ]
    body = {"messages": messages, "models": [WORD, CHAR], "max_tokens": 40, "weights": {WORD: 2}, "sync": sync}
    opened = await api.ask("POST", "/api/sessions", 201, json=body)
    session = opened["session"]
    state = await until_ended(pipe, session)
    frames = [decode_frame(raw) for _, raw in await committed_frames(pipe, session)]
    texts = ["", ""]
    for frame in frames:
        texts = [text + member.text for text, member in zip(texts, frame.members, strict=True)]
        if frame.window_index % 7 == 0 or frame.final or any(member.text for member in frame.members):
            shown = await api.ask("GET", f"/api/sessions/{session}?window_index={frame.window_index}", 200)
            assert [member["text"] for member in shown["members"]] == texts
            states = [(m["state"], m["position_bytes"], m["reason"]) for m in shown["members"]]
            assert states == [(m.state, m.position_bytes, m.reason) for m in frame.members]
            assert (shown["window_index"], shown["final"]) == (frame.window_index, frame.final)
    assert all(texts)

    async def drained() -> dict[str, Any] | None:
        found: dict[str, Any] = await api.ask("GET", f"/api/sessions/{session}", 200)
        return found if found["phase"] == "DRAINED" else None

    newest = await until(drained, "DECIPHER has composed the end")
    members = newest.pop("members")
    assert [(m["model"], m["id"], m["weight"], m["text"]) for m in members] == [
        (WORD, protocol_model_ids((WORD, CHAR))[0], 2.0, texts[0]),
        (CHAR, protocol_model_ids((WORD, CHAR))[1], 1.0, texts[1]),
    ]
    opened_ms = entry_ms(state.opened)
    assert newest == {
        "session": session, "status": "ended", "phase": "DRAINED", "reason": None, "opened_ms": opened_ms,
        "replay_of": None, "recording": None, "recorded_ms": None,
        "origin_ns": str(next_grid_point_ns(opened_ms * NS_PER_MS)), "window_index": len(frames) - 1, "final": True,
        "tier": "mid", "sync": sync, "weighting": "fixed", "prompt": "What is a list?", "system": "Be brief.",
        "history": messages[1:3], "prefix": "", "parent": None, "branches": [], "agreed": None,
    }  # fmt: skip


async def test_a_session_is_shown_before_its_first_frame(redis: RedisServer, api: DescribedApi) -> None:
    ScriptedProducer(redis, "here").offer()
    offer_aggregator(redis)
    session = await ask(api, models=["here"])
    shown = await api.ask("GET", f"/api/sessions/{session}", 200)
    (member,) = shown["members"]
    assert (shown["window_index"], shown["final"], shown["phase"]) == (-1, False, None)
    assert (member["state"], member["text"], member["position_bytes"]) == (None, "", 0)


async def test_thinking_is_returned_beside_the_answer(
    redis: RedisServer, roles: Roles, api: DescribedApi, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    speaker = ScriptedProducer(redis, "thinker")
    speaker.offer()
    session = await ask(api, models=["thinker"])
    speaker.take(session)
    speaker.say("Let me see. ", lane="thinking")
    speaker.say("A list")
    speaker.say(" is a row.")
    speaker.finish()
    await until_ended(pipe, session)
    (member,) = (await api.ask("GET", f"/api/sessions/{session}", 200))["members"]
    assert (member["text"], member["thinking"], member["state"]) == ("A list is a row.", "Let me see. ", "finished")


async def test_an_unknown_or_invalid_window_is_refused(redis: RedisServer, api: DescribedApi) -> None:
    recorder = FrameWriter(redis)
    recorder.write(3)
    path = f"/api/sessions/{recorder.session}?window_index"
    assert (await api.ask("GET", f"{path}=2", 200))["window_index"] == 2
    assert (await api.ask("GET", f"{path}=3", 404))["error"]["code"] == "no_window"
    for wrong in ("-1", "x", "1.0", "9" * 40, ""):
        refused = (await api.ask("GET", f"{path}={wrong}", 400))["error"]
        assert refused["code"] == "bad_window_index"
        assert refused["message"].endswith("give a window's index, a whole number from 0 to 999999999999999.")
    assert (await api.ask("GET", "/api/sessions/none", 404))["error"]["code"] == "session_gone"


# --- cancelling and deleting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["1", quote(CHAR, safe=""), protocol_model_ids((CHAR,))[0]])
async def test_one_member_is_cancelled_and_the_others_continue(
    redis: RedisServer, roles: Roles, web: WebServer, api: DescribedApi, pipe: AsyncPipe, member: str
) -> None:
    for role in (["aggregator"], ["producers", WORD, *SLOW], ["producers", CHAR, *SLOW]):
        roles.ready(*role)
    session = await ask(api, max_tokens=25)

    async def begun() -> bool:
        shown = await api.ask("GET", f"/api/sessions/{session}", 200)
        return all(shown_member["text"] for shown_member in shown["members"])

    await until(begun, "both members write")
    path = f"/api/sessions/{session}/members"
    cancelled = await api.ask("POST", f"{path}/{member}/cancel", 202)
    assert cancelled == {"session": session, "status": "open", "members": [1]}
    await until_ended(pipe, session)
    word, char = (await api.ask("GET", f"/api/sessions/{session}", 200))["members"]
    assert (word["state"], char["state"], char["reason"]) == ("finished", "dropped", "cancelled")
    assert char["text"]
    counts = [progress.next_seq for progress in (await find_session(pipe, session)).progress]
    assert counts[0] == 25 > counts[1]
    again = await api.ask("POST", f"{path}/0/cancel", 202)
    assert again == {"session": session, "status": "ended", "members": [0]}
    refused = (await api.ask("POST", f"{path}/2/cancel", 404))["error"]
    assert refused["code"] == "unknown_member"
    assert f"members: 0 {WORD}, 1 {CHAR}." in refused["message"]


async def test_a_session_is_deleted_when_it_has_ended(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, api: DescribedApi, pipe: AsyncPipe
) -> None:
    roles.ready("aggregator")
    speaker = ScriptedProducer(redis, "here")
    speaker.offer()
    session = await ask(api, models=["here"])
    path = f"/api/sessions/{session}"
    refused = (await api.ask("DELETE", path, 409))["error"]
    assert refused == {
        "code": "session_open",
        "message": f"The session '{session}' is open: cancel it, and delete it after its end.",
    }
    speaker.take(session)
    speaker.say("Secret.")
    assert (await api.ask("POST", f"{path}/cancel", 202))["status"] == "open"
    await until_ended(pipe, session)
    assert (await api.ask("GET", path, 200))["members"][0]["text"] == "Secret."
    assert await api.ask("DELETE", path, 204) is None
    assert [key for key in keys.of_session(session) if redis.run("EXISTS", key)] == []
    for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/cancel"), ("GET", f"{path}/tokens")):
        assert (await api.ask(method, where, 404))["error"]["code"] == "session_gone"
    assert (await api.ask("GET", "/api/sessions", 200))["sessions"] == []
    with pytest.raises(aiohttp.WSServerHandshakeError) as gone:
        await watch(client, web, session)
    assert gone.value.status == 404


async def test_deleting_a_session_leaves_its_sockets_open_and_stops_no_process(
    redis: RedisServer, roles: Roles, web: WebServer, client: aiohttp.ClientSession, api: DescribedApi, pipe: AsyncPipe
) -> None:
    """`/ws` stays open after a session's end, also when the session is deleted then."""
    for role in (["aggregator"], ["consumers.decipher"]):
        roles.ready(*role)
    speaker = ScriptedProducer(redis, "here")
    speaker.offer()
    session = await ask(api, models=["here"])
    speaker.take(session)
    speaker.say("Hello.")
    async with client.ws_connect(f"{web.http}/ws?session={session}") as socket:
        speaker.finish()
        await until_ended(pipe, session)
        await api.ask("DELETE", f"/api/sessions/{session}", 204)
        kinds = []
        while kinds.count("heartbeat") < 2 and not socket.closed:
            message = await socket.receive(10)
            kinds += [json.loads(message.data)["type"]] if message.type is aiohttp.WSMsgType.TEXT else ["closed"]
    assert kinds[0] == "startup_complete"
    assert roles.start("aggregator").wait_ready()
    assert web.process.poll() is None


async def test_an_old_session_is_listed_behind_many_that_have_expired(redis: RedisServer, api: DescribedApi) -> None:
    recorder = FrameWriter(redis)
    recorder.announce()
    for number in range(450):
        redis.run("XADD", keys.SESSIONS, "*", keys.SESSION_FIELD, f"gone-{number}")
    (listed,) = (await api.ask("GET", "/api/sessions", 200))["sessions"]
    assert listed["session"] == recorder.session


# --- the council itself ----------------------------------------------------------------------------------------------


async def test_the_status_reports_losses_cursors_and_lag_and_no_secret(
    redis: RedisServer, roles: Roles, web: WebServer, api: DescribedApi, pipe: AsyncPipe
) -> None:
    for role in (["aggregator"], ["consumers.decipher"]):
        roles.ready(*role)
    ScriptedProducer(redis, "here").offer()
    session = await ask(api, models=["here"])

    async def with_windows() -> dict[str, Any] | None:
        found: dict[str, Any] = await api.ask("GET", "/api/status", 200)
        by_role = {process["role"]: process for process in found["processes"]}
        is_reported = by_role["aggregator"].get("windows", 0) > 0 and "frames" in by_role["decipher"]
        return found if is_reported else None

    status = await until(with_windows, "the aggregator and DECIPHER have reported their work")
    assert redis.url.removeprefix("unix://") not in json.dumps(status)
    by_role = {process["role"]: process for process in status["processes"]}
    assert set(by_role) == {"aggregator", "decipher", "producer", "web"}
    assert by_role["aggregator"]["windows_late"] >= 0
    assert {"frames", "frames_without_analysis", "frames_batched", "frames_overrun"} <= set(by_role["decipher"])
    losses = {"frames_merged", "clients_too_slow", "clients_refused", "connections_refused", "events_left_out"}
    assert losses <= set(by_role["web"])
    (cursors,) = status["sessions"]
    assert (cursors["session"], cursors["epoch"]) == (session, 1)
    assert cursors["window_index"] >= 0
    assert cursors["aggregator_lag"] < 60
    assert status["redis"]["used_memory_bytes"] > 0


async def test_ready_means_that_a_session_would_be_answered(
    redis: RedisServer, roles: Roles, web: WebServer, api: DescribedApi
) -> None:
    async def missing() -> str:
        return str((await api.ask("GET", "/readyz", 503))["error"]["message"])

    message = await missing()
    assert message.startswith("The council is not ready: no model is served (start one with python -m producers), ")
    assert "no aggregator runs" in message
    assert "no DECIPHER runs" in message
    aggregator = roles.ready("aggregator")
    roles.ready("consumers.decipher")
    ScriptedProducer(redis, "here").offer()
    assert await api.ask("GET", "/readyz", 200) == {"ready": True}
    assert aggregator.end() == 0
    ScriptedProducer(redis, "here").offer()
    assert await missing() == "The council is not ready: no aggregator runs (start one with python -m aggregator)."
    redis.kill()
    try:
        assert (await api.ask("GET", "/readyz", 503))["error"]["code"] == "redis_away"
        assert await api.ask("GET", "/healthz", 200) == {"ok": True}
    finally:
        redis.start()


async def test_the_openapi_document_is_valid_and_describes_every_operation(
    redis: RedisServer, roles: Roles, web: WebServer, api: DescribedApi
) -> None:
    """Every operation is called once; each response is checked against the document."""
    validate(api.document)
    roles.ready("aggregator")
    ScriptedProducer(redis, "here").offer()
    session = await ask(api, models=["here"])
    path = f"/api/sessions/{session}"
    await api.ask("GET", path, 200)
    await api.ask("GET", f"{path}/tokens?member=0", 200)
    await api.ask("GET", f"{path}/tokens?form=0", 400)
    await api.ask("GET", "/api/sessions", 200)
    await api.ask("POST", "/api/sessions", 415, data=b"x")
    await api.ask("POST", "/api/models/here/load", 409)
    await api.ask("POST", "/api/models/here/unload", 409)
    await api.ask("GET", "/api/models", 200)
    await api.ask("GET", "/api/status", 200)
    version = await api.ask("GET", "/api/version", 200)
    assert api.document["info"]["version"] == version["version"]
    await api.ask("GET", "/api/recordings", 200)
    await api.ask("POST", "/api/recordings", 415, json={})
    for method, rest in [("GET", ""), ("GET", "/file"), ("PUT", "/star"), ("DELETE", "/star"), ("DELETE", "")]:
        await api.ask(method, f"/api/recordings/none.mcap{rest}", 404)
    await api.ask("GET", "/api/recordings/none.mcap/difference?other=x.mcap", 404)
    await api.ask("POST", "/api/recordings/none.mcap/replay", 415)
    await api.ask("POST", "/api/recordings/none.mcap/what-if", 404, json={"say": "No", "at": 0})
    await api.ask("POST", f"{path}/what-if", 400, json={"say": "No"})
    await api.ask("GET", f"{path}/effect", 409)
    await api.ask("POST", f"{path}/keep", 503)
    await api.ask("GET", f"{path}/playback", 409)
    await api.ask("POST", f"{path}/playback", 415)
    await api.ask("GET", "/api/openapi.json", 200)
    assert (await api.ask("GET", "/api/asyncapi.json", 200))["asyncapi"] == "3.0.0"
    await api.ask("GET", "/healthz", 200)
    await api.ask("GET", "/readyz", 503)
    # Before it is cancelled: it ends within a window.
    await api.ask("DELETE", path, 409)
    await api.ask("POST", f"{path}/members/here/cancel", 202)
    await api.ask("POST", f"{path}/cancel", 202)
    called = {(method, path) for method, path, _ in api.seen}
    described = {(method.upper(), path) for path, operations in api.document["paths"].items() for method in operations}
    # The Server-Sent Events have tests of their own.
    assert described - called == {("GET", "/api/sessions/{session}/events")}
    assert (record := record_of(redis, web)) is not None
    assert record.ready
