"""Role processes for tests: `python -m aggregator`, `producers`, `consumers.*` on one Redis."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.support.waiting import wait_until
from transport.redis.connection import Pipe
from transport.register import ready_pids


class Role:
    """One role process; its standard error goes into a file."""

    def __init__(self, url: str, *arguments: str, **environment: str) -> None:
        self._stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "REDIS_URL": url, "COUNCIL_LOG": "info", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self.url = url

    def wait_ready(self, url: str | None = None) -> Role:
        """Returns itself when its process record is marked as ready. `url`: a Redis to read it from, where the role's
        own connection to Redis has faults."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
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

    def log(self) -> str:
        """Its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode("utf-8", "replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._stderr.close()


class Roles:
    """Starts role processes on one Redis, and ends those that still run at the end."""

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
