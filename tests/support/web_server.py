"""The web process for tests, its clients, and a producer that says what a test tells it to."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import aiohttp
import msgspec

from schemas import keys
from schemas.entries import AnyEntry, Claim, Failed, Finished, Lane, Token, encode_entry
from schemas.frames import MemberFrame, encode_frame
from schemas.processes import ProcessRecord
from tests.support.frames import made_frame
from tests.support.roles import RedisServer
from tests.support.sessions import opening_of
from tests.support.waiting import wait_until
from transport.redis.connection import Pipe
from transport.redis.scripts import SCRIPTS
from transport.register import ProcessRegistration

WORD, CHAR = "ngram:word-3", "ngram:char-6"
PACE = ("--tokens-per-s", "200")


class WebServer:
    """`python -m consumers.web` on a socket that outlives it, as under a supervisor: it may be killed."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        host: str = "127.0.0.1",
        files: int = 0,
        most_file_bytes: int = 0,
        **variables: str,
    ) -> None:
        """`files`: how many it may have open, `most_file_bytes`: how large one may become, where that is limited."""
        self._url, self._arguments, self._variables = url, arguments, variables
        limits = {"--nofile": files, "--fsize": most_file_bytes}
        self._limits = [f"{name}={limit}" for name, limit in limits.items() if limit]
        self._errors = tempfile.TemporaryFile()  # closed by close()
        self._listening = socket.create_server((host, 0), backlog=64)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.http = f"http://{self.address}"
        self.start()

    def start(self) -> None:
        fd = self._listening.fileno()
        limited = ["prlimit", *self._limits] if self._limits else []
        self.process = subprocess.Popen(
            [*limited, sys.executable, "-m", "consumers.web", "--fd", str(fd), *self._arguments],
            env={**os.environ, "REDIS_URL": self._url, "COUNCIL_TIER": "mid", "COUNCIL_LOG": "info", **self._variables},
            stdin=subprocess.DEVNULL, stderr=self._errors, pass_fds=[fd],
        )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> float:
        """SIGTERM; the seconds that it took to end well."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(15) == 0, self.said()
        return time.monotonic() - started

    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode()

    def close(self) -> None:
        self.kill()
        self._listening.close()
        self._errors.close()


def record_of(redis: RedisServer, web: WebServer) -> ProcessRecord | None:
    """What the council's register says of the web process."""
    with contextlib.closing(Pipe(redis.url)) as pipe:
        (names,) = pipe.run([("ZRANGE", keys.PROCESSES, 0, -1)])
        found = pipe.run([("GET", keys.process(name.decode())) for name in names])
    records = [msgspec.json.decode(raw, type=ProcessRecord) for raw in found if raw]
    return next((record for record in records if record.pid == web.process.pid), None)


async def watch(client: aiohttp.ClientSession, web: WebServer, session: str) -> tuple[list[str], int]:
    """Every message of a session's socket, and its close code."""
    async with client.ws_connect(f"{web.http}/frames?session={session}") as found:
        messages = [message.data async for message in found]
        assert found.close_code is not None
        return messages, found.close_code


def windows(messages: list[str]) -> list[int]:
    return [msgspec.json.decode(message)["window_index"] for message in messages]


class Speaker:
    """The producer of one model, member 0 of its session: it writes what it is told, when it is told."""

    def __init__(self, redis: RedisServer, model: str) -> None:
        self.model, self._redis = model, redis
        self._session, self._claim, self._seq = "", "", 0
        self._registration = ProcessRegistration("producer", model=model)
        self._registration.ready = True

    def offer(self) -> None:
        """The council knows of it for the next seconds."""
        with contextlib.closing(Pipe(self._redis.url)) as pipe:
            pipe.run(self._registration.renew())

    def take(self, session: str) -> None:
        self._session = session
        self._claim = self._write(Claim(0, time.time_ns())).decode()

    def take_newest(self) -> None:
        """The session that was opened last, once there is one."""

        def newest() -> Any:
            entries = self._redis.run("XREVRANGE", keys.SESSIONS, "+", "-", "COUNT", 1)
            return entries[0][1][1].decode() if entries else None  # type: ignore[index]

        self.take(wait_until(newest, "a session is opened"))

    def say(self, text: str, lane: Lane = "answer") -> None:
        now_ns = time.time_ns()
        self._write(Token(0, self._claim, self._seq, lane, text, now_ns, now_ns))
        self._seq += 1

    def finish(self) -> None:
        self._write(Finished(0, self._claim, time.time_ns(), self._seq))

    def fail(self, reason: str) -> None:
        self._write(Failed(0, self._claim, time.time_ns(), reason))

    def _write(self, entry: AnyEntry) -> bytes:
        raw = self._redis.run("XADD", keys.tokens(self._session), "*", keys.ENTRY_FIELD, encode_entry(entry))
        assert isinstance(raw, bytes)
        return raw


class Recorder:
    """Writes the frames of a session of its own, which no aggregator knows of: as many and as fast as a test needs, and
    with whatever it wants them to say."""

    def __init__(
        self, redis: RedisServer, text: str = "", models: tuple[str, ...] = ("test:recorded",), opened: str = "*"
    ) -> None:
        """`opened` is the id of a replay's opening."""
        self._redis, self._text, self.models = redis, text, models
        opening = opening_of(*models)
        self.session = opening.session
        self.count = 0
        redis.run(*SCRIPTS["open"].call(keys.of_session(self.session), [encode_entry(opening), 600, opened]))  # type: ignore[arg-type]

    def announce(self) -> None:
        """Whoever lists the sessions finds it."""
        self._redis.run("XADD", keys.SESSIONS, "*", keys.SESSION_FIELD, self.session)
        self._redis.run("EXPIRE", keys.SESSIONS, str(keys.SESSIONS_TTL_S))

    def write(self, count: int, *, final: bool = False, **said: Any) -> None:
        with contextlib.closing(Pipe(self._redis.url)) as pipe:
            pipe.run([self._command(self.count + n, final and n == count - 1, said) for n in range(count)])
        self.count += count

    def _command(self, window: int, final: bool, said: dict[str, Any]) -> tuple[str | bytes | int | float, ...]:
        members = tuple(
            MemberFrame(name, "answering", 0.5, 1.0, None, 0, 0, self._text, "", None) for name in self.models
        )
        values = {"session": self.session, "mode": "single", "final": final, "members": members} | said
        raw = encode_frame(made_frame(window, **values))
        return ("XADD", keys.frames(self.session), keys.frame_id(window), keys.ENTRY_FIELD, raw)
