"""Who watches while things break: a life for every key at every moment, and how long a session stood still."""

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
_BARE = """
local bare = {}
for _, name in ipairs(redis.call('KEYS', 'council:*')) do
  if redis.call('TTL', name) == -1 then bare[#bare + 1] = name end
end
return bare
"""


@dataclass(frozen=True)
class Seen:
    """A session as it was last looked at. `moved_at` is when its window was first another one, by the monotonic clock;
    `stood_still_s` the longest time between two such moments."""

    window: int = -1
    status: str = "open"
    moved_at: float = 0.0
    stood_still_s: float = 0.0

    def then(self, window: int, status: str) -> Seen:
        # Another number, not a larger one: Redis may have been rolled back.
        if window == self.window:
            return replace(self, status=status)
        now = time.monotonic()
        return Seen(window, status, now, max(self.stood_still_s, now - self.moved_at))


class Witness:
    """Looks at Redis fifty times a second until it is closed: at every key's life, and at each session's window."""

    def __init__(self, url: str) -> None:
        self.keys_without_life: set[bytes] = set()
        self.looks = 0
        self._url = url
        self._seen: dict[str, Seen] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def follow(self, session: str) -> None:
        """From now on its windows are looked at."""
        self._seen[session] = Seen(moved_at=time.monotonic())

    def seen(self, session: str) -> Seen:
        return self._seen[session]

    def open_sessions(self) -> list[str]:
        """Those that are followed and had not ended when they were last looked at."""
        return [name for name, seen in list(self._seen.items()) if seen.status == "open"]

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()

    def _watch(self) -> None:
        with contextlib.closing(Pipe(self._url)) as pipe:
            while not self._is_closed.wait(_BETWEEN_LOOKS_S):
                # Redis is away: there is nothing to see.
                with contextlib.suppress(RedisAway):
                    self._look(pipe)

    def _look(self, pipe: Pipe) -> None:
        sessions = list(self._seen)
        bare, *states = pipe.run(
            [("EVAL", _BARE, 0), *(("HMGET", keys.state(session), "window", "status") for session in sessions)]
        )
        if not isinstance(bare, ReplyError):
            self.keys_without_life |= set(bare)
            self.looks += 1
        for session, state in zip(sessions, states, strict=True):
            if not isinstance(state, ReplyError) and state[0] is not None:
                self._seen[session] = self._seen[session].then(int(state[0]), state[1].decode())


def commands_in(log: Path) -> Iterator[list[bytes]]:
    """The commands of an append-only file."""
    reader = hiredis.Reader()
    reader.feed(log.read_bytes())
    while (command := reader.gets()) is not False:
        words: Any = command
        yield words


def bare_moments(log: Path) -> list[tuple[bytes, ...]]:
    """Every moment at which some key of the council had no time to live, as the keys that had none.

    A moment is what others can see: the time after a command, or after a transaction. Scripts stand in the file as the
    transaction of what they did; what expired, as its DEL; in Redis 6.2 SET ... EX as SET and PEXPIREAT.
    """
    mortal: set[bytes] = set()
    present: set[bytes] = set()
    moments: list[tuple[bytes, ...]] = []
    is_in_transaction, was_set = False, b""
    for words in commands_in(log):
        name = words[0].upper()
        is_life_of_set = name == b"PEXPIREAT" and words[1] == was_set
        if not is_in_transaction and not is_life_of_set and (bare := tuple(sorted(present - mortal))):
            moments.append(bare)
        was_set = words[1] if name == b"SET" else b""
        if name in (b"MULTI", b"EXEC"):
            is_in_transaction = name == b"MULTI"
        elif name != b"SELECT":
            _apply(name, words, present, mortal)
    return moments


def _apply(name: bytes, words: list[bytes], present: set[bytes], mortal: set[bytes]) -> None:
    if name in (b"DEL", b"UNLINK"):
        present.difference_update(words[1:])
        mortal.difference_update(words[1:])
        return
    if name in (b"FLUSHALL", b"FLUSHDB"):
        present.clear()
        mortal.clear()
        return
    key = words[2] if name == b"XGROUP" else words[1]
    if name == b"SET":
        mortal.discard(key)
    if name in (b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT") or {b"EX", b"PX", b"PXAT", b"EXAT"} & set(words[3:]):
        mortal.add(key)
    if name not in (b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"):
        # Not a script's source, which Redis 6.2 keeps in its file as well.
        present |= {key} if key.startswith(b"council:") else set()
