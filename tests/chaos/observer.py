"""Observes Redis during faults: every key has a time to live at every moment, and how long a session stood still."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hiredis

from schemas import keys
from schemas.errors import RedisAway
from transport.redis.connection import Pipe, ReplyError

_BETWEEN_LOOKS_S = 0.02
_KEYS_WITHOUT_TTL = """
local found = {}
for _, name in ipairs(redis.call('KEYS', 'council:*')) do
  if redis.call('TTL', name) == -1 then found[#found + 1] = name end
end
return found
"""


@dataclass(frozen=True)
class Progress:
    """A session at the last look. `moved_at`: the monotonic time at which its window was first seen. `stood_still_s`:
    the longest time for which one window was the newest."""

    window: int = -1
    status: str = "open"
    moved_at: float = 0.0
    stood_still_s: float = 0.0

    def after(self, window: int, status: str) -> Progress:
        # A different number, not only a larger one: Redis may have been rolled back.
        if window == self.window:
            return replace(self, status=status)
        now = time.monotonic()
        return Progress(window, status, now, max(self.stood_still_s, now - self.moved_at))


class Observer:
    """A thread that reads, fifty times a second, the time to live of every key and the window of each session."""

    def __init__(self, url: str) -> None:
        self.keys_without_ttl: set[bytes] = set()
        self.looks = 0
        self._url = url
        self._sessions: dict[str, Progress] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._observe, daemon=True)
        self._thread.start()

    def follow(self, session: str) -> None:
        """Reads this session's windows from now on."""
        self._sessions[session] = Progress(moved_at=time.monotonic())

    def progress(self, session: str) -> Progress:
        return self._sessions[session]

    def open_sessions(self) -> list[str]:
        """The followed sessions that had not ended at the last look."""
        return [name for name, progress in list(self._sessions.items()) if progress.status == "open"]

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()

    def _observe(self) -> None:
        with contextlib.closing(Pipe(self._url)) as pipe:
            while not self._is_closed.wait(_BETWEEN_LOOKS_S):
                # While Redis is away there is nothing to read.
                with contextlib.suppress(RedisAway):
                    self._look(pipe)

    def _look(self, pipe: Pipe) -> None:
        sessions = list(self._sessions)
        found, *states = pipe.run(
            [
                ("EVAL", _KEYS_WITHOUT_TTL, 0),
                *(("HMGET", keys.state(session), "window", "status") for session in sessions),
            ]
        )
        if not isinstance(found, ReplyError):
            self.keys_without_ttl |= set(found)
            self.looks += 1
        for session, state in zip(sessions, states, strict=True):
            if not isinstance(state, ReplyError) and state[0] is not None:
                self._sessions[session] = self._sessions[session].after(int(state[0]), state[1].decode())


def commands_in(file: Path) -> Iterator[list[bytes]]:
    """The commands of an append-only file."""
    reader = hiredis.Reader()
    reader.feed(file.read_bytes())
    while (command := reader.gets()) is not False:
        words: Any = command
        yield words


def moments_without_ttl(file: Path) -> list[tuple[bytes, ...]]:
    """The keys of the council without a time to live, for each moment at which there were any.

    Moments are after a command or a transaction, where other clients can see the keys. In the file a script is the
    transaction of its commands, an expired key is a DEL, and in Redis 6.2 a SET ... EX is a SET and a PEXPIREAT.
    """
    with_ttl: set[bytes] = set()
    present: set[bytes] = set()
    moments: list[tuple[bytes, ...]] = []
    is_in_transaction, was_set = False, b""
    for words in commands_in(file):
        name = words[0].upper()
        is_ttl_of_set = name == b"PEXPIREAT" and words[1] == was_set
        if not is_in_transaction and not is_ttl_of_set and (found := tuple(sorted(present - with_ttl))):
            moments.append(found)
        was_set = words[1] if name == b"SET" else b""
        if name in (b"MULTI", b"EXEC"):
            is_in_transaction = name == b"MULTI"
        elif name != b"SELECT":
            _apply(name, words, present, with_ttl)
    return moments


def _apply(name: bytes, words: list[bytes], present: set[bytes], with_ttl: set[bytes]) -> None:
    if name in (b"DEL", b"UNLINK"):
        present.difference_update(words[1:])
        with_ttl.difference_update(words[1:])
        return
    if name in (b"FLUSHALL", b"FLUSHDB"):
        present.clear()
        with_ttl.clear()
        return
    key = words[2] if name == b"XGROUP" else words[1]
    if name == b"SET":
        with_ttl.discard(key)
    if name in (b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT") or {b"EX", b"PX", b"PXAT", b"EXAT"} & set(words[3:]):
        with_ttl.add(key)
    if name not in (b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"):
        # Redis 6.2 also writes the source of a script, which is not a key, into its file.
        present |= {key} if key.startswith(b"council:") else set()
