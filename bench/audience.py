"""`python -m bench.audience HOST PORT COUNT PATH`: so many clients in one process, which note when each message came.

With a PATH they are WebSockets there; without one (`-`) they read what a bare writer sends in the same form. They say
"ready" when all are connected, and hand over their notes when their standard input ends.
"""

from __future__ import annotations

import base64
import os
import selectors
import socket
import subprocess
import sys
import time

import msgspec

from bench.report import quantile
from schemas.grid import NS_PER_MS

BARE = "-"
_READY = b"ready\n"
_READ_BYTES = 64 * 1024
_END_S = 20.0
_CONNECT_S = 10.0
# A window of the session in our own frames, of the global grid in the protocol's.
_NUMBERS = (b'"window_index":', b'"type":"energy_update"')
_FRAME_NUMBER = b'"frameNumber":'


class Heard(msgspec.Struct, array_like=True):
    """What all clients together have heard: when a message came (wall clock, ns), and the number of the window that it
    tells (-1: none)."""

    at_ns: list[int] = []
    numbers: list[int] = []

    def between(self, began_ns: int, ended_ns: int) -> int:
        """How many messages came in this time."""
        return sum(began_ns <= at_ns < ended_ns for at_ns in self.at_ns)

    def delays_ms(self, sent_ns: dict[int, int], began_ns: int) -> list[float]:
        """From when each window was sent until each client had it, of those sent from `began_ns` on."""
        found = []
        for at_ns, number in zip(self.at_ns, self.numbers, strict=True):
            if sent_ns.get(number, 0) >= began_ns:
                found.append((at_ns - sent_ns[number]) / NS_PER_MS)
        return found


class Audience:
    """The clients' process, from the side of whoever started it."""

    def __init__(self, host: str, port: int, count: int, path: str) -> None:
        command = [sys.executable, "-m", "bench.audience", host, str(port), str(count), path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Raises RuntimeError where not all of them get in."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _READY:
            raise RuntimeError("not every client could connect")

    def end(self) -> Heard:
        """Ends them; what they heard."""
        try:
            output, _ = self._process.communicate(timeout=_END_S)
        finally:
            self._process.kill()
        return msgspec.msgpack.decode(output, type=Heard)


class _Client:
    """One connection: bytes in, messages noted."""

    def __init__(self, connection: socket.socket, heard: Heard) -> None:
        self.connection, self._heard = connection, heard
        self._buffer = b""

    def read(self) -> bool:
        """False at the end."""
        data = self.connection.recv(_READ_BYTES)
        at_ns = time.time_ns()
        buffer, at = self._buffer + data, 0
        while (payload := _payload(buffer, at)) is not None:
            start, end = payload
            if buffer[at] & 0x0F == 1:
                self._heard.at_ns.append(at_ns)
                self._heard.numbers.append(_number(buffer, start, end))
            at = end
        self._buffer = buffer[at:]
        return bool(data)


def _payload(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the message at `at` begins and ends, if it is there whole."""
    if len(buffer) < at + 2:
        return None
    size, start = buffer[at + 1], at + 2
    if size == 126:
        size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
    elif size == 127:
        size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
    return (start, start + size) if len(buffer) >= start + size else None


def _number(buffer: bytes, start: int, end: int) -> int:
    ours, protocol = _NUMBERS
    found = buffer.find(ours, start, min(end, start + 64))
    at = found + len(ours)
    if found < 0:
        if buffer.find(protocol, start, min(end, start + 32)) < 0:
            return -1
        at = buffer.find(_FRAME_NUMBER, start, end) + len(_FRAME_NUMBER)
    stop = at
    while buffer[stop : stop + 1].isdigit():
        stop += 1
    return int(buffer[at:stop])


def _connected(host: str, port: int, path: str) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=_CONNECT_S)
    if path != BARE:
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        connection.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            # Byte by byte: what comes after the head is a message already.
            answer += connection.recv(1)
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise RuntimeError(answer.decode(errors="replace"))
    connection.setblocking(False)
    return connection


def middle_and_tail(delays_ms: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    return quantile(delays_ms, 0.5), quantile(delays_ms, 0.99)


def main() -> None:
    host, port, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    heard, selector = Heard(), selectors.DefaultSelector()
    for _ in range(count):
        connection = _connected(host, port, path)
        selector.register(connection, selectors.EVENT_READ, _Client(connection, heard))
    selector.register(0, selectors.EVENT_READ)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    is_over = False
    while not is_over:
        for key, _ in selector.select():
            if key.data is None:
                is_over = not os.read(0, 1)
            elif not key.data.read():
                selector.unregister(key.fileobj)
    sys.stdout.buffer.write(msgspec.msgpack.encode(heard))


if __name__ == "__main__":
    main()
