"""A connection that the server closes while it is idle is known to be closed before a command is sent on it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.errors import RedisAway
from tests.support.clusters import Server, free_port
from tests.support.redis_servers import RedisServer, preferred_binary
from tests.support.waiting import until
from transport.redis import link
from transport.redis.connection import AsyncPipe, BlockingPipe, Pipe


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, dict[str, str]]]:
    """A server, and its URLs by the kind of connection."""
    folder = Path(tempfile.mkdtemp(prefix="council-idle-"))
    socket_path = folder / "redis.sock"
    options, tls = ["--unixsocket", str(socket_path)], free_port()
    urls = {"unix": f"unix://{socket_path}"}
    if shutil.which("openssl") and b"tls-cert-file" in Path(preferred_binary()).read_bytes():
        urls["tls"] = f"rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=none&ssl_check_hostname=false"
        certificate, key = str(folder / "server.crt"), str(folder / "server.key")
        subject = ["-subj", "/CN=localhost", "-days", "1", "-nodes", "-keyout", key, "-out", certificate]
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        subprocess.run(["openssl", "req", "-x509", *new_key, *subject], check=True, capture_output=True)
        of_tls = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]
        options += ["--tls-port", str(tls), *of_tls]
    found = Server(preferred_binary(), folder, *options)
    yield found, urls | {"tcp": found.url}
    found.close()
    shutil.rmtree(folder, ignore_errors=True)


def _url(server: tuple[Server, dict[str, str]], kind: str) -> str:
    return server[1].get(kind) or pytest.skip("it needs openssl, and a Redis that was built with TLS")


KINDS = pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])


@KINDS
async def test_the_first_run_after_an_idle_connection_was_closed_succeeds(
    server: tuple[Server, dict[str, str]], kind: str
) -> None:
    """Closed by CLIENT KILL in between; each command is executed once, on a connection that callers see as new."""
    pipe = AsyncPipe(_url(server, kind))
    assert await pipe.one("DEL", "count") in (0, 1)
    for number in range(1, 4):
        server[0].run("CLIENT", "KILL", "TYPE", "normal")
        counts = await asyncio.gather(*(pipe.one("INCR", "count") for _ in range(3)))
        assert counts == [3 * number - 2, 3 * number - 1, 3 * number]
    assert pipe.connections == 4
    await pipe.close()


@KINDS
def test_a_thread_knows_it_as_well(
    server: tuple[Server, dict[str, str]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that follows from earlier replies is not sent on another connection: it raises RedisAway."""
    monkeypatch.setattr(link, "_CHECKED_AFTER_S", 0.0)
    pipe = Pipe(_url(server, kind))
    pipe.run([("SET", "count", 0)])
    server[0].run("CLIENT", "KILL", "TYPE", "normal")
    assert pipe.run([("INCR", "count")]) == [1]
    assert pipe.connections == 2
    server[0].run("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises(RedisAway):
        pipe.run([("INCR", "count")], follows=False)
    assert pipe.run([("INCR", "count")]) == [2]
    pipe.close()


async def test_a_server_that_closes_idle_clients_costs_no_request(own_redis: RedisServer) -> None:
    """Redis's setting `timeout`, and a restart."""
    pipe = AsyncPipe(own_redis.url)
    await pipe.run([("CONFIG", "SET", "timeout", 1)])

    async def is_closed() -> bool:
        return not pipe._home.is_fresh

    for _ in range(2):
        await until(is_closed, "the server has closed the connection")
        assert await pipe.one("PING") == b"PONG"
    own_redis.kill()
    own_redis.start()
    assert await pipe.one("PING") == b"PONG"
    await pipe.close()


async def test_a_task_that_reads_on_is_not_connected_anew_unnoticed(redis: RedisServer) -> None:
    """What it has read may be lost. Nothing is sent: the next run connects."""
    pipe = BlockingPipe(redis.url)
    await pipe.run([("SET", "count", 0)])
    redis.run("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises(RedisAway, match="has closed the connection"):
        await pipe.run([("INCR", "count")])
    assert await pipe.run([("INCR", "count")]) == [1]
    await pipe.close()


class Router:
    """Forwards bytes between TCP clients and a server's Unix socket. It may forget connections: what a client sends
    then is answered by a reset, or by nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._clients: list[asyncio.StreamWriter] = []
        self._forgotten = 0
        self.url = ""

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(self._path)
        self._clients.append(writer)
        number = len(self._clients)

        async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if number > self._forgotten:
                    target.write(data)

        await asyncio.gather(forward(reader, outer), forward(inner, writer), return_exceptions=True)

    def forget(self) -> None:
        """Nothing is forwarded on the present connections, and nothing is reported."""
        self._forgotten = len(self._clients)

    async def reset(self) -> None:
        """Sends a RST to each client."""
        for writer in self._clients:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def routed(redis: RedisServer) -> AsyncIterator[Router]:
    router = Router(redis.socket)
    server = await router.open()
    try:
        yield router
    finally:
        server.close()


async def test_a_connection_that_is_reset_while_it_is_idle_is_known(redis: RedisServer) -> None:
    async with routed(redis) as router:
        pipe = AsyncPipe(router.url)
        assert await pipe.one("PING") == b"PONG"
        await router.reset()
        assert await pipe.one("PING") == b"PONG"
        await pipe.close()


async def test_after_a_long_rest_the_server_is_asked_before_a_command_is_sent(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router between has forgotten the connection, and reports nothing."""
    async with routed(redis) as router:
        pipe = AsyncPipe(router.url)
        assert await pipe.one("SET", "count", 0) == b"OK"
        monkeypatch.setattr(link, "_ASKED_AFTER_S", 0.0)
        assert [await pipe.one("INCR", "count"), pipe.connections] == [1, 1]
        router.forget()
        assert [await pipe.one("INCR", "count"), pipe.connections] == [2, 2]
        await pipe.close()


async def test_a_command_that_may_have_been_executed_is_not_sent_again(own_redis: RedisServer) -> None:
    """The connection breaks while the reply is awaited, for a read as well."""
    pipe = AsyncPipe(own_redis.url)
    await pipe.one("PING")
    own_redis.process.send_signal(signal.SIGSTOP)
    asking = asyncio.create_task(pipe.one("PING"))
    await asyncio.sleep(0)
    own_redis.kill()
    with pytest.raises(RedisAway):
        await asking
    await pipe.close()
