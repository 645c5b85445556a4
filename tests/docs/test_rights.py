"""The Redis user of docs/security.md: a council of all roles works with exactly these rights, and asks for no other."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from schemas.errors import Refused
from tests.support.clusters import Cluster, Server
from tests.support.council_command import council
from tests.support.ollama.books import GB, StoredModel
from tests.support.ollama.server import ollama_server
from tests.support.openapi_client import DescribedApi
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer, preferred_binary
from tests.support.role_processes import Role, Roles, roles_on
from tests.support.sessions import check_the_law, opening_of, until_ended
from tests.support.waiting import until
from tests.support.web_server import CHAR, PACE, WebServer, watch
from transport.redis.address import Address
from transport.redis.connection import AsyncPipe
from transport.redis.server_check import check_server
from transport.rights import RECORDER_RIGHTS, check_rights, missing_rights
from transport.sessions import open_session

PAGE = (ROOT / "docs/security.md").read_text().replace("\\\n", " ")


def rule(user_of: str = "redis-cli ACL") -> list[str]:
    """The command of the page that creates the user: ACL, SETUSER and so on."""
    (found,) = re.findall(rf"^ +{re.escape(user_of)}.*", PAGE, re.M)
    words = shlex.split(found)
    return words[words.index("ACL") :]


def rights(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("+")}


def in_cluster() -> list[str]:
    (found,) = re.findall(r"Redis Cluster, on each node, add `([^`]+)`", PAGE)
    return shlex.split(found)


@pytest.fixture
def restricted(each_redis: RedisServer) -> Iterator[str]:
    """The URL of a server as the user of the page."""
    each_redis.run(*rule())
    each_redis.run("ACL", "LOG", "RESET")
    yield each_redis.url.replace("unix://", "unix://council:PASSWORD@")
    each_redis.run("ACL", "DELUSER", "council")


def test_each_right_of_the_rule_is_tried_and_no_other(each_redis: RedisServer, restricted: str) -> None:
    """INFO is optional. The scripts call nothing else, and the trials write nothing."""
    assert missing_rights(Address(restricted), RECORDER_RIGHTS) == []
    each_redis.run("ACL", "SETUSER", "council", "resetkeys", "~other:*", "-@all")
    assert {"+info", *missing_rights(Address(restricted), RECORDER_RIGHTS)} == rights(rule())
    each_redis.run("ACL", "SETUSER", "council", "+@all")
    assert missing_rights(Address(restricted), RECORDER_RIGHTS) == ["~council:*"]
    assert each_redis.run("KEYS", "*") == []
    called = set()
    for script in (ROOT / "transport/lua").glob("*.lua"):
        for name, sub in re.findall(r"redis\.p?call\('(\w+)'(?:, '(\w+)')?", script.read_text()):
            called.add(f"+{name.lower()}" + (f"|{sub.lower()}" if name in ("XGROUP", "XINFO") else ""))
    assert called - rights(rule()) == set()


async def test_a_council_of_all_roles_works_with_the_documented_rights_alone(
    each_redis: RedisServer, restricted: str, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    folder = ["--recordings", str(tmp_path / "library")]
    with roles_on(restricted) as roles:
        async with ollama_server(StoredModel("s:latest", GB)) as ollama:
            started = [
                roles.start("aggregator"), roles.start("consumers.decipher"), roles.start("producers", CHAR, *PACE),
                roles.start("producers", "s:latest", "--api", "ollama", "--backend", ollama.url, "--warm"),
                roles.start("consumers.recorder", *folder), roles.start("producers.replay", *folder),
            ]  # fmt: skip
            web = WebServer(restricted, *folder)
            try:
                for role in started:
                    await asyncio.to_thread(role.wait_ready, each_redis.url)
                await _use(web, client)
                asking = asyncio.to_thread(council, "ask", "hi", "--models", CHAR, "--max-tokens", "5", url=restricted)
                showing = asyncio.to_thread(council, "status", url=restricted)
                assert [(one.code, one.said) for one in await asyncio.gather(asking, showing)] == [(0, "")] * 2
                ended = await asyncio.gather(*(asyncio.to_thread(role.end) for role in started[1:]))
                assert ended == [0] * len(ended)
                await _take_over(roles, started[0], restricted)
            finally:
                web.close()
        logs = [role.log() for role in started]
    assert each_redis.run("ACL", "LOG") == [], logs
    assert [line for log in logs for line in log.splitlines() if "refuse" in line or "lacks" in line] == []


async def _use(web: WebServer, client: aiohttp.ClientSession) -> None:
    """Asks, records, replays, stops, deletes, loads and unloads over HTTP."""
    api = await DescribedApi.read(client, web.http)
    sampling = {"max_tokens": 20, "temperature": 0}
    request = {"prompt": "What is a list?", "models": [CHAR, "s:latest"], "record": True, **sampling}
    session = (await api.ask("POST", "/api/sessions", 201, json=request))["session"]
    messages, code = await watch(client, web, session)
    assert (len(messages) > 1, code) == (True, 1000)

    async def recorded() -> str | None:
        names = [one["name"] for one in (await api.ask("GET", "/api/recordings", 200))["recordings"]]
        return names[0] if names else None

    name = await until(recorded, "the session is recorded")
    replay = (await api.ask("POST", f"/api/recordings/{name}/replay", 201, json={"rate": 4}))["session"]
    await api.ask("POST", f"/api/sessions/{replay}/playback", 202, json={"paused": True})
    await api.ask("POST", f"/api/sessions/{replay}/cancel", 202)
    shown = (await api.ask("POST", f"/api/recordings/{name}/replay", 201, json={"frames": True}))["session"]
    await watch(client, web, replay)
    await api.ask("POST", f"/api/sessions/{shown}/cancel", 202)
    await watch(client, web, shown)
    await api.ask("DELETE", f"/api/sessions/{session}", 204)
    await api.ask("POST", "/api/models/s:latest/unload", 202)

    async def is_unloaded() -> bool:
        models = (await api.ask("GET", "/api/models", 200))["models"]
        return next(one["residency"] for one in models if one["model"] == "s:latest") == "absent"

    await until(is_unloaded, "the model is unloaded")
    for path in ("/api/status", "/api/sessions"):
        await api.ask("GET", path, 200)


async def _take_over(roles: Roles, aggregator: Role, url: str) -> None:
    pipe = AsyncPipe(url)
    opening = opening_of(CHAR, max_tokens=60)
    await asyncio.to_thread(roles.ready, "producers", CHAR, "--tokens-per-s", "30")
    await open_session(pipe, opening)
    # It hands the session over to the other one, which takes over its lease and its epoch.
    await asyncio.to_thread(roles.ready, "aggregator")
    assert await asyncio.to_thread(aggregator.end) == 0
    await until_ended(pipe, opening.session)
    await check_the_law(pipe, opening.session)
    await pipe.close()


def _logs(servers: list[Server]) -> list[object]:
    return [server.run("ACL", "LOG") for server in servers]


async def test_the_rights_for_a_cluster_are_enough_and_each_is_needed() -> None:
    cluster = Cluster(preferred_binary())
    try:
        user = cluster.url.replace("redis://", "redis://council:PASSWORD@")
        for node in cluster.nodes:
            node.run(*rule())
        lacks = missing_rights(Address(user))
        assert set(lacks) == set(in_cluster())
        for node in cluster.nodes:
            node.run("ACL", "SETUSER", "council", *in_cluster())
            node.run("ACL", "LOG", "RESET")
        with roles_on(user) as roles:
            started = [roles.start("aggregator"), roles.start("producers", CHAR, *PACE)]
            for role in started:
                await asyncio.to_thread(role.wait_ready, cluster.url)
            pipe, opening = AsyncPipe(user), opening_of(CHAR)
            await open_session(pipe, opening)
            await until_ended(pipe, opening.session)
            await pipe.close()
        assert _logs(cluster.nodes) == [[]] * 3
        # Each node has users of its own.
        cluster.nodes[2].run("ACL", "SETUSER", "council", "-xadd")
        assert missing_rights(Address(user)) == ["+xadd"]
    finally:
        cluster.close()


def test_the_rights_for_sentinels_are_enough(tmp_path: Path) -> None:
    with contextlib.ExitStack() as ending:
        master = Server(preferred_binary(), tmp_path)
        ending.callback(master.close)
        watch = f"sentinel monitor main 127.0.0.1 {master.port} 1"
        sentinel = Server(preferred_binary(), tmp_path, watch, sentinel=True)
        ending.callback(sentinel.close)
        master.run(*rule())
        login = "sentinel_username=council&sentinel_password=PASSWORD"
        url = f"redis+sentinel://council:PASSWORD@127.0.0.1:{sentinel.port}/main?{login}"
        sentinel.run("ACL", "SETUSER", "council", "on", ">PASSWORD", "-@all")
        with pytest.raises(Refused, match=r"lacks the right \+sentinel\|get-master-addr-by-name"):
            check_rights(url, RECORDER_RIGHTS)
        sentinel.run("ACL", "LOG", "RESET")
        sentinel.run(*rule("redis-cli -p 26379"))
        check_rights(url, RECORDER_RIGHTS)
        check_server(url)
        assert _logs([master, sentinel]) == [[], []]
