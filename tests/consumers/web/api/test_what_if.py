"""What if over HTTP: any session or recording has branches, and each branch an effect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from recordings.answers import read_answers
from schemas import keys
from schemas.rules.what_if import shown_answer
from schemas.sessions import MAX_PREFIX_BYTES, Limits, Member, Opening, Parent, Replay, Sampling
from tests.support.openapi_client import DescribedApi
from tests.support.recording_files import write_golden
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import ScriptedProducer, offer_aggregator
from tests.support.web_server import WebServer
from tests.support.written_sessions import write_session
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, delete_session, find_session, read_opening

SKY, SEA = "\nThe sky is blue today.", "The sea is blue."


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
async def api(redis: RedisServer, web: WebServer, client: aiohttp.ClientSession) -> DescribedApi:
    """Its API; the models a and b are served."""
    offer_aggregator(redis)
    for model in "ab":
        ScriptedProducer(redis, model).offer()
    return await DescribedApi.read(client, web.http)


async def branch(api: DescribedApi, session: str, **body: Any) -> dict[str, Any]:
    opened: dict[str, Any] = await api.ask("POST", f"/api/sessions/{session}/what-if", 201, json=body)
    return opened


async def refused(api: DescribedApi, path: str, status: int, **body: Any) -> str:
    answer = await api.ask("POST", path, status, json=body)
    assert answer["error"]["message"].endswith(".")
    return str(answer["error"]["code"])


async def opening_in(pipe: AsyncPipe, session: str) -> Opening:
    return await read_opening(pipe, await find_session(pipe, session))


async def shown(api: DescribedApi, session: str) -> dict[str, Any]:
    found: dict[str, Any] = await api.ask("GET", f"/api/sessions/{session}", 200)
    return found


@pytest.mark.parametrize("ended", [True, False])
async def test_a_branch_continues_an_answer_of_its_parent(
    redis: RedisServer, api: DescribedApi, pipe: AsyncPipe, ended: bool
) -> None:
    members = (Member("a", 2.0, sampling=Sampling(64, 0.0, 7), name="calm"), Member("b"))
    parent = await write_session(
        redis, pipe, SKY, SEA, ended=ended, members=members, sync="free", system="Be brief.", tier="low"
    )
    before = await shown(api, parent.session)
    assert (before["prefix"], before["parent"], before["branches"]) == ("", None, [])
    opened = await branch(api, parent.session, word=3, say="was")
    made = await opening_in(pipe, opened["session"])
    assert opened["tier"] == made.tier == "low"
    assert (made.prefix, made.parent) == ("The sky was", Parent(parent.session, 8, "was", "is"))
    assert (opened["names"], opened["models"], opened["warnings"]) == (["calm", "b"], ["a", "b"], [])
    for field in ("prompt", "system", "members", "sampling", "sync", "history", "weighting"):
        assert getattr(made, field) == getattr(parent, field)
    # The other options of a request.
    other = await branch(
        api, parent.session, at=8, say="lies", member="b", models=["b"], temperature=0.1, seed=3, tier="mid"
    )
    assert other["tier"] == "mid"
    changed = await opening_in(pipe, other["session"])
    assert (changed.prefix, changed.sampling) == ("The sea lies", Sampling(64, 0.1, 3))
    assert changed.members == (Member("b"),)
    child = await shown(api, opened["session"])
    assert child["prefix"] == "The sky was"
    assert child["parent"] == {"session": parent.session, "byte": 8, "word": "was", "instead": "is"}
    # The parent stays as it is.
    branches = [opened["session"], other["session"]]
    assert await shown(api, parent.session) == before | {"branches": branches}
    assert (await branch(api, parent.session, at=0, say="A", member=1))["session"] not in branches


async def test_a_branch_of_a_branch_counts_from_the_prefix(
    redis: RedisServer, api: DescribedApi, pipe: AsyncPipe
) -> None:
    root = await write_session(redis, pipe, SKY, SEA)
    first = await write_session(
        redis, pipe, " red today.", " red.", prefix="The sky was", parent=Parent(root.session, 8, "was", "is")
    )
    opened = await branch(api, first.session, word=4, say="green")
    assert (await opening_in(pipe, opened["session"])).prefix == "The sky was green"
    assert (await shown(api, root.session))["branches"] == [first.session]
    assert (await shown(api, first.session))["branches"] == [opened["session"]]
    # Inside the prefix itself.
    again = await opening_in(pipe, (await branch(api, first.session, word=2, say="sea"))["session"])
    assert (again.prefix, again.parent) == ("The sea", Parent(first.session, 4, "sea", "sky"))


async def test_the_effect_compares_each_member_with_itself(
    redis: RedisServer, api: DescribedApi, pipe: AsyncPipe
) -> None:
    root = await write_session(redis, pipe, SKY, SEA)
    change = {"prefix": "The sky was", "parent": Parent(root.session, 8, "was", "is")}
    child = await write_session(redis, pipe, " red today.", " grey.", ended=False, **change)
    effect = await api.ask("GET", f"/api/sessions/{child.session}/effect", 200)
    assert effect == {
        "session": child.session, "parent": root.session, "final": False,
        "members": [
            {
                "member": "a", "byte": 8, "reach_bytes": 8, "reach_words": 2, "together_again": [16, 16],
                "last_words": ["is blue today.", "was red today."], "last_words_differ": True,
            },
            {
                "member": "b", "byte": 5, "reach_bytes": 12, "reach_words": 3, "together_again": None,
                "last_words": ["sea is blue.", "sky was grey."], "last_words_differ": True,
            },
        ],
    }  # fmt: skip
    redis.run("HSET", keys.state(child.session), "status", "ended")
    assert (await api.ask("GET", f"/api/sessions/{child.session}/effect", 200))["final"] is True
    # Another member than the parent's, and one that the parent has.
    mixed = await write_session(redis, pipe, " red.", " red.", members=(Member("b"), Member("new")), **change)
    found = await api.ask("GET", f"/api/sessions/{mixed.session}/effect", 200)
    assert [one["member"] for one in found["members"]] == ["b"]
    await delete_session(pipe, root.session)
    gone = await api.ask("GET", f"/api/sessions/{child.session}/effect", 200)
    assert gone == {"session": child.session, "parent": root.session, "final": True, "members": None}
    not_a_branch = await write_session(redis, pipe, SKY)
    error = await api.ask("GET", f"/api/sessions/{not_a_branch.session}/effect", 409)
    assert error["error"]["code"] == "not_a_branch"


async def test_what_cannot_be_a_branch_is_refused(redis: RedisServer, api: DescribedApi, pipe: AsyncPipe) -> None:
    parent = await write_session(redis, pipe, SKY, SEA)
    path = f"/api/sessions/{parent.session}/what-if"
    for code, body in (
        ("bad_request", {}),
        ("bad_request", {"say": 7, "at": 1}),
        ("bad_request", {"say": "x", "at": "1"}),
        ("bad_request", {"say": "x", "at": True}),
        ("bad_request", {"say": "x", "at": 1, "member": 1.5}),
        ("bad_request", {"say": "x", "at": 1, "prompt": "Why?"}),
        ("bad_place", {"say": "x"}),
        ("bad_place", {"say": "x", "at": 1, "word": 1}),
        ("bad_at", {"say": "x", "at": 999}),
        ("bad_at", {"say": "x", "at": -1}),
        ("bad_word", {"say": "x", "word": 0}),
        ("bad_say", {"say": "", "word": 1}),
        ("unknown_member", {"say": "x", "word": 1, "member": "c"}),
        ("unknown_member", {"say": "x", "word": 1, "member": 2}),
        ("unknown_model", {"say": "x", "word": 1, "models": ["nowhere"]}),
        ("bad_temperature", {"say": "x", "word": 1, "temperature": 9.0}),
    ):
        status = 404 if code in ("bad_at", "bad_word", "unknown_member", "unknown_model") else 400
        assert await refused(api, path, status, **body) == code, body
    assert await refused(api, "/api/sessions/nowhere/what-if", 404, say="x", at=0) == "session_gone"
    assert await refused(api, "/api/recordings/nowhere.mcap/what-if", 404, say="x", at=0) == "no_recording"
    await cancel_session(pipe, parent.session)
    assert (await shown(api, parent.session))["branches"] == []


async def test_the_prefix_has_a_limit(redis: RedisServer, api: DescribedApi, pipe: AsyncPipe) -> None:
    parent = await write_session(redis, pipe, "x" * 65_000)
    path = f"/api/sessions/{parent.session}/what-if"
    assert await refused(api, path, 413, say="y" * 537, at=65_000) == "prefix_too_long"
    opened = await branch(api, parent.session, say="y" * 536, at=65_000)
    assert len((await opening_in(pipe, opened["session"])).prefix) == MAX_PREFIX_BYTES


async def test_a_member_whose_model_is_missing_or_cannot_continue_is_left_out(
    redis: RedisServer, api: DescribedApi, pipe: AsyncPipe
) -> None:
    parent = await write_session(redis, pipe, SKY, SEA, members=(Member("a"), Member("elsewhere")))
    opened = await branch(api, parent.session, word=1, say="A")
    assert opened["names"] == ["a"]
    assert opened["warnings"] == ["elsewhere is left out: its model 'elsewhere' is not served here."]
    alone = await write_session(redis, pipe, SKY, members=(Member("elsewhere"),))
    assert await refused(api, f"/api/sessions/{alone.session}/what-if", 409, word=1, say="A") == "no_members"
    ScriptedProducer(redis, "stiff", continues="no").offer()
    both = await write_session(redis, pipe, SKY, SEA, members=(Member("stiff"), Member("b")))
    opened = await branch(api, both.session, word=1, say="A", weights={"stiff": 2.0})
    assert opened["names"] == ["b"]
    assert opened["warnings"] == ["stiff is left out: its model 'stiff' cannot continue a text."]


async def test_a_replay_has_branches_too(redis: RedisServer, api: DescribedApi, pipe: AsyncPipe) -> None:
    played: dict[str, Any] = {"replay": Replay("recorded", "x.mcap"), "limits": Limits(life_ms=5000), "tier": "high"}
    replay = await write_session(redis, pipe, SKY, SEA, **played)
    opened = await branch(api, replay.session, word=3, say="was")
    made = await opening_in(pipe, opened["session"])
    assert made.tier == "mid"
    assert (made.replay, made.limits, made.parent) == (None, Limits(), Parent(replay.session, 8, "was", "is"))
    assert (await shown(api, replay.session))["branches"] == [opened["session"]]
    numbers = await write_session(redis, pipe, "", prompt="(recorded without text)", **played)
    assert await refused(api, f"/api/sessions/{numbers.session}/what-if", 409, word=1, say="A") == "without_text"


async def test_a_recording_has_branches_without_a_replay(
    redis: RedisServer, api: DescribedApi, pipe: AsyncPipe, folder: Path
) -> None:
    path = write_golden(folder)
    recorded = read_answers(path)
    at = f"/api/recordings/{quote(path.name, safe='')}/what-if"
    assert await refused(api, at, 409, word=2, say="was") == "no_members"
    opened = await api.ask("POST", at, 201, json={"word": 2, "say": "was", "models": ["a", "b"]})
    made = await opening_in(pipe, opened["session"])
    text = shown_answer(recorded.texts[0])
    assert made.parent is not None
    assert made.prefix.encode() == text.encode()[: made.parent.byte] + b"was"
    assert (made.prompt, made.parent.session) == (recorded.opening.prompt, recorded.opening.session)
    # The effect is compared with the recording, whatever its name is.
    path.rename(folder / "renamed.mcap")
    child = await write_session(
        redis, pipe, " red", " red", members=(recorded.opening.members[0], Member("new")), prefix=made.prefix,
        parent=made.parent,
    )  # fmt: skip
    effect = await api.ask("GET", f"/api/sessions/{child.session}/effect", 200)
    (member,) = effect["members"]
    assert (member["member"], member["byte"], effect["final"]) == (recorded.opening.names[0], made.parent.byte, True)
    # A page asks for many effects at once, and more than two files are not read at once.
    several = await asyncio.gather(*(api.ask("GET", f"/api/sessions/{child.session}/effect", 200) for _ in range(8)))
    assert several == [effect] * 8
    damaged = folder / "damaged.mcap"
    damaged.write_bytes((folder / "renamed.mcap").read_bytes()[:-300])
    assert await refused(api, "/api/recordings/damaged.mcap/what-if", 422, word=2, say="was") == "damaged_recording"
    write_golden(folder, text=False)
    assert await refused(api, at, 400, word=2, say="was") == "without_text"
