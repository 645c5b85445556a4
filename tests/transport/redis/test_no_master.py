"""A server that becomes a replica, or loads its data, is away: each connection to it is closed, on every version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis as redis_py

from schemas.errors import RedisAway, Refused
from schemas.keys import of_session
from tests.support.clusters import Server
from tests.support.redis_servers import RedisServer, oldest_binary
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe, BlockingPipe, Command, Pipe, atomically
from transport.redis.scripts import SCRIPTS
from transport.redis.server_check import check_server

_WRITE = b"return redis.call('SET', KEYS[1], 'x')"
_GUARDED = b"local a = redis.pcall('SET', KEYS[1], 'x') return redis.error_reply(a.err)"
_GET, _SET = ("GET", "k"), ("SET", "k", "x", "EX", 60)
_SCRIPT, _GUARDED_SCRIPT = ("EVAL", _WRITE, 1, "k"), ("EVAL", _GUARDED, 1, "k")
# Its first write is guarded: a frame that exists is not an error.
_COMMIT = SCRIPTS["commit"].call(
    [of_session("a")[i] for i in (0, 1, 2, 4, 5)], [0, 0, "0-0", 0, "frame", 9, "", "", "", "open", "", 0, 9, 0]
)
WRITES: dict[str, Sequence[Command]] = {
    "a command": [_GET, _SET],
    "a script": [_SCRIPT],
    "a guarded command in a script": [_GUARDED_SCRIPT],
    "a frame's commit": [_COMMIT],
    "a transaction": atomically(_GET, _SET),
    "a script in a transaction": [_GET, *atomically(_GET, _SCRIPT, _GET), _GET],
    "a guarded command in a transaction": atomically(_GET, _GUARDED_SCRIPT),
}


@pytest.fixture
def direct(each_redis: RedisServer) -> Iterator[redis_py.Redis]:
    """The server as an administrator reaches it: our own connections refuse a replica. It is the master of a session's
    first state."""
    client = redis_py.Redis(unix_socket_path=each_redis.socket)
    client.hset("council:{a}:state", mapping={"epoch": 0, "window": -1})
    client.expire("council:{a}:state", 60)
    client.xadd("council:{a}:frames", {"e": "x"}, id="0-1")
    client.expire("council:{a}:frames", 60)
    yield client
    client.config_set("replica-serve-stale-data", "yes")
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.close()


def demote(client: redis_py.Redis) -> None:
    """Nothing listens at that port: the server keeps its data."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


@pytest.mark.parametrize("name", WRITES)
async def test_each_error_of_a_write_at_a_replica_closes_the_connection(
    each_redis: RedisServer, direct: redis_py.Redis, name: str
) -> None:
    for kind in (AsyncPipe, BlockingPipe):
        pipe = kind(each_redis.url)
        assert await pipe.run([_GET]) == [None]
        demote(direct)
        with pytest.raises(RedisAway, match="is a replica, which takes no writes: "):
            await pipe.run(WRITES[name])
        with pytest.raises(RedisAway, match="is a replica, which takes no writes: point the address at its master"):
            await pipe.run([_GET])
        direct.execute_command("REPLICAOF", "NO", "ONE")
        assert await pipe.run([_GET]) == [None]
        await pipe.close()
    with contextlib.closing(Pipe(each_redis.url)) as thread:
        thread.run([_GET])
        demote(direct)
        with pytest.raises(RedisAway, match="is a replica, which takes no writes"):
            thread.run(WRITES[name], follows=False)
        assert not thread._home.is_open


async def test_each_error_of_a_read_at_a_replica_closes_the_connection(
    each_redis: RedisServer, direct: redis_py.Redis
) -> None:
    """A blocking read ends with UNBLOCKED when the server becomes a replica, and a read with MASTERDOWN where the
    replica serves no old data; in a script as well."""
    pipe, alone = AsyncPipe(each_redis.url), BlockingPipe(each_redis.url)
    await pipe.run([_GET])
    await alone.run([_GET])
    blocked = asyncio.create_task(alone.wait(("XREAD", "STREAMS", "s", "0"), 20_000))

    async def is_blocked() -> bool:
        return bool(direct.info("clients")["blocked_clients"])

    await until(is_blocked, "the read waits")
    demote(direct)
    with pytest.raises(RedisAway, match="is a replica, which takes no writes: UNBLOCKED"):
        await blocked
    with pytest.raises(Refused, match="is a replica, which takes no writes: write the address of its master"):
        check_server(each_redis.url)
    direct.execute_command("REPLICAOF", "NO", "ONE")
    direct.config_set("replica-serve-stale-data", "no")
    for reads in ([_GET], [("EVAL", b"return redis.call('GET', KEYS[1])", 1, "k")], atomically(_GET)):
        assert await pipe.run([_GET]) == [None]
        demote(direct)
        with pytest.raises(RedisAway, match="is a replica, which takes no writes: Link with MASTER is down"):
            await pipe.run(reads)
        direct.execute_command("REPLICAOF", "NO", "ONE")
    await pipe.close()
    await alone.close()


async def test_a_pipe_that_only_reads_leaves_a_replica_that_another_pipe_has_noticed(
    each_redis: RedisServer, direct: redis_py.Redis
) -> None:
    """A replica answers reads for ever."""
    reader, writer = AsyncPipe(each_redis.url), AsyncPipe(each_redis.url)
    assert [await reader.one(*_GET), await writer.one(*_GET)] == [None, None]
    demote(direct)
    assert await reader.one(*_GET) is None
    with pytest.raises(RedisAway):
        await writer.one(*_SET)
    with pytest.raises(RedisAway, match="is a replica"):
        await reader.one(*_GET)
    direct.execute_command("REPLICAOF", "NO", "ONE")
    assert [await writer.one(*_GET), await reader.one(*_GET)] == [None, None]
    assert (reader.connections, writer.connections) == (2, 2)
    await reader.close()
    await writer.close()


async def test_a_server_that_loads_its_data_is_away() -> None:
    folder = Path(tempfile.mkdtemp(prefix="council-loading-"))
    server = Server(oldest_binary(), folder)
    try:
        # It looks after its clients once in 2 MB, which it reads in 0.2 s.
        for number in range(20):
            server.run("SET", f"council:{number}", os.urandom(1_050_000), "EX", 60)
        server.run("SAVE")
        server.kill()
        server._command += ["--key-load-delay", "100000"]
        server._answers = lambda: True  # type: ignore[method-assign]  # it does not, while it loads
        server.start()
        found = list[str]()
        pipe, thread = AsyncPipe(server.url), Pipe(server.url)

        async def has_loaded() -> bool:
            for run in (lambda: pipe.run([_GET]), lambda: asyncio.to_thread(thread.run, [_GET])):
                try:
                    return await run() == [None]
                except RedisAway as error:
                    found.append(str(error))
            return False

        await until(has_loaded, "the server has loaded its data")
        started = {error for error in found if "Error 111" not in error}
        assert len(started) == 1
        assert next(iter(started)).startswith(f"Redis at {server.url} loads its data: ")
        await pipe.close()
        thread.close()
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
