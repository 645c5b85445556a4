"""A TCP proxy before Redis, which breaks what passes through it where a test says so.

    role --commands--> proxy --commands--> Redis
    role <---replies-- proxy <---replies-- Redis

It takes the stream of bytes apart into commands and replies, so that a fault strikes one command of a pipeline: those
before it have run, those after it have not.

    CUT_BEFORE  the command never reaches Redis, and the connection breaks
    CUT_AFTER   Redis has run the command; its reply is lost, and the connection breaks
    HOLD        the command waits on the way, and everything behind it, until the test releases it
    TWICE       the command arrives twice, and the reply is the second one's
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any

import hiredis

from transport.redis.scripts import SCRIPTS

Words = list[bytes]

# Whoever holds a command for longer has forgotten it.
_LONGEST_HOLD_S = 60.0
_CHUNK_BYTES = 65_536


class Kind(Enum):
    CUT_BEFORE = auto()
    CUT_AFTER = auto()
    HOLD = auto()
    TWICE = auto()


class Fault:
    """What happens to the next `times` commands for which `matches` is true.

    `commands` are those that it struck, `replies` what Redis said to them, as it came.
    """

    def __init__(self, kind: Kind, matches: Callable[[Words], bool], times: int = 1) -> None:
        self.kind, self.matches, self.left = kind, matches, times
        self.commands: list[Words] = []
        self.replies: list[bytes] = []
        self._released = threading.Event()

    def release(self, then: Kind | None = None) -> None:
        """Lets what HOLD holds go on; `then` is what happens to it instead of arriving well."""
        self.kind = then or self.kind
        self._released.set()

    def wait_for_release(self) -> None:
        self._released.wait(_LONGEST_HOLD_S)


def is_commit(words: Words) -> bool:
    return words[0] == b"EVALSHA" and words[1] == SCRIPTS["commit"].sha.encode()


def is_token_read(words: Words) -> bool:
    """The aggregator's read of what is new in a token stream, and a producer's look at its session."""
    return words[0] == b"XRANGE" and words[1].endswith(b":tokens")


def is_token_write(words: Words) -> bool:
    return words[0] == b"XADD" and words[1].endswith(b":tokens")


def is_events_write(words: Words) -> bool:
    return words[0] == b"EVALSHA" and words[1] == SCRIPTS["events"].sha.encode()


def is_session_read(words: Words) -> bool:
    """A consumer's read of the sessions that nobody serves yet: its reply is a lease."""
    return words[0] == b"XREADGROUP"


class Proxy:
    """Listens on a port of this machine, and connects each caller with the Redis behind the unix socket `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._listen, daemon=True).start()

    def strike(self, kind: Kind, matches: Callable[[Words], bool], times: int = 1) -> Fault:
        """From now on the fault is out there."""
        fault = Fault(kind, matches, times)
        with self._lock:
            self._faults.append(fault)
        return fault

    def fault_for(self, words: Words) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.left and fault.matches(words):
                    fault.left -= 1
                    fault.commands.append(words)
                    return fault
        return None

    def cut_all(self) -> None:
        """Breaks every connection that there is now."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()

    def close(self) -> None:
        with self._lock:
            for fault in self._faults:
                fault.left = 0
                fault.release()
        # A thread that waits in accept() is not woken by close() alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._path)
            except OSError:
                # Redis is away: so is this connection.
                caller.close()
                server.close()
                continue
            connection = _Connection(self, caller, server)
            with self._lock:
                self._connections.add(connection)
            connection.start()


class _Connection:
    """One caller's connection: a thread for each direction."""

    def __init__(self, proxy: Proxy, caller: socket.socket, server: socket.socket) -> None:
        self._proxy, self._caller, self._server = proxy, caller, server
        # For each command on its way to Redis: what is to happen to its reply. SWALLOWED: the caller never asked.
        self._expected: deque[Fault | str] = deque()
        # CUT_AFTER: nothing more is carried to Redis, and the connection breaks when the reply is there.
        self._awaits_last_reply = False

    def start(self) -> None:
        for work in (self._carry_commands, self._carry_replies):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, carry: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            carry()
        if not (self._awaits_last_reply and carry == self._carry_commands):
            self.cut()

    def cut(self) -> None:
        for end in (self._caller, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._proxy.forget(self)

    def _carry_commands(self) -> None:
        for batch in _values_from(self._caller):
            passing = bytearray()
            for raw in batch:
                fault = self._proxy.fault_for(_words(raw))
                if fault is None:
                    self._expected.append("passed")
                    passing += raw
                    continue
                self._server.sendall(passing)
                passing.clear()
                if not self._strike(fault, raw):
                    return
            self._server.sendall(passing)

    def _strike(self, fault: Fault, raw: bytes) -> bool:
        """False where nothing more is carried to Redis."""
        if fault.kind is Kind.HOLD:
            fault.wait_for_release()
        if fault.kind is Kind.CUT_BEFORE:
            return False
        if fault.kind is Kind.TWICE:
            self._expected.append("swallowed")
        self._expected.append(fault)
        self._awaits_last_reply = fault.kind is Kind.CUT_AFTER
        self._server.sendall(raw * 2 if fault.kind is Kind.TWICE else raw)
        return not self._awaits_last_reply

    def _carry_replies(self) -> None:
        for batch in _values_from(self._server):
            passing = bytearray()
            for raw in batch:
                fate = self._expected.popleft()
                if isinstance(fate, Fault):
                    fate.replies.append(raw)
                    if fate.kind is Kind.CUT_AFTER:
                        self._caller.sendall(passing)
                        return
                if fate != "swallowed":
                    passing += raw
            self._caller.sendall(passing)


def _words(raw: bytes) -> Words:
    reader = hiredis.Reader()
    reader.feed(raw)
    words: Any = reader.gets()
    return list(words)


def _values_from(end: socket.socket) -> Iterator[list[bytes]]:
    """The RESP2 values that arrive, each whole, those that came together in one list; until the other side closes."""
    buffer = b""
    while data := end.recv(_CHUNK_BYTES):
        buffer += data
        values, start = [], 0
        while (after := _end_of_value(buffer, start)) > 0:
            values.append(buffer[start:after])
            start = after
        buffer = buffer[start:]
        if values:
            yield values


def _end_of_value(buffer: bytes, start: int) -> int:
    """Where the RESP2 value that begins at `start` ends; -1 while it is not whole."""
    line = buffer.find(b"\r\n", start)
    if line < 0:
        return -1
    kind, after = buffer[start : start + 1], line + 2
    if kind in b"+-:":
        return after
    count = int(buffer[start + 1 : line])
    if kind == b"$":
        after += count + 2 if count >= 0 else 0
        return after if after <= len(buffer) else -1
    for _ in range(count):
        after = _end_of_value(buffer, after)
        if after < 0:
            return -1
    return after
