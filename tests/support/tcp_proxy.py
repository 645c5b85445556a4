"""A TCP proxy in front of Redis with faults that a test chooses.

    role --commands--> proxy --commands--> Redis
    role <---replies-- proxy <---replies-- Redis

It splits the bytes into commands and replies, so that a fault strikes one command of a pipeline: Redis executes those
before it, and not those after it.

    CUT_BEFORE  the connection breaks before the command reaches Redis
    CUT_AFTER   the connection breaks after Redis has executed the command and before its reply
    HOLD        the proxy holds the command, and all commands after it, until the test releases it
    TWICE       Redis receives the command twice; the client receives the second reply
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

from schemas.entries import Steered, decode_entry
from transport.redis.scripts import SCRIPTS

Words = list[bytes]

# A command that a test does not release is released after this time.
_LONGEST_HOLD_S = 60.0
_CHUNK_BYTES = 65_536


class Kind(Enum):
    CUT_BEFORE = auto()
    CUT_AFTER = auto()
    HOLD = auto()
    TWICE = auto()


class Fault:
    """A fault of the next `times` commands for which `matches` is true.

    `commands` are those that it struck, `replies` the raw replies to them.
    """

    def __init__(self, kind: Kind, matches: Callable[[Words], bool], times: int = 1) -> None:
        self.kind, self.matches, self.left = kind, matches, times
        self.commands: list[Words] = []
        self.replies: list[bytes] = []
        self._released = threading.Event()

    def release(self, then: Kind | None = None) -> None:
        """Releases a held command; `then` is another fault that strikes it now."""
        self.kind = then or self.kind
        self._released.set()

    def wait_for_release(self) -> None:
        self._released.wait(_LONGEST_HOLD_S)


def is_commit(words: Words) -> bool:
    return words[0] == b"EVALSHA" and words[1] == SCRIPTS["commit"].sha.encode()


def is_steering(words: Words) -> bool:
    """A commit of a window in which a member is steered: it writes marks of that."""
    if not is_commit(words):
        return False
    marks = words[23 : 23 + int(words[16])]
    return any(isinstance(decode_entry(mark), Steered) for mark in marks)


def is_state_read(words: Words) -> bool:
    """The read of a session's state, in which a producer finds its grant and its steer."""
    return words[0] == b"HMGET" and words[1].endswith(b":state")


def is_token_read(words: Words) -> bool:
    """The aggregator's read of new entries of a token stream, and a producer's check of its session."""
    return words[0] == b"XRANGE" and words[1].endswith(b":tokens")


def is_token_write(words: Words) -> bool:
    return words[0] == b"XADD" and words[1].endswith(b":tokens")


def is_events_write(words: Words) -> bool:
    return words[0] == b"EVALSHA" and words[1] == SCRIPTS["events"].sha.encode()


def is_session_read(words: Words) -> bool:
    """A read of sessions that no process serves yet: the reply is a lease."""
    return words[0] == b"XREADGROUP"


class Proxy:
    """Listens on a port of this machine, and connects each client with the Redis at the Unix socket `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._listen, daemon=True).start()

    def strike(self, kind: Kind, matches: Callable[[Words], bool], times: int = 1) -> Fault:
        """Adds a fault, which is active from now on."""
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

    def move_to(self, path: str) -> None:
        """Connects each later client with the Redis at this path; those that are connected stay where they are."""
        self._path = path

    def cut_all(self) -> None:
        """Breaks all present connections."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()

    def close(self) -> None:
        with self._lock:
            for fault in self._faults:
                fault.left = 0
                fault.release()
        # close() alone does not wake a thread that waits in accept().
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
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._path)
            except OSError:
                # While Redis is away this connection breaks as well.
                client.close()
                server.close()
                continue
            connection = _Connection(self, client, server)
            with self._lock:
                self._connections.add(connection)
            connection.start()


class _Connection:
    """The connection of one client, with a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        # The effect on the reply of each command on its way to Redis. "swallowed": the client did not send the command.
        self._expected: deque[Fault | str] = deque()
        # CUT_AFTER: no further command is forwarded, and the connection breaks when the reply arrives.
        self._awaits_last_reply = False

    def start(self) -> None:
        for work in (self._forward_commands, self._forward_replies):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, forward: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            forward()
        if not (self._awaits_last_reply and forward == self._forward_commands):
            self.cut()

    def cut(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._proxy.forget(self)

    def _forward_commands(self) -> None:
        for batch in _values_from(self._client):
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
        """False where no further command is forwarded to Redis."""
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

    def _forward_replies(self) -> None:
        for batch in _values_from(self._server):
            passing = bytearray()
            for raw in batch:
                effect = self._expected.popleft()
                if isinstance(effect, Fault):
                    effect.replies.append(raw)
                    if effect.kind is Kind.CUT_AFTER:
                        self._client.sendall(passing)
                        return
                if effect != "swallowed":
                    passing += raw
            self._client.sendall(passing)


def _words(raw: bytes) -> Words:
    reader = hiredis.Reader()
    reader.feed(raw)
    words: Any = reader.gets()
    return list(words)


def _values_from(end: socket.socket) -> Iterator[list[bytes]]:
    """The complete RESP2 values that arrive, those of one recv() in one list, until the other side closes."""
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
    """The end of the RESP2 value that begins at `start`; -1 while it is not complete."""
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
