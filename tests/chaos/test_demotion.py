"""A Redis that becomes a replica replies to readers and writers with errors. Every role waits as if it was away."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import redis

from schemas.errors import RedisAway
from tests.chaos.events import check_finished_with_events
from tests.chaos.proxied_roles import AGGREGATOR, DECIPHER, long_opening, ngram, proxied_roles_on
from tests.support.clusters import Server
from tests.support.redis_servers import DurableRedis, oldest_binary, preferred_binary, redis_binaries
from tests.support.role_processes import roles_on
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session


@pytest.fixture(params=redis_binaries())
def durable(request: pytest.FixtureRequest) -> Iterator[DurableRedis]:
    """Each server of this machine: their errors differ."""
    server = DurableRedis(redis_binaries()[request.param])
    yield server
    server.close()


async def test_a_redis_that_is_demoted_is_waited_for_as_one_that_is_away(
    durable: DurableRedis, direct: AsyncPipe
) -> None:
    """REPLICAOF (no server there): UNBLOCKED to all readers, READONLY to all writers ... REPLICAOF NO ONE.

    Each role logs it once, however often it tries. Then the session goes on, every token is in one frame and every
    frame is composed once; a session opened later is served.
    """
    # Not through our own connections, which refuse a replica.
    plain = redis.Redis(unix_socket_path=durable.socket)
    with proxied_roles_on(durable, AGGREGATOR, ngram("char-6", 40), DECIPHER) as roles:
        opening = long_opening("char-6", max_tokens=100)
        await open_session(direct, opening)

        async def has_begun() -> bool:
            return (await find_session(direct, opening.session)).window > 20

        await until(has_begun, "the session is under way")
        plain.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RedisAway, match="read only replica"):
            await open_session(direct, long_opening("char-6", max_tokens=10))
        with pytest.raises(RedisAway, match="is a replica"):
            await direct.one("PING")
        connections = plain.info("stats")["total_connections_received"]

        async def all_have_noticed() -> bool:
            return all("Redis is away" in role.log() for role in roles.all)

        async def all_have_tried_again() -> bool:
            return bool(plain.info("stats")["total_connections_received"] > connections + 20)

        await until(all_have_noticed, "every role has noticed")
        await until(all_have_tried_again, "the roles have tried to connect several times each")
        assert [role.log().count("Redis is") for role in roles.all] == [1, 1, 1]
        plain.execute_command("REPLICAOF", "NO", "ONE")
        for session in (opening, long_opening("char-6", max_tokens=20)):
            if session is not opening:
                await open_session(direct, session)
            await check_finished_with_events(direct, session.session)
        roles.check()
    plain.close()


@pytest.fixture(params=sorted({oldest_binary(), preferred_binary()}))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """A master and its replica, each with a Unix socket in its folder as well."""
    folder = Path(tempfile.mkdtemp(prefix="council-pair-"))
    binary = request.param
    master = Server(binary, folder, "--unixsocket", "redis.sock", "--repl-diskless-sync-delay", "0")
    of_master = ("--replicaof", "127.0.0.1", str(master.port))
    replica = Server(binary, folder, "--unixsocket", "redis.sock", *of_master)
    wait_until(replica.is_synchronized, "the replica follows its master")
    yield master, replica
    replica.close()
    master.close()
    shutil.rmtree(folder, ignore_errors=True)


async def test_an_address_that_moves_to_the_new_master_is_followed(
    pair: tuple[Server, Server], client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """roles --> proxy --> master | a failover, after which the address leads to the new master. The old one runs on as
    its replica, and closes no connection.

    Each role goes on at the new master, and logs that once. The web process answers its next request.
    """
    master, replica = pair
    proxy = Proxy(str(master.folder / "redis.sock"))
    with contextlib.closing(proxy), roles_on(proxy.url) as roles, contextlib.closing(WebServer(proxy.url)) as web:
        council = [roles.start(*part) for part in (AGGREGATOR, ngram("char-6", 40), ngram("char-6", 40), DECIPHER)]
        library = {"COUNCIL_RECORDINGS": str(tmp_path), "COUNCIL_RECORD": "all"}
        council += [roles.start(part, **library) for part in ("producers.replay", "consumers.recorder")]
        for role in council:
            role.wait_ready(master.url)
        before, pipe = AsyncPipe(master.url), AsyncPipe(replica.url)
        openings = [long_opening("char-6", max_tokens=most) for most in (100, 120)]
        for opening in openings:
            await open_session(before, opening)

        async def has_begun() -> bool:
            return (await find_session(before, openings[-1].session)).window > 20

        await until(has_begun, "the sessions are under way")
        async with client.get(f"{web.http}/api/sessions") as answer:
            assert answer.status == 200
        replica.run("REPLICAOF", "NO", "ONE")
        proxy.move_to(str(replica.folder / "redis.sock"))
        master.run("REPLICAOF", "127.0.0.1", replica.port)
        everyone = [*council, web]

        async def all_have_noticed() -> bool:
            return all("Redis is away" in role.log() for role in everyone)

        await until(all_have_noticed, "every role has noticed")
        async with client.get(f"{web.http}/api/sessions") as answer:
            assert answer.status == 200, await answer.text()
        for opening in openings:
            await check_finished_with_events(pipe, opening.session)

        async def all_are_back() -> bool:
            return all("Redis is back" in role.log() for role in everyone)

        await until(all_are_back, "every role has noticed that the new master serves it")
        assert any("is a replica, which takes no writes" in role.log() for role in everyone)
        for role in everyone:
            lines = role.log().splitlines()
            assert sum("Redis is" in line for line in lines) == 2, role.log()
            away = next(line for line in lines if "Redis is away" in line)
            # The second one: the server closed a connection of this role before it was asked for a write.
            assert "is a replica, which takes no writes" in away or "Connection closed by server" in away
            assert role.process.poll() is None
            assert "Traceback" not in role.log()
        await before.close()
        await pipe.close()
