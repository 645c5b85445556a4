"""A Redis that refuses what a process writes: the process logs it once and takes nothing new, and clients get the
reason."""

from __future__ import annotations

import asyncio

import aiohttp

from schemas import keys
from tests.runtime.test_presence import FULL, REFUSES, ROOM
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, roles_on
from tests.support.sessions import opening_of
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import list_sessions, open_session

MODEL = "ngram:char-6"
ROLES = {
    keys.AGGREGATOR_GROUP: ("aggregator",),
    keys.DECIPHER_GROUP: ("consumers.decipher",),
    keys.producer_group(MODEL): ("producers", MODEL, "--tokens-per-s", "10"),
}


async def test_a_full_redis_is_the_reason_that_clients_get_and_no_process_vanishes(each_redis: RedisServer) -> None:
    """Roles run ... Redis is full: their records stay ... it has room: a new session is opened."""
    pipe, web = AsyncPipe(each_redis.url), WebServer(each_redis.url)
    _, limit = await pipe.one("CONFIG", "GET", "maxmemory")
    with roles_on(each_redis.url) as roles:
        try:
            started = [roles.start(*role) for role in ROLES.values()]
            for role in started:
                await asyncio.to_thread(role.wait_ready)
            async with aiohttp.ClientSession() as client:

                async def asked(method: str, path: str, **body: object) -> tuple[int, str]:
                    try:
                        async with client.request(method, f"{web.http}{path}", **body) as answer:  # type: ignore[arg-type]
                            found = await answer.json()
                            return answer.status, found.get("error", {}).get("code", "")
                    except aiohttp.ClientConnectionError:
                        return 0, ""

                async def is_ready() -> bool:
                    return await asked("GET", "/readyz") == (200, "")

                await until(is_ready, "the council is ready")
                names = {record.name for record in await list_processes(pipe)}
                await pipe.one("CONFIG", "SET", "maxmemory", "1")
                assert await asked("GET", "/readyz") == (503, "redis_full")
                for role in started:
                    wait_until(lambda role=role: FULL in role.log(), "the role has noticed")
                for name in names:
                    await pipe.one("PEXPIRE", keys.process(name), 1_500)

                async def are_renewed() -> bool:
                    lives = await pipe.run([("PTTL", keys.process(name)) for name in names])
                    return min(lives) > 1_500

                await until(are_renewed, "the records that exist are kept")
                assert {record.name for record in await list_processes(pipe)} == names
                prompt = {"prompt": "hi", "models": [MODEL]}
                assert await asked("POST", "/api/sessions", json=prompt) == (503, "redis_full")
                await pipe.one("CONFIG", "SET", "maxmemory", limit)

                async def is_opened() -> bool:
                    return (await asked("POST", "/api/sessions", json=prompt))[0] == 201

                await until(is_opened, "there is room")

                async def is_answered() -> bool:
                    (session,) = await list_sessions(pipe)
                    return bool(session.phase and session.progress and session.progress[0].next_seq)

                await until(is_answered, "every role serves the session")
                for role in started:
                    assert (role.log().count(FULL), role.log().count(ROOM)) == (1, 1)
        finally:
            await pipe.one("CONFIG", "SET", "maxmemory", limit)
            web.close()
    await pipe.close()


async def _owners(pipe: AsyncPipe, group: str) -> list[str]:
    """The processes that hold leases of the group."""
    *_, owners = await pipe.one("XPENDING", keys.SESSIONS, group)
    return [name.decode() for name, _ in owners or ()]


async def test_a_role_whose_record_is_refused_takes_no_session(redis: RedisServer) -> None:
    """The user of the first processes loses a right while they wait for a session: the second ones take it."""
    pipe = AsyncPipe(redis.url)
    redis.run("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all")
    limited = redis.url.replace("unix://", "unix://limited:secret@")
    try:
        with roles_on(limited) as first, roles_on(redis.url) as second:
            refused = [first.start(*role) for role in ROLES.values()]
            for role in refused:
                await asyncio.to_thread(role.wait_ready)
            redis.run("ACL", "SETUSER", "limited", "-set")
            for role in refused:
                wait_until(lambda role=role: REFUSES in role.log(), "the role has noticed")
            await open_session(pipe, opening_of(MODEL))
            others = [second.start(*role) for role in ROLES.values()]
            for group, role in zip(ROLES, others, strict=True):

                async def has_it(group: str = group, role: Role = role) -> bool:
                    return any(f"-{role.process.pid}-" in owner for owner in await _owners(pipe, group))

                await until(has_it, f"the second process of {group} takes the session")
            for role in refused:
                assert role.log().count(REFUSES) == 1
                assert "+set" in role.log()
    finally:
        redis.run("ACL", "DELUSER", "limited")
    await pipe.close()


async def test_the_web_process_names_the_right_that_it_lacks(redis: RedisServer) -> None:
    redis.run("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all")
    web = WebServer(redis.url.replace("unix://", "unix://limited:secret@"))
    try:
        async with aiohttp.ClientSession() as client:

            async def answer() -> str:
                try:
                    async with client.get(f"{web.http}/readyz") as found:
                        return str((await found.json())["error"]["message"])
                except aiohttp.ClientConnectionError:
                    return ""

            assert "no model is served" in await until(answer, "the web process answers")
            redis.run("ACL", "SETUSER", "limited", "-set")

            async def names_it() -> bool:
                return "+set" in await answer()

            await until(names_it, "the right is named")
    finally:
        web.close()
        redis.run("ACL", "DELUSER", "limited")
