"""The parts of redis-py and hiredis that the council uses beyond their documented clients.

A version that changes them fails here. pyproject.toml bounds both to the major versions with which these tests pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import tomllib
from importlib.metadata import version

import hiredis
import pytest
import redis.connection
from packaging.requirements import Requirement
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from transport.redis.address import Address
from transport.redis.replies import is_refused_connection

BOUNDED = [
    requirement
    for written in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if (requirement := Requirement(written)).name in ("redis", "hiredis")
]


def test_both_are_bounded_to_the_installed_major_version() -> None:
    assert sorted(requirement.name for requirement in BOUNDED) == ["hiredis", "redis"]
    for requirement in BOUNDED:
        installed = version(requirement.name)
        major = int(installed.split(".")[0])
        assert requirement.specifier.contains(installed)
        assert not requirement.specifier.contains(f"{major + 1}.0.0")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://me:pw@h:7/3", "Connection"),
        ("rediss://h", "SSLConnection"),
        ("unix:///tmp/x.sock?db=2", "UnixDomainSocketConnection"),
    ],
)
def test_a_url_makes_a_connection_of_each_kind_that_connects_at_its_first_use(url: str, kind: str) -> None:
    address = Address(url)
    for connection in (address.connection(), address.async_connection()):
        assert type(connection).__name__ == kind
        assert connection.is_connected is False
    where = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    assert {name: where[name] for name in ("username", "password", "host", "port", "db", "path") if name in where} == {
        "Connection": {"username": "me", "password": "pw", "host": "h", "port": 7, "db": 3},
        "SSLConnection": {"host": "h"},
        "UnixDomainSocketConnection": {"path": "/tmp/x.sock", "db": 2},
    }[kind]


def test_commands_are_packed_as_redis_reads_them() -> None:
    packed = hiredis.pack_command(("SET", b"\xff\r\n", 7, 0.5, "ä"))  # type: ignore[arg-type]
    assert packed == b"*5\r\n$3\r\nSET\r\n$3\r\n\xff\r\n\r\n$1\r\n7\r\n$3\r\n0.5\r\n$2\r\n\xc3\xa4\r\n"
    with pytest.raises(TypeError):
        hiredis.pack_command(("SET", "k", None))  # type: ignore[arg-type]


def test_packed_commands_are_sent_and_replies_are_bytes_in_their_order(redis: RedisServer) -> None:
    connection = Address(redis.url).connection()
    connection.connect()
    connection.send_packed_command([b"PING\r\nECHO x\r\nGET\r\nTIME\r\n"], check_health=False)
    assert [connection.read_response(disable_decoding=True) for _ in range(2)] == [b"PONG", b"x"]
    with pytest.raises(ResponseError):
        connection.read_response(disable_decoding=True)
    assert connection.is_connected
    assert len(connection.read_response(disable_decoding=True)) == 2
    connection.disconnect()
    assert not connection.is_connected


async def test_a_read_that_is_cancelled_loses_no_reply(redis: RedisServer) -> None:
    """The pipe goes on reading on the same connection."""
    connection = Address(redis.url).async_connection()
    await connection.connect()
    await connection.send_packed_command(b"BLPOP k 0.2\r\nECHO x\r\n", check_health=False)
    read = {"disable_decoding": True, "timeout": None, "disconnect_on_error": False}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connection.read_response(**read)
    assert connection.is_connected
    assert [await connection.read_response(**read) for _ in range(2)] == [None, b"x"]
    await connection.disconnect(nowait=True)
    assert not connection.is_connected


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"READONLY You can't write", ReadOnlyError),
        (b"OOM command not allowed", OutOfMemoryError),
        (b"NOSCRIPT No matching script", NoScriptError),
        (b"MOVED 7 h:6", MovedError),
        (b"ASK 7 h:6", AskError),
        (b"TRYAGAIN Multiple keys", TryAgainError),
        (b"CLUSTERDOWN Hash slot not served", ClusterDownError),
        (b"UNBLOCKED force unblock", ResponseError),
        (b"ERR Error running script: -READONLY You can't write", ResponseError),
    ],
)
async def test_each_error_of_redis_has_its_type(answer: bytes, kind: type[ResponseError]) -> None:
    """As a reply that leaves the connection open, for threads and for asyncio."""
    found = list[ResponseError]()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line == b"ASKED\r\n":
                    writer.write(b"-" + answer + b"\r\n")
                elif line[:1] == b"*":
                    writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    address = Address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    def in_a_thread() -> None:
        connection = address.connection()
        connection.connect()
        connection.send_packed_command([b"ASKED\r\n"], check_health=False)
        with pytest.raises(kind) as raised:
            connection.read_response(disable_decoding=True)
        assert connection.is_connected
        connection.disconnect()
        found.append(raised.value)

    await asyncio.to_thread(in_a_thread)
    connection = address.async_connection()
    await connection.connect()
    await connection.send_packed_command(b"ASKED\r\n", check_health=False)
    with pytest.raises(kind) as raised:
        await connection.read_response(disable_decoding=True, timeout=None, disconnect_on_error=False)
    assert connection.is_connected
    await connection.disconnect(nowait=True)
    server.close()
    found.append(raised.value)
    for error in found:
        assert type(error) is kind
        if isinstance(error, AskError):
            assert (error.slot_id, error.node_addr) == (7, ("h", 6))


async def test_a_wrong_password_is_recognized_in_the_exception_of_connect(redis: RedisServer) -> None:
    redis.run("ACL", "SETUSER", "other", "on", ">secret")
    address = Address(redis.url.replace("unix://", "unix://other:guessed@"))
    try:
        with pytest.raises(AuthenticationError) as raised:
            address.connection().connect()
        assert is_refused_connection(raised.value)
        with pytest.raises(RedisError) as wrapped:
            await address.async_connection().connect()
        assert is_refused_connection(wrapped.value)
    finally:
        redis.run("ACL", "DELUSER", "other")


def test_a_slot_is_that_of_the_hash_tag() -> None:
    assert [key_slot(key) for key in (b"foo", b"a{foo}b", b"123456789")] == [12182, 12182, 12739]
