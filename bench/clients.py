"""`python -m bench.clients HOST PORT COUNT PATH`: many clients in one process, which note when each message arrives.

They are WebSockets at PATH. With `-` as the path they read the messages of bench.bare_sender, which have the same form.
The process prints "ready" when all are connected, and its notes when its standard input ends.
"""

from __future__ import annotations

import base64
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.module_process import READY, ModuleProcess, module_process
from bench.report import quantile
from schemas.grid import NS_PER_MS

BARE = "-"
_READ_BYTES = 64 * 1024
_CONNECT_S = 10.0
# A frame has the window of its session, a message of the protocol the window of the global grid.
_NUMBERS = (b'"window_index":', b'"type":"energy_update"')
_FRAME_NUMBER = b'"frameNumber":'


class Arrivals(msgspec.Struct, array_like=True):
    """The messages of all clients: when each arrived (wall clock, ns), and the window in it (-1: none)."""

    at_ns: list[int] = []
    windows: list[int] = []

    def between(self, began_ns: int, ended_ns: int) -> int:
        """How many messages arrived in this time."""
        return sum(began_ns <= at_ns < ended_ns for at_ns in self.at_ns)

    def delays_ms(self, sent_ns: dict[int, int], began_ns: int) -> list[float]:
        """The time from sending a window until a client had it, for each client and each window sent since
        `began_ns`."""
        found = []
        for at_ns, window in zip(self.at_ns, self.windows, strict=True):
            if sent_ns.get(window, 0) >= began_ns:
                found.append((at_ns - sent_ns[window]) / NS_PER_MS)
        return found


@contextmanager
def connected_clients(host: str, port: int, count: int, path: str) -> Iterator[ModuleProcess]:
    """The clients' process, once all are connected. Raises RuntimeError where one cannot connect."""
    with module_process("bench.clients", host, str(port), str(count), path) as clients:
        clients.line()
        yield clients


def arrivals_of(clients: ModuleProcess) -> Arrivals:
    """Ends the clients; their notes."""
    return msgspec.msgpack.decode(clients.end(), type=Arrivals)


def median_and_p99(delays_ms: list[float]) -> tuple[float, float]:
    return quantile(delays_ms, 0.5), quantile(delays_ms, 0.99)


class _Client:
    """One connection: bytes in, messages noted."""

    def __init__(self, connection: socket.socket, arrivals: Arrivals) -> None:
        self.connection, self._arrivals = connection, arrivals
        self._buffer = b""

    def read(self) -> bool:
        """False at the end."""
        data = self.connection.recv(_READ_BYTES)
        at_ns = time.time_ns()
        buffer, at = self._buffer + data, 0
        while (payload := _payload(buffer, at)) is not None:
            start, end = payload
            if buffer[at] & 0x0F == 1:
                self._arrivals.at_ns.append(at_ns)
                self._arrivals.windows.append(_window(buffer, start, end))
            at = end
        self._buffer = buffer[at:]
        return bool(data)


def _payload(buffer: bytes, at: int) -> tuple[int, int] | None:
    """The start and the end of the payload of the message at `at`; None while it is not complete."""
    if len(buffer) < at + 2:
        return None
    size, start = buffer[at + 1], at + 2
    if size == 126:
        size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
    elif size == 127:
        size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
    return (start, start + size) if len(buffer) >= start + size else None


def _window(buffer: bytes, start: int, end: int) -> int:
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
            # Byte by byte: the bytes after the head are a message already.
            byte = connection.recv(1)
            if not byte:
                raise RuntimeError(f"the server closed the connection after {answer!r}")
            answer += byte
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise RuntimeError(answer.decode(errors="replace"))
    connection.setblocking(False)
    return connection


def main() -> None:
    host, port, count, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    arrivals, selector = Arrivals(), selectors.DefaultSelector()
    for _ in range(count):
        connection = _connected(host, port, path)
        selector.register(connection, selectors.EVENT_READ, _Client(connection, arrivals))
    selector.register(0, selectors.EVENT_READ)
    print(READY, flush=True)
    is_over = False
    while not is_over:
        for key, _ in selector.select():
            if key.data is None:
                is_over = not os.read(0, 1)
            elif not key.data.read():
                selector.unregister(key.fileobj)
    sys.stdout.buffer.write(msgspec.msgpack.encode(arrivals))


if __name__ == "__main__":
    main()
