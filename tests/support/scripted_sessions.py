"""Sessions whose content a test chooses: a producer that writes the entries, or frames without an aggregator."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec

from schemas import keys
from schemas.entries import AnyEntry, Claim, Failed, Finished, Lane, Token, encode_entry
from schemas.frames import MemberFrame, encode_frame
from schemas.sessions import Replay
from tests.support.frames import made_frame
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from tests.support.waiting import wait_until
from transport.redis.connection import Pipe
from transport.redis.scripts import SCRIPTS
from transport.register import ProcessRegistration

# A record of a process lasts five seconds. No process renews a scripted one, and on a busy machine a browser or a
# command may need longer to start.
_OFFERED_S = 60


def offer_role(redis: RedisServer, registration: ProcessRegistration) -> None:
    """Writes the record of a ready process, which lasts a minute."""
    registration.ready = True
    with contextlib.closing(Pipe(redis.url)) as pipe:
        pipe.run([*registration.renew(), ("EXPIRE", keys.process(registration.name), _OFFERED_S)])


def offer_aggregator(redis: RedisServer) -> None:
    """Writes the record of an aggregator that does nothing: sessions can be opened."""
    offer_role(redis, ProcessRegistration("aggregator"))


class ScriptedProducer:
    """The producer of one model, member 0 of its session. It writes an entry when a test calls a method."""

    def __init__(self, redis: RedisServer, model: str) -> None:
        self.model, self._redis = model, redis
        self._session, self._claim, self._seq = "", "", 0
        self._registration = ProcessRegistration("producer", model=model)

    def offer(self) -> None:
        """Writes its process record."""
        offer_role(self._redis, self._registration)

    def take(self, session: str) -> None:
        self._session = session
        self._claim = self._write(Claim(0, time.time_ns())).decode()

    def take_newest(self) -> None:
        """Waits for a session, and takes the one that was opened last."""

        def newest() -> Any:
            entries = self._redis.run("XREVRANGE", keys.SESSIONS, "+", "-", "COUNT", 1)
            return entries[0][1][1].decode() if entries else None  # type: ignore[index]

        self.take(wait_until(newest, "a session is opened"))

    def say(self, text: str, lane: Lane = "answer") -> None:
        """Writes one token."""
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


def emptied(key: str) -> list[tuple[str, ...]]:
    """The commands after which a stream has no entries, takes any id, and keeps its time to live."""
    return [("XTRIM", key, "MAXLEN", "=", "0"), ("XSETID", key, "0-0")]


class FrameWriter:
    """Writes the frames of a session that no aggregator serves: their number, speed and content are the test's."""

    def __init__(
        self,
        redis: RedisServer,
        text: str = "",
        models: tuple[str, ...] = ("test:recorded",),
        opened: str = "*",
        replay: Replay | None = None,
    ) -> None:
        """`opened` is the id of a replay's opening."""
        self._redis, self.text, self.models = redis, text, models
        opening = msgspec.structs.replace(opening_of(*models), replay=replay)
        self.session, self.key = opening.session, keys.frames(opening.session)
        self.count = 0
        redis.run(*SCRIPTS["open"].call(keys.of_session(self.session), [encode_entry(opening), 600, opened]))  # type: ignore[arg-type]

    def announce(self) -> None:
        """Adds the session to the list of sessions."""
        self._redis.run("XADD", keys.SESSIONS, "*", keys.SESSION_FIELD, self.session)
        self._redis.run("EXPIRE", keys.SESSIONS, str(keys.SESSIONS_TTL_S))

    def lose(self) -> None:
        """Empties the frames stream; the next frame is that of window 0 again."""
        with contextlib.closing(Pipe(self._redis.url)) as pipe:
            pipe.run(emptied(self.key))
        self.count = 0

    def write(self, count: int, *, final: bool = False, nonce: bytes = b"", **fields: Any) -> None:
        """The next `count` frames, with these fields changed; `final` marks the last one, `nonce` is their writer's."""
        with contextlib.closing(Pipe(self._redis.url)) as pipe:
            pipe.run([self._command(self.count + n, final and n == count - 1, nonce, fields) for n in range(count)])
        self.count += count

    def _command(
        self, window: int, final: bool, nonce: bytes, fields: dict[str, Any]
    ) -> tuple[str | bytes | int | float, ...]:
        members = tuple(
            MemberFrame(name, "answering", 0.5, 1.0, None, 0, 0, self.text, "", None) for name in self.models
        )
        values = {"session": self.session, "mode": "single", "final": final, "members": members} | fields
        raw = encode_frame(made_frame(window, **values))
        return ("XADD", self.key, keys.frame_id(window), keys.ENTRY_FIELD, raw, *((b"n", nonce) if nonce else ()))
