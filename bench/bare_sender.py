"""`python -m bench.bare_sender COUNT BYTES`: the least that many clients cost: one send() for each, 60 times a second.

It prints its port, waits until COUNT clients are connected, and sends until its standard input ends. Then it writes
when it sent each message.
"""

from __future__ import annotations

import select
import socket
import sys
import time

import msgspec

from bench.waiting import sleep_until
from consumers.web.live.packets import websocket_text
from schemas.grid import FRAME_RATE_HZ, NS_PER_S


def main() -> None:
    count, size = int(sys.argv[1]), int(sys.argv[2])
    listening = socket.create_server(("127.0.0.1", 0), backlog=count)
    print(listening.getsockname()[1], flush=True)
    connections = [listening.accept()[0] for _ in range(count)]
    for connection in connections:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    padding = "x" * max(0, size - len('{"window_index":0000000,"padding":""}'))
    began_ns, sent_ns, number = time.time_ns(), dict[int, int](), 0
    while not select.select([0], [], [], 0)[0]:
        number += 1
        sleep_until(began_ns + number * NS_PER_S // FRAME_RATE_HZ)
        message = websocket_text(f'{{"window_index":{number},"padding":"{padding}"}}'.encode())
        sent_ns[number] = time.time_ns()
        for connection in connections:
            connection.send(message)
    sys.stdout.buffer.write(msgspec.msgpack.encode(sent_ns))


if __name__ == "__main__":
    main()
