"""The library over HTTP: recordings are listed, downloaded, starred, deleted, imported, compared, played and made."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from recordings.folder import Library
from schemas import keys
from schemas.control import Play, Playback, decode_control
from schemas.processes import Role
from schemas.sessions import Limits, Member
from tests.support.openapi_client import DescribedApi
from tests.support.recording_files import NAME, frames_of, write_golden
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer, offer_role
from tests.support.waiting import until
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration
from transport.replays import play
from transport.sessions import find_session, read_opening

OCTETS = {"Content-Type": "application/octet-stream"}
HOSTILE = '"><script>alert(1)</script> ../../etc'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


@pytest.fixture
def web(redis: RedisServer, folder: Path) -> Iterator[WebServer]:
    """The web process, with a library of its own."""
    found = WebServer(redis.url, "--recordings", str(folder))
    yield found
    found.close()


@pytest.fixture
async def api(web: WebServer, client: aiohttp.ClientSession) -> DescribedApi:
    return await DescribedApi.read(client, web.http)


def offer(redis: RedisServer, role: Role) -> None:
    """Registers a process of this role."""
    offer_role(redis, ProcessRegistration(role))


def library_of(folder: Path, count: int) -> list[str]:
    """Writes `count` recordings, a minute apart; returns their names, the newest first."""
    names = []
    for number in range(count):
        word = ["zero", "one", "two", "three", "four", "five", "six"][number]
        path = write_golden(folder, session=f"{number:012x}", prompt=f"Question {word}?")
        os.utime(path, (1_700_000_000 + 60 * number,) * 2)
        names.append(path.name)
    return names[::-1]


def files_in(folder: Path) -> list[str]:
    """The names of all files in the folder, also hidden ones."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def at(name: str, rest: str = "") -> str:
    return f"/api/recordings/{quote(name, safe='')}{rest}"


async def refused(api: DescribedApi, method: str, path: str, status: int, **options: Any) -> tuple[str, str]:
    """The code and the message of a refusal."""
    error = (await api.ask(method, path, status, **options))["error"]
    assert error["message"].endswith(".")
    assert "\n" not in error["message"]
    return error["code"], error["message"]


# --- the list --------------------------------------------------------------------------------------------------------


async def test_without_a_folder_the_library_is_empty(api: DescribedApi) -> None:
    assert await api.ask("GET", "/api/recordings", 200) == {"recordings": [], "next": None}


async def test_a_recording_is_listed_with_the_facts_of_its_file(folder: Path, api: DescribedApi) -> None:
    path = write_golden(folder)
    (listed,) = (await api.ask("GET", "/api/recordings", 200))["recordings"]
    frames = frames_of(NAME)
    modified_ms = path.stat().st_mtime_ns // 10**6
    assert listed == {
        "name": path.name, "session": "87d2af0705d0", "prompt_start": "What is a list?",
        "members": ["left", "right", "other"], "opened_ms": 1_795_379_952_394, "modified_ms": modified_ms,
        "duration_s": round(len(frames) / 60, 3), "windows": len(frames), "size_bytes": path.stat().st_size,
        "starred": False, "mean_agreement": 1.0, "agreement": [1.0, 1.0, 1.0], "diverged_at_bytes": None,
        "reason": None, "text": True, "tokens": [60, 60, 60], "tier": "mid", "problem": None,
    }  # fmt: skip
    shown = await api.ask("GET", at(path.name), 200)
    assert listed.items() <= shown.items()
    assert shown["recorded"]["prompt"] == "What is a list?"
    assert shown["recorded"]["members"][1] == {
        "model": "right", "name": "right", "weight": 1.0, "remote": False, "temperature": 0.0, "seed": None,
        "max_tokens": 60,
    }  # fmt: skip
    assert shown["outcome"]["states"] == ["finished"] * 3


async def test_every_recording_is_on_one_page_whatever_the_limit(folder: Path, api: DescribedApi) -> None:
    names = library_of(folder, 7)
    for size in (1, 2, 3, 7, 200):
        found, after = [], ""
        while after is not None:
            page = await api.ask("GET", f"/api/recordings?limit={size}{f'&after={quote(after)}' if after else ''}", 200)
            found += [one["name"] for one in page["recordings"]]
            after = page["next"]
        assert found == names


async def test_words_are_searched_in_prompts_members_and_file_names(folder: Path, api: DescribedApi) -> None:
    names = library_of(folder, 3)
    other = write_golden(folder, "seeds", session="f" * 12, prompt="Straße?").name
    for words, found in {
        "question one": [names[1]], "QUESTION": names, "strasse": [other], "seed-6": [other], "question seed": [],
        "left question two": [names[0]], "": [other, *names], "000000000001": [names[1]],
    }.items():  # fmt: skip
        page = await api.ask("GET", f"/api/recordings?words={quote(words)}", 200)
        assert sorted(one["name"] for one in page["recordings"]) == sorted(found), words


async def test_an_unreadable_file_is_listed_with_the_reason(folder: Path, api: DescribedApi) -> None:
    """The list also contains the readable files. A name that is not UTF-8 can be neither shown nor requested."""
    good = write_golden(folder)
    (folder / "cut.mcap").write_bytes(good.read_bytes()[:20_000])
    (folder / "empty.mcap").touch()
    (folder / "of something else.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    (folder / os.fsdecode(b"\xff.mcap")).touch()
    page = await api.ask("GET", "/api/recordings", 200)
    problems = {one["name"]: one["problem"] for one in page["recordings"]}
    assert set(problems) == {good.name, "cut.mcap", "empty.mcap", "of something else.mcap"}
    assert problems.pop(good.name) is None
    assert all(problem.endswith(".") and "\n" not in problem for problem in problems.values())
    shown = await api.ask("GET", at("cut.mcap"), 200)
    assert (shown["recorded"], shown["outcome"], shown["prompt_start"], shown["windows"]) == (None, None, "", None)


async def test_invalid_requests_to_the_library_get_one_sentence(folder: Path, api: DescribedApi) -> None:
    write_golden(folder)
    for query, status, code in [
        ("limit=0", 400, "bad_limit"), ("limit=201", 400, "bad_limit"), ("limit=x", 400, "bad_limit"),
        ("after=none.mcap", 404, "no_recording"), ("word=x", 400, "bad_request"),
        ("words=" + "x" * 201, 400, "bad_words"), ("limit=1&limit=2", 400, "bad_request"),
    ]:  # fmt: skip
        assert (await refused(api, "GET", f"/api/recordings?{query}", status))[0] == code, query
    for name in ("none.mcap", "../secret.mcap", "/etc/passwd", ".hidden.mcap", "x", "\0.mcap", "%2e%2e", "a" * 4_000):
        for method, rest in [("GET", ""), ("GET", "/file"), ("PUT", "/star"), ("DELETE", "/star"), ("DELETE", "")]:
            assert (await refused(api, method, at(name, rest), 404))[0] == "no_recording", name


# --- one recording ---------------------------------------------------------------------------------------------------


async def test_a_file_is_downloaded_whole_with_a_safe_name(
    folder: Path, web: WebServer, client: aiohttp.ClientSession
) -> None:
    path = write_golden(folder).rename(folder / 'a "b" ü;\r\n.mcap')
    async with client.get(web.http + at(path.name, "/file")) as answer:
        assert await answer.read() == path.read_bytes()
        headers = answer.headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["X-Content-Type-Options"] == "nosniff"
    named = "attachment; filename=\"a _b_ ____.mcap\"; filename*=UTF-8''a%20%22b%22%20%C3%BC%3B%0D%0A.mcap"
    assert headers["Content-Disposition"] == named
    # An interrupted download can be continued.
    async with client.get(web.http + at(path.name, "/file"), headers={"Range": "bytes=100-199"}) as answer:
        assert (answer.status, await answer.read()) == (206, path.read_bytes()[100:200])


async def test_a_star_stays_until_it_is_removed(folder: Path, api: DescribedApi) -> None:
    path = write_golden(folder)
    for _ in range(2):
        assert (await api.ask("PUT", at(path.name, "/star"), 200))["starred"] is True
        assert Library(folder).find(path.name).starred
    for _ in range(2):
        assert (await api.ask("DELETE", at(path.name, "/star"), 200))["starred"] is False
    assert files_in(folder) == [path.name]


async def test_deleting_a_recording_deletes_its_star(folder: Path, api: DescribedApi) -> None:
    path = write_golden(folder)
    await api.ask("PUT", at(path.name, "/star"), 200)
    await api.ask("DELETE", at(path.name), 204)
    assert files_in(folder) == []
    await api.ask("DELETE", at(path.name), 404)


async def test_the_difference_names_the_first_window_and_field(folder: Path, api: DescribedApi) -> None:
    path = write_golden(folder)
    same, other = write_golden(folder, session="a" * 12), write_golden(folder, "seeds")
    assert await api.ask("GET", at(path.name, f"/difference?other={same.name}"), 200) == {
        "name": path.name, "other": same.name, "difference": None,
    }  # fmt: skip
    found = (await api.ask("GET", at(path.name, f"/difference?other={other.name}"), 200))["difference"]
    assert (found["window"], found["field"].partition("[")[0]) == (None, "members")
    assert found["one"] != found["other"]
    cut = write_golden(folder, session="b" * 12, entries=100)
    found = (await api.ask("GET", at(path.name, f"/difference?other={cut.name}"), 200))["difference"]
    assert 0 < found["window"] < len(frames_of(NAME))
    assert (await refused(api, "GET", at(path.name, "/difference"), 400))[0] == "no_other"
    assert (await refused(api, "GET", at(path.name, "/difference?other=none.mcap"), 404))[0] == "no_recording"
    (folder / "cut.mcap").write_bytes(path.read_bytes()[:-5_000])
    code, sentence = await refused(api, "GET", at(path.name, "/difference?other=cut.mcap"), 422)
    assert code == "damaged_recording"
    assert str(folder) not in sentence


# --- taking files in -------------------------------------------------------------------------------------------------


async def test_a_file_is_imported_under_its_name_or_with_a_number(
    tmp_path: Path, folder: Path, api: DescribedApi
) -> None:
    data = write_golden(tmp_path).read_bytes()
    for wanted, name in [
        ("x.mcap", "x.mcap"), ("x.mcap", "x-2.mcap"), ("../../y", "y.mcap"), (HOSTILE, "etc.mcap"),
        (".", "recording.mcap"), ("<b>.mcap", "-b-.mcap"),
    ]:  # fmt: skip
        listed = await api.ask("POST", f"/api/recordings?name={quote(wanted)}", 201, data=data, headers=OCTETS)
        assert (listed["name"], listed["problem"]) == (name, None)
        assert (folder / name).read_bytes() == data
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert not [name for name in files_in(folder) if not name.endswith(".mcap")]


async def test_a_damaged_or_invalid_file_is_not_imported(tmp_path: Path, folder: Path, api: DescribedApi) -> None:
    good = write_golden(tmp_path).read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for data, status, code in [
        (b"", 400, "not_a_recording"), (b"no recording", 400, "not_a_recording"),
        (good[:-100], 422, "damaged_recording"), (bytes(flipped), 422, "damaged_recording"),
        (b"\x89MCAP0\r\n", 422, "damaged_recording"),
    ]:  # fmt: skip
        options = {"data": data, "headers": OCTETS}
        found, sentence = await refused(api, "POST", "/api/recordings?name=x.mcap", status, **options)
        assert found == code
        assert str(folder) not in sentence
        assert "x.mcap" in sentence
        assert files_in(folder) == []
    assert (await refused(api, "POST", "/api/recordings", 415, data=b"x", headers={"Content-Type": "text/plain"}))[0]
    packed = OCTETS | {"Content-Encoding": "gzip"}
    assert (await refused(api, "POST", "/api/recordings", 415, data=b"x", headers=packed))[0]
    assert (await refused(api, "POST", "/api/recordings?nam=x", 400, data=b"x", headers=OCTETS))[0] == "bad_request"


async def test_an_incomplete_upload_leaves_no_file(folder: Path, tmp_path: Path, web: WebServer) -> None:
    """With a Content-Length and in chunks."""
    data = write_golden(tmp_path).read_bytes()
    host, port = web.address.split(":")
    head = f"POST /api/recordings?name=x HTTP/1.1\r\nHost: {web.address}\r\nContent-Type: application/octet-stream\r\n"
    for framing in (f"Content-Length: {len(data)}\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n8000\r\n"):
        with socket.create_connection((host, int(port))) as sending:
            sending.sendall(head.encode() + framing.encode() + data[:10_000])
            await until(lambda: has_files(folder, 1), "the upload begins")
        await until(lambda: has_files(folder, 0), "the .part file is deleted")
    assert "a request failed" not in web.log()


async def has_files(folder: Path, count: int) -> bool:
    return len(files_in(folder)) == count


async def test_a_file_that_is_too_large_is_refused_before_it_is_sent(web: WebServer, folder: Path) -> None:
    reader, writer = await asyncio.open_connection(*web.address.split(":"))
    writer.write(
        f"POST /api/recordings HTTP/1.1\r\nHost: {web.address}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {2**31 + 1}\r\n\r\n".encode()
    )
    assert b" 413 " in await reader.readline()
    writer.close()
    assert files_in(folder) == []


async def test_a_full_disk_is_reported_and_leaves_no_part_of_a_file(
    redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    data = write_golden(tmp_path).read_bytes()
    folder = tmp_path / "small"
    # No file may be larger than 16 KiB: the error is the same as on a full disk.
    full = WebServer(redis.url, "--recordings", str(folder), most_file_bytes=16_384)
    try:
        api = await DescribedApi.read(client, full.http)
        options = {"data": data, "headers": OCTETS}
        assert (await refused(api, "POST", "/api/recordings?name=x", 507, **options))[0] == "disk_full"
        assert files_in(folder) == []
        folder.rmdir()
        folder.touch()
        assert (await refused(api, "POST", "/api/recordings?name=x", 503, **options))[0] == "no_recordings_folder"
        assert (await refused(api, "GET", "/api/recordings", 503))[0] == "no_recordings_folder"
        # Sessions can still be listed.
        assert await api.ask("GET", "/api/sessions", 200) == {"sessions": []}
    finally:
        full.close()


# --- playing ---------------------------------------------------------------------------------------------------------


async def test_a_replay_is_a_session_of_its_own(
    redis: RedisServer, folder: Path, api: DescribedApi, pipe: AsyncPipe
) -> None:
    name = write_golden(folder).name
    code, sentence = await refused(api, "POST", at(name, "/replay"), 503, json={})
    assert code == "no_replay"
    assert "python -m producers.replay" in sentence
    offer(redis, "replay")
    opened = await api.ask("POST", at(name, "/replay"), 201, json={})
    session = opened["session"]
    assert opened == {"session": session, "replay_of": "87d2af0705d0", "recording": name}
    state = await find_session(pipe, session)
    assert (state.opened, state.clock_ms) == ("1795379952394-0", 1_795_379_952_394)
    replay = (await read_opening(pipe, state)).replay
    assert replay is not None
    assert (replay.of, replay.recording, replay.frames) == ("87d2af0705d0", name, False)
    (listed,) = (await api.ask("GET", "/api/sessions", 200))["sessions"]
    shown = await api.ask("GET", f"/api/sessions/{session}", 200)
    for one in (listed, shown):
        assert (one["replay_of"], one["recording"], one["recorded_ms"]) == ("87d2af0705d0", name, 1_795_379_952_394)
        assert one["opened_ms"] == state.began_ms
    assert shown["origin_ns"] == "1795379952400000000"
    (status,) = (await api.ask("GET", "/api/status", 200))["sessions"]
    assert (status["aggregator_lag"], status["age_s"] < 60) == (0, True)


async def test_orders_change_a_replay_and_its_position_is_reported(
    redis: RedisServer, folder: Path, api: DescribedApi, pipe: AsyncPipe
) -> None:
    name = write_golden(folder).name
    offer(redis, "replay")
    session = (await api.ask("POST", at(name, "/replay"), 201, json={"rate": 4, "paused": True}))["session"]
    path = f"/api/sessions/{session}/playback"
    begun = {"session": session, "window": -1, "last_window": -1, "rate": 1.0, "paused": False, "is_over": False}
    begun["has_player"] = True
    assert await api.ask("GET", path, 200) == begun
    for body in ({"window": 60}, {"step": -1}, {"rate": 0}, {"rate": 0.25, "paused": False, "window": 0, "step": 0}):
        await api.ask("POST", path, 202, json=body)
    written = await pipe.one("XRANGE", keys.control(session), "-", "+")
    assert [decode_control(entry[1][1]) for entry in written] == [
        Play(4.0, paused=True), Play(window=60), Play(step=-1), Play(rate=0.0), Play(0.25, paused=False, window=0),
    ]  # fmt: skip
    await pipe.run([play(session, None, Playback(59, 139, 4.0, paused=True), [])])
    shown = {"session": session, "window": 59, "last_window": 139, "rate": 4.0, "paused": True, "is_over": False}
    shown["has_player"] = True
    assert await api.ask("GET", path, 200) == shown
    # A player without a sign of life counts as ended.
    redis.run("HINCRBY", keys.state(session), "played", -3_000)
    assert await api.ask("GET", path, 200) == {**shown, "has_player": False}


async def test_invalid_orders_to_a_replay_get_one_sentence(redis: RedisServer, folder: Path, api: DescribedApi) -> None:
    name = write_golden(folder).name
    offer(redis, "replay")
    session = (await api.ask("POST", at(name, "/replay"), 201, json={}))["session"]
    path = f"/api/sessions/{session}/playback"
    for body, code in [
        ({"rate": 0.2}, "bad_rate"), ({"rate": 65}, "bad_rate"), ({"rate": -1}, "bad_rate"),
        ({"rate": "fast"}, "bad_request"), ({"window": -1}, "bad_window"), ({"window": 10**30}, "bad_window"),
        ({"window": 1.5}, "bad_request"), ({"step": 10**20}, "bad_step"), ({"paused": 1}, "bad_request"),
        ({"speed": 1}, "bad_request"), ([], "bad_request"),
    ]:  # fmt: skip
        assert (await refused(api, "POST", path, 400, json=body))[0] == code, body
    for raw in (b'{"rate": NaN}', b'{"rate": Infinity}', b'{"rate": 1e400}', b"{", b""):
        await refused(api, "POST", path, 400, data=raw, headers={"Content-Type": "application/json"})
        await refused(api, "POST", at(name, "/replay"), 400, data=raw, headers={"Content-Type": "application/json"})
    for body in ({"rate": 100}, {"rate": True}, {"frames": "yes"}, {"window": 3}):
        await refused(api, "POST", at(name, "/replay"), 400, json=body)
    await refused(api, "POST", path, 415, data=b"x")
    live = FrameWriter(redis).session
    assert (await refused(api, "GET", f"/api/sessions/{live}/playback", 409))[0] == "not_a_replay"
    assert (await refused(api, "POST", f"/api/sessions/{live}/playback", 409, json={"rate": 1}))[0] == "not_a_replay"
    assert (await refused(api, "GET", "/api/sessions/none/playback", 404))[0] == "session_gone"
    assert (await refused(api, "POST", "/api/sessions/none/playback", 404, json={"rate": 1}))[0] == "session_gone"


async def test_a_recording_that_cannot_be_played_is_refused(
    redis: RedisServer, folder: Path, api: DescribedApi
) -> None:
    offer(redis, "replay")
    name = write_golden(folder, text=False).name
    code, sentence = await refused(api, "POST", at(name, "/replay"), 409, json={})
    assert code == "without_text"
    assert sentence.endswith('show the recorded ones with "frames": true.')
    await api.ask("POST", at(name, "/replay"), 201, json={"frames": True})
    (folder / "cut.mcap").write_bytes((folder / name).read_bytes()[:400])
    (folder / "other.mcap").write_bytes(b"something else")
    for other, status in [("cut.mcap", 422), ("other.mcap", 400), ("none.mcap", 404)]:
        _, sentence = await refused(api, "POST", at(other, "/replay"), status, json={})
        assert str(folder) not in sentence
    assert len((await api.ask("GET", "/api/sessions", 200))["sessions"]) == 1


async def test_replays_count_as_open_sessions(redis: RedisServer, folder: Path, api: DescribedApi) -> None:
    name = write_golden(folder).name
    offer(redis, "replay")
    statuses = []
    for _ in range(25):
        with contextlib.suppress(AssertionError):
            await api.ask("POST", at(name, "/replay"), 201, json={})
            statuses.append(201)
    assert (await refused(api, "POST", at(name, "/replay"), 429, json={}))[0] == "too_many_sessions"
    assert 20 <= len(statuses) < 25


async def test_members_of_a_replay_cannot_be_cancelled(
    redis: RedisServer, folder: Path, api: DescribedApi, pipe: AsyncPipe
) -> None:
    name = write_golden(folder).name
    offer(redis, "replay")
    session = (await api.ask("POST", at(name, "/replay"), 201, json={}))["session"]
    assert (await refused(api, "POST", f"/api/sessions/{session}/members/0/cancel", 409))[0] == "is_replay"
    assert (await api.ask("POST", f"/api/sessions/{session}/cancel", 202))["members"] == [0, 1, 2]
    entries = await pipe.one("XRANGE", keys.tokens(session), "-", "+")
    assert len(entries) == 2


# --- recording -------------------------------------------------------------------------------------------------------


async def orders(pipe: AsyncPipe) -> list[str]:
    return [entry[1][1].decode() for entry in await pipe.one("XRANGE", keys.KEEP, "-", "+")]


async def test_keeping_a_session_requires_a_recorder(
    redis: RedisServer, folder: Path, api: DescribedApi, pipe: AsyncPipe
) -> None:
    session = FrameWriter(redis).session
    code, sentence = await refused(api, "POST", f"/api/sessions/{session}/keep", 503)
    assert code == "no_recorder"
    assert "python -m consumers.recorder" in sentence
    offer(redis, "recorder")
    kept = await api.ask("POST", f"/api/sessions/{session}/keep", 202)
    assert (kept["session"], kept["recorded"]) == (session, False)
    assert kept["recording"].endswith(f"_what-is-a-list_{session}.mcap")
    assert await orders(pipe) == [session]
    # If the file exists no order is written.
    write_golden(folder, session=session).rename(folder / kept["recording"])
    redis.run("DEL", keys.KEEP)
    assert await api.ask("POST", f"/api/sessions/{session}/keep", 202) == {**kept, "recorded": True}
    assert await orders(pipe) == []
    assert (await api.ask("GET", f"/api/sessions/{session}", 200))["recording"] == kept["recording"]
    assert (await refused(api, "POST", "/api/sessions/none/keep", 404))[0] == "session_gone"


async def test_a_replay_is_not_recorded_again(redis: RedisServer, folder: Path, api: DescribedApi) -> None:
    name = write_golden(folder).name
    offer(redis, "replay")
    offer(redis, "recorder")
    session = (await api.ask("POST", at(name, "/replay"), 201, json={}))["session"]
    assert (await refused(api, "POST", f"/api/sessions/{session}/keep", 409))[0] == "is_replay"


async def test_a_request_with_record_requires_a_recorder(
    redis: RedisServer, api: DescribedApi, pipe: AsyncPipe
) -> None:
    ScriptedProducer(redis, "here").offer()
    offer(redis, "aggregator")
    body = {"prompt": "Hello?", "models": ["here"], "record": True}
    assert (await refused(api, "POST", "/api/sessions", 503, json=body))[0] == "no_recorder"
    assert (await api.ask("GET", "/api/sessions", 200))["sessions"] == []
    offer(redis, "recorder")
    opened = await api.ask("POST", "/api/sessions", 201, json=body)
    assert await orders(pipe) == [opened["session"]]
    (listed,) = (await api.ask("GET", "/api/sessions", 200))["sessions"]
    assert (listed["replay_of"], listed["recording"], listed["recorded_ms"]) == (None, None, None)


async def test_hostile_names_and_prompts_are_returned_as_plain_text(
    redis: RedisServer, folder: Path, api: DescribedApi
) -> None:
    members = tuple(Member(f"model-{n}", name=HOSTILE + str(n)) for n in range(3))
    path = write_golden(folder, prompt=HOSTILE * 50, members=members)
    (listed,) = (await api.ask("GET", "/api/recordings", 200))["recordings"]
    assert listed["members"] == [HOSTILE + str(n) for n in range(3)]
    assert listed["prompt_start"] == (HOSTILE * 50)[:120]
    assert path.parent == folder
    assert (await api.ask("GET", at(path.name), 200))["recorded"]["prompt"] == HOSTILE * 50


async def test_a_file_that_cannot_be_replayed_is_not_imported(tmp_path: Path, folder: Path, api: DescribedApi) -> None:
    path = write_golden(tmp_path, limits=Limits(life_ms=-1))
    code, message = await refused(api, "POST", "/api/recordings?name=a", 422, data=path.read_bytes(), headers=OCTETS)
    assert code
    assert "replay" in message
    assert files_in(folder) == []
