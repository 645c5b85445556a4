"""Slow clients: they receive the newest frame, lose no text, do not slow other clients, and are closed when stalled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import aiohttp
import pytest

from consumers.web.live.feeds import RECENT_WINDOWS
from consumers.web.live.packets import FramePacket, merged_frame_packet
from consumers.web.live.viewers import CLIENT_STALLED, MOST_BEHIND, MOST_BUFFERED_BYTES, STALL_S, CloseReason, Viewer
from schemas.frames import encode_frame
from tests.consumers.web.live.test_merging import frame_of
from tests.support.live_clients import FramesClient
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer, record_of

# --- a viewer by itself -----------------------------------------------------------------------------------------------


class SlowTransport(asyncio.WriteTransport):
    """A transport whose client reads only when the test calls `read`."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.buffered = 0
        self.closing = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))
        self.buffered += len(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def read(self, size: int | None = None) -> None:
        """Reads so many bytes; by default all."""
        self.buffered = 0 if size is None else max(0, self.buffered - size)


class Ring:
    """A feed that a test fills; it keeps as many packets as a real one."""

    def __init__(self) -> None:
        self.packets: list[FramePacket] = []
        self.first = 0
        self.close_reason: CloseReason | None = None

    @property
    def end(self) -> int:
        return len(self.packets)

    def packet(self, index: int) -> FramePacket:
        assert index >= self.first, "the packet has left the feed"
        return self.packets[index]

    def merge(self, packets: list[FramePacket]) -> FramePacket:
        return merged_frame_packet(packets)

    def deliver(self) -> None:
        """Does nothing: the test calls send_pending() itself."""

    def add(self, text: str = "x", viewer: Viewer[FramePacket] | None = None) -> None:
        """Adds the next window; the oldest packet leaves, as in Feed."""
        if self.end - self.first == RECENT_WINDOWS:
            if viewer is not None and viewer.next == self.first:
                viewer.keep_missed(self.packets[self.first])
            self.first += 1
        self.packets.append(FramePacket(self.end, encode_frame(frame_of(self.end, (text, "")))))


def large_message(packet: FramePacket) -> bytes:
    """The window and the text, padded: two such messages are more than a client's buffer may contain."""
    text = packet.frame.members[0].text
    return json.dumps([packet.window, text]).encode().ljust(MOST_BUFFERED_BYTES // 2 + 1)


def received(client: SlowTransport) -> list[tuple[int, str]]:
    """(window, text) of each message."""
    return [tuple(json.loads(data)) for data in client.written]


async def viewer_of(ring: Ring, after: int = -1, replays_to: int = -1) -> tuple[Viewer[FramePacket], SlowTransport]:
    viewer: Viewer[FramePacket] = Viewer(ring, after, replays_to)
    client = SlowTransport()
    viewer.start(client, large_message)
    return viewer, client


async def test_a_client_that_reads_at_once_receives_each_frame_by_itself() -> None:
    ring = Ring()
    viewer, client = await viewer_of(ring)
    for window in range(100):
        ring.add(str(window))
        assert viewer.send_pending(window / 60)
        client.read()
    assert received(client) == [(window, str(window)) for window in range(100)]
    assert viewer.frames_merged == 0


async def test_a_burst_of_frames_is_not_merged_for_a_client_that_reads() -> None:
    """Five hundred frames at once, and a client that reads all that it is sent: it receives each frame."""
    ring = Ring()
    viewer, client = await viewer_of(ring)
    for window in range(500):
        ring.add(str(window))
    now_s = 0.0
    while not viewer.send_pending(now_s):
        client.read()
        now_s += 1 / 60
    assert received(client) == [(window, str(window)) for window in range(500)]


async def test_a_slow_client_receives_the_newest_frame_with_all_missed_text() -> None:
    ring = Ring()
    viewer, client = await viewer_of(ring)
    for window in range(50):
        ring.add(f"{window},")
        viewer.send_pending(window / 60)
    assert len(received(client)) == 2
    client.read()
    assert viewer.send_pending(1.0)
    assert received(client)[2] == (49, "".join(f"{window}," for window in range(2, 50)))
    assert viewer.frames_merged == 47
    # It has caught up: from now on it receives each frame by itself.
    client.read()
    ring.add("next")
    viewer.send_pending(1.1)
    assert received(client)[3] == (50, "next")


async def test_a_client_that_is_a_few_frames_behind_receives_each_of_them() -> None:
    ring = Ring()
    viewer, client = await viewer_of(ring)
    for window in range(2 + MOST_BEHIND):
        ring.add(str(window))
        viewer.send_pending(window / 60)
    while not viewer.send_pending(1.0):
        client.read()
    assert [window for window, _ in received(client)] == list(range(2 + MOST_BEHIND))


async def test_packets_that_leave_the_feed_unread_are_merged_and_not_lost() -> None:
    """A burst of two thousand frames, three times what a feed keeps, while a client reads nothing."""
    ring = Ring()
    viewer, client = await viewer_of(ring)
    for window in range(2_000):
        ring.add(f"{window},", viewer)
        viewer.send_pending(0.0)
    client.read()
    viewer.send_pending(1.0)
    assert received(client)[-1] == (1_999, "".join(f"{window}," for window in range(2, 2_000)))


async def test_replayed_frames_are_never_merged_even_for_the_slowest_client() -> None:
    ring = Ring()
    for window in range(100):
        ring.add(str(window))
    viewer, client = await viewer_of(ring, after=39, replays_to=99)
    now_s = 0.0
    while not viewer.send_pending(now_s):
        now_s += 1.0
        client.read(10_000)
    assert received(client) == [(window, str(window)) for window in range(40, 100)]


async def test_a_client_that_reads_nothing_for_ten_seconds_is_closed_and_one_that_reads_a_byte_is_not() -> None:
    for size, expected in ((0, CLIENT_STALLED), (1, None)):
        ring = Ring()
        viewer, client = await viewer_of(ring)
        start_s = asyncio.get_running_loop().time()
        for window in range(60 * (int(STALL_S) + 1)):
            ring.add("x", viewer)
            viewer.send_pending(start_s + window / 60)
            if window % 60 == 0:
                client.read(size)
        assert (viewer.done.result() if viewer.done.done() else None) is expected


async def test_a_viewer_that_is_not_started_loses_nothing() -> None:
    """The client is still being sent the text so far, while the feed goes on."""
    ring = Ring()
    viewer: Viewer[FramePacket] = Viewer(ring, 9)
    for window in range(RECENT_WINDOWS + 50):
        ring.add(f"{window},", viewer)
        assert viewer.send_pending(0.0)
    client = SlowTransport()
    viewer.start(client, large_message)
    while not viewer.send_pending(1.0):
        client.read()
    assert "".join(text for _, text in received(client)) == "".join(
        f"{window}," for window in range(10, RECENT_WINDOWS + 50)
    )


def tcp_pair(buffer_bytes: int) -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection with small kernel buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    for end in (ours, theirs):
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
    return ours, theirs


async def test_a_live_client_receives_each_frame_once_in_order_however_much_its_socket_takes() -> None:
    """The client joined at a window that the feed has not read yet. Frames are written to the kernel, and when that is
    full through the transport, in order; a closed transport gets no more."""
    ring, (ours, theirs) = Ring(), tcp_pair(30_000)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    viewer: Viewer[FramePacket] = Viewer(ring, 3)
    viewer.start(transport, lambda packet: b"%d." % packet.window + b"x" * 20_000)
    pushed, data_read = 0, b""

    def read() -> None:
        nonlocal data_read
        with contextlib.suppress(BlockingIOError):
            while data := theirs.recv(1 << 20):
                data_read += data

    for window in range(200):
        ring.add("x")
        if viewer.next == window and viewer.push(ring.packet(window), 0.0):
            pushed += 1
        else:
            viewer.send_pending(0.0)
        # Sometimes the kernel has room again before the transport knows it.
        if window % 5 in (2, 3):
            read()
        if window % 5 == 4:
            async with asyncio.timeout(10):
                while transport.get_write_buffer_size() or viewer.next < ring.end:
                    read()
                    await asyncio.sleep(0)
                    viewer.send_pending(0.0)
    assert 40 < pushed < 190
    read()
    parts = data_read.split(b".")
    assert [int(part.lstrip(b"x")) for part in parts[:-1]] == list(range(4, 200))
    assert all(part.count(b"x") == 20_000 for part in parts[1:])
    transport.abort()
    ring.add("x")
    assert not viewer.push(ring.packet(200), 0.0)
    theirs.close()


# --- the real process -------------------------------------------------------------------------------------------------


def unread_socket(web: WebServer, path: str) -> socket.socket:
    """A client that upgrades and then reads nothing, with a small kernel buffer."""
    host, port = web.address.split(":")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    found.connect((host, int(port)))
    head = f"GET {path} HTTP/1.1\r\nHost: {web.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    found.sendall(f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    return found


@pytest.fixture
def recorder(redis: RedisServer, web: WebServer) -> FrameWriter:
    wait_until(lambda: record_of(redis, web), "the web is ready")
    return FrameWriter(redis, text="x" * 2_000)


async def test_a_socket_that_never_reads_is_closed_after_ten_seconds(
    redis: RedisServer, web: WebServer, recorder: FrameWriter
) -> None:
    stalled = unread_socket(web, f"/frames?session={recorder.session}")
    began_s = asyncio.get_running_loop().time()

    async def is_closed() -> bool:
        recorder.write(20)
        record = record_of(redis, web)
        return record is not None and record.detail["clients_too_slow"] == 1

    await until(is_closed, "the client that reads nothing is closed")
    assert asyncio.get_running_loop().time() - began_s >= STALL_S
    record = record_of(redis, web)
    assert record
    assert record.detail["clients"] == 0
    stalled.close()


async def test_a_slow_client_does_not_slow_the_others(
    redis: RedisServer, web: WebServer, recorder: FrameWriter, client: aiohttp.ClientSession
) -> None:
    """One client reads, one reads nothing for a while: the first receives every frame at once, the other all text
    in fewer frames."""
    reader = FramesClient(client, web, recorder.session)
    reading = asyncio.create_task(reader.read())
    other = aiohttp.ClientSession()
    async with other, other.ws_connect(f"{web.http}/frames?session={recorder.session}") as slow:
        assert slow._conn is not None
        transport: Any = slow._conn.transport
        transport.pause_reading()
        for number in range(60):
            recorder.write(30)

            async def has_all(count: int = 30 * (number + 1)) -> bool:
                return len(reader.frames) == count

            await until(has_all, "the client that reads has every frame", 5)
        transport.resume_reading()
        recorder.write(1, final=True)
        messages = [json.loads(message.data) async for message in slow]
        assert slow.close_code == 1000
    await reading
    assert [frame["window_index"] for frame in reader.frames] == list(range(1_801))
    shown = [frame["window_index"] for frame in messages]
    assert shown == sorted(set(shown))
    assert shown[-1] == 1_800
    assert len(shown) < 1_500
    assert "".join(frame["members"][0]["text"] for frame in messages) == "x" * 2_000 * 1_801

    def is_counted() -> bool:
        record = record_of(redis, web)
        return record is not None and record.detail["frames_merged"] == 1_801 - len(shown)

    wait_until(is_counted, "the merged frames are counted")


def reads_of(redis: RedisServer) -> int:
    """The number of XREAD commands that Redis has served."""
    return int(str(redis.run("INFO", "commandstats")).split("cmdstat_xread:calls=")[1].split(",")[0])


async def test_frames_are_read_from_redis_once_for_fifty_clients(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, recorder: FrameWriter
) -> None:
    """Fifty clients receive the same frames."""
    readers = [FramesClient(client, web, recorder.session) for _ in range(50)]
    reading = asyncio.gather(*(reader.read() for reader in readers))
    recorder.write(30)

    async def have_begun() -> bool:
        return all(reader.frames for reader in readers)

    await until(have_begun, "every client watches")
    before = reads_of(redis)
    recorder.write(30, final=True)
    await reading
    # At most one for each frame, and some of the processes that wait for sessions.
    assert reads_of(redis) - before <= 40
    assert all(reader.frames == readers[0].frames for reader in readers)
    assert len(readers[0].frames) == 60
