"""Real processes for tests: a private Redis server, and roles that work on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from council.running.keeper import bundled_servers, server_on_path, start_server, url_of, wait_until_it_answers
from runtime.socket_folder import new_socket_folder
from schemas.errors import RedisAway
from tests.support.waiting import wait_until
from transport.redis.connection import Pipe, ReplyError
from transport.register import ready_pids


def redis_binaries() -> dict[str, str]:
    """The Redis servers that this machine has, in the order in which the council would choose."""
    on_path = server_on_path()
    return ({"system": on_path} if on_path else {}) | bundled_servers()


class RedisServer:
    """A private server: a process and a URL. It may be killed and started again."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        # Not pytest's folder: a unix socket's path is short.
        self.folder = new_socket_folder("test")
        self.url = url_of(self.folder)
        self.start()

    def start(self) -> None:
        self.process = start_server(self.binary, self.folder)
        assert wait_until_it_answers(self.process, self.folder), "redis-server does not start"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, *command: str | bytes | int) -> object:
        """The reply to one command."""
        with contextlib.closing(Pipe(self.url)) as pipe:
            (reply,) = pipe.run([command])
        assert not isinstance(reply, ReplyError), reply
        return reply

    def keys_without_life(self) -> list[bytes]:
        """The council's keys that would stay for ever: there must be none at any moment."""
        with contextlib.closing(Pipe(self.url)) as pipe:
            (names,) = pipe.run([("KEYS", "council:*")])
            lives = pipe.run([("TTL", name) for name in names])
        return [name for name, life in zip(names, lives, strict=True) if life == -1]

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class DurableRedis(RedisServer):
    """A server that writes each command into a file before it answers: killed and started again it knows everything.

    The file is only ever appended to, so it can be rolled back: what stood in it at an earlier moment is its beginning.
    """

    def __init__(self, binary: str, **environment: str) -> None:
        self._environment = environment
        super().__init__(binary)

    @property
    def socket(self) -> str:
        """Where it listens."""
        return str(self.folder / "redis.sock")

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                self.binary, "--port", "0", "--unixsocket", self.socket, "--dir", str(self.folder), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no",
                "--auto-aof-rewrite-percentage", "0", "--logfile", str(self.folder / "redis.log"),
            ],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert wait_until_it_answers(self.process, self.folder), "redis-server does not start"
        wait_until(self._has_loaded, "redis-server has read its file")

    def _has_loaded(self) -> bool:
        with contextlib.suppress(RedisAway), contextlib.closing(Pipe(self.url)) as pipe:
            return pipe.run([("PING",)]) == [b"PONG"]
        return False

    @property
    def log(self) -> Path:
        """The append-only file; since Redis 7.0 in a folder of its own."""
        (found,) = [path for path in self.folder.rglob("*.aof") if "base" not in path.name]
        return found

    def restart(self) -> None:
        self.kill()
        self.start()

    def roll_back(self, to_bytes: int) -> None:
        """Restarts with the file as it was when it was so long, less what was not whole then: all since is lost.

        Less that, because Redis mends a file that ends within a transaction badly: the beginning of it stays there, and
        takes effect when the file is read the next time, whatever was said meanwhile.
        """
        self.kill()
        os.truncate(self.log, _whole_bytes(self.log.read_bytes()[:to_bytes]))
        self.start()


def _whole_bytes(log: bytes) -> int:
    """How much of the beginning of an append-only file is whole: up to the last command outside of a transaction, or to
    a transaction's end."""
    whole, at, depth = 0, 0, 0
    while (end_of_count := log.find(b"\r\n", at)) > 0:
        count, start = int(log[at + 1 : end_of_count]), end_of_count + 2
        name = b""
        for word in range(count):
            end_of_size = log.find(b"\r\n", start)
            if end_of_size < 0:
                return whole
            size = int(log[start + 1 : end_of_size])
            name = log[end_of_size + 2 : end_of_size + 2 + size] if word == 0 else name
            start = end_of_size + 2 + size + 2
        if start > len(log):
            return whole
        depth += {b"MULTI": 1, b"EXEC": -1}.get(name.upper(), 0)
        at = start
        whole = at if depth == 0 else whole
    return whole


class Role:
    """One role process, its errors kept in a file."""

    def __init__(self, url: str, *arguments: str, **environment: str) -> None:
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "REDIS_URL": url, "COUNCIL_LOG": "info", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.url = url

    def wait_ready(self, url: str | None = None) -> Role:
        """`url` is where to ask, where the role's own way to Redis is not to be trusted."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.said()
            with contextlib.closing(Pipe(url or self.url)) as pipe:
                return self.process.pid in ready_pids(pipe)

        wait_until(is_ready, f"{self.process.args} is ready")
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()


class Roles:
    """Starts roles on one Redis, and ends whatever is left of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._started: list[Role] = []

    def start(self, *arguments: str, **environment: str) -> Role:
        """`python -m ARGUMENTS`, without waiting for it."""
        role = Role(self.url, *arguments, **environment)
        self._started.append(role)
        return role

    def ready(self, *arguments: str, **environment: str) -> Role:
        """`python -m ARGUMENTS`, ready to serve."""
        return self.start(*arguments, **environment).wait_ready()

    def close(self) -> None:
        for role in self._started:
            role.close()


@contextlib.contextmanager
def roles_on(url: str) -> Iterator[Roles]:
    roles = Roles(url)
    try:
        yield roles
    finally:
        roles.close()
