"""The web process for tests: `python -m consumers.web`, its process record, and a client of its frames."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time

import aiohttp
import msgspec

from schemas import keys
from schemas.processes import ProcessRecord
from tests.support.redis_servers import RedisServer
from transport.redis.connection import Pipe

WORD, CHAR = "ngram:word-3", "ngram:char-6"
PACE = ("--tokens-per-s", "200")


class WebServer:
    """The web process on a listening socket that outlives it, as under a supervisor: it may be killed and restarted."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        host: str = "127.0.0.1",
        files: int = 0,
        most_file_bytes: int = 0,
        **variables: str,
    ) -> None:
        """`files`: how many it may have open; `most_file_bytes`: the size limit of a file. 0 is no limit."""
        self._url, self._arguments, self._variables = url, arguments, variables
        self._limits = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_FSIZE: most_file_bytes}
        self._stderr = tempfile.TemporaryFile()  # closed by close()
        self._listening = socket.create_server((host, 0), backlog=64)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.http = f"http://{self.address}"
        self.start()

    def start(self) -> None:
        fd = self._listening.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "consumers.web", "--fd", str(fd), *self._arguments],
            env={**os.environ, "REDIS_URL": self._url, "COUNCIL_TIER": "mid", "COUNCIL_LOG": "info", **self._variables},
            stdin=subprocess.DEVNULL, stderr=self._stderr, pass_fds=[fd], preexec_fn=self._limit,
        )  # fmt: skip

    def _limit(self) -> None:
        for kind, most in self._limits.items():
            if most:
                resource.setrlimit(kind, (most, most))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> float:
        """Sends SIGTERM; the seconds until it has ended with exit code 0."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(15) == 0, self.log()
        return time.monotonic() - started

    def log(self) -> str:
        """Its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def close(self) -> None:
        self.kill()
        self._listening.close()
        self._stderr.close()


def record_of(redis: RedisServer, web: WebServer) -> ProcessRecord | None:
    """The process record of the web process, None where there is none yet."""
    with contextlib.closing(Pipe(redis.url)) as pipe:
        (names,) = pipe.run([("ZRANGE", keys.PROCESSES, 0, -1)])
        found = pipe.run([("GET", keys.process(name.decode())) for name in names])
    records = [msgspec.json.decode(raw, type=ProcessRecord) for raw in found if raw]
    return next((record for record in records if record.pid == web.process.pid), None)


async def watch(client: aiohttp.ClientSession, web: WebServer, session: str) -> tuple[list[str], int]:
    """All messages of a session's `/frames` socket, and its close code."""
    async with client.ws_connect(f"{web.http}/frames?session={session}") as found:
        messages = [message.data async for message in found]
        assert found.close_code is not None
        return messages, found.close_code


def windows(messages: list[str]) -> list[int]:
    return [msgspec.json.decode(message)["window_index"] for message in messages]
