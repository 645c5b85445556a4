"""Slow clients: they are told the newest, lose no text, cost nobody else anything, and are sent away when asleep."""

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
from consumers.web.live.viewers import MOST_BEHIND, MOST_WAITING_BYTES, PATIENCE_S, TAKES_NOTHING, Goodbye, Viewer
from schemas.frames import encode_frame
from tests.consumers.web.live.test_merging import frame_of
from tests.support.live_clients import FramesListener
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import Recorder
from tests.support.waiting import until, wait_until
from tests.support.web_server import WebServer, record_of

# --- a viewer by itself -----------------------------------------------------------------------------------------------


class Wire(asyncio.WriteTransport):
    """What a viewer sees of a socket that takes nothing by itself; `take` is what its client takes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.waiting = 0
        self.closing = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))
        self.waiting += len(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def take(self, size: int | None = None) -> None:
        self.waiting = 0 if size is None else max(0, self.waiting - size)


class Ring:
    """A feed that a test fills; it keeps as many packets as a real one."""

    def __init__(self) -> None:
        self.packets: list[FramePacket] = []
        self.first = 0
        self.goodbye: Goodbye | None = None

    @property
    def end(self) -> int:
        return len(self.packets)

    def packet(self, place: int) -> FramePacket:
        assert place >= self.first, "it fell out of the feed"
        return self.packets[place]

    def merge(self, packets: list[FramePacket]) -> FramePacket:
        return merged_frame_packet(packets)

    def tell(self) -> None:
        """Who was started is pumped by the test."""

    def add(self, text: str = "x", viewer: Viewer[FramePacket] | None = None) -> None:
        """The next window; the oldest packet falls out, as Feed does it."""
        if self.end - self.first == RECENT_WINDOWS:
            if viewer is not None and viewer.at == self.first:
                viewer.lose(self.packets[self.first])
            self.first += 1
        self.packets.append(FramePacket(self.end, encode_frame(frame_of(self.end, (text, "")))))


def wire_of(packet: FramePacket) -> bytes:
    """Large: two of them are more than may wait."""
    text = packet.frame.members[0].text
    return json.dumps([packet.window, text]).encode().ljust(MOST_WAITING_BYTES // 2 + 1)


def told(wire: Wire) -> list[tuple[int, str]]:
    return [tuple(json.loads(data)) for data in wire.written]


async def viewer_of(ring: Ring, after: int = -1, replays_to: int = -1) -> tuple[Viewer[FramePacket], Wire]:
    viewer: Viewer[FramePacket] = Viewer(ring, after, replays_to)
    wire = Wire()
    viewer.start(wire, wire_of)
    return viewer, wire


async def test_a_client_that_takes_what_it_is_given_gets_each_frame_by_itself() -> None:
    ring = Ring()
    viewer, wire = await viewer_of(ring)
    for window in range(100):
        ring.add(str(window))
        assert viewer.pump(window / 60)
        wire.take()
    assert told(wire) == [(window, str(window)) for window in range(100)]
    assert viewer.skipped == 0


async def test_a_burst_alone_makes_nobody_slow() -> None:
    """Five hundred frames at once, and a client that takes all it is given: nothing is left out."""
    ring = Ring()
    viewer, wire = await viewer_of(ring)
    for window in range(500):
        ring.add(str(window))
    now_s = 0.0
    while not viewer.pump(now_s):
        wire.take()
        now_s += 1 / 60
    assert told(wire) == [(window, str(window)) for window in range(500)]


async def test_a_slow_client_gets_the_newest_with_the_text_of_all_that_it_missed() -> None:
    ring = Ring()
    viewer, wire = await viewer_of(ring)
    for window in range(50):
        ring.add(f"{window},")
        viewer.pump(window / 60)
    assert len(told(wire)) == 2
    wire.take()
    assert viewer.pump(1.0)
    assert told(wire)[2] == (49, "".join(f"{window}," for window in range(2, 50)))
    assert viewer.skipped == 47
    # It has caught up: from now on it gets each again.
    wire.take()
    ring.add("next")
    viewer.pump(1.1)
    assert told(wire)[3] == (50, "next")


async def test_a_jitter_of_a_few_frames_leaves_nothing_out() -> None:
    ring = Ring()
    viewer, wire = await viewer_of(ring)
    for window in range(2 + MOST_BEHIND):
        ring.add(str(window))
        viewer.pump(window / 60)
    while not viewer.pump(1.0):
        wire.take()
    assert [window for window, _ in told(wire)] == list(range(2 + MOST_BEHIND))


async def test_what_falls_out_of_the_feed_before_a_client_takes_it_is_not_lost() -> None:
    """A burst of two thousand frames, three times what a feed keeps, while a client takes nothing."""
    ring = Ring()
    viewer, wire = await viewer_of(ring)
    for window in range(2_000):
        ring.add(f"{window},", viewer)
        viewer.pump(0.0)
    wire.take()
    viewer.pump(1.0)
    assert told(wire)[-1] == (1_999, "".join(f"{window}," for window in range(2, 2_000)))


async def test_a_replay_is_told_frame_by_frame_to_the_slowest_client() -> None:
    ring = Ring()
    for window in range(100):
        ring.add(str(window))
    viewer, wire = await viewer_of(ring, after=39, replays_to=99)
    now_s = 0.0
    while not viewer.pump(now_s):
        now_s += 1.0
        wire.take(10_000)
    assert told(wire) == [(window, str(window)) for window in range(40, 100)]


async def test_a_client_that_takes_nothing_for_ten_seconds_is_sent_away_and_one_that_takes_a_byte_is_not() -> None:
    for taken, expected in ((0, TAKES_NOTHING), (1, None)):
        ring = Ring()
        viewer, wire = await viewer_of(ring)
        start_s = asyncio.get_running_loop().time()
        for window in range(60 * (int(PATIENCE_S) + 1)):
            ring.add("x", viewer)
            viewer.pump(start_s + window / 60)
            if window % 60 == 0:
                wire.take(taken)
        assert (viewer.done.result() if viewer.done.done() else None) is expected


async def test_a_client_that_is_told_nothing_yet_loses_nothing() -> None:
    """It joined, and is being told the text so far: meanwhile the feed goes on."""
    ring = Ring()
    viewer: Viewer[FramePacket] = Viewer(ring, 9)
    for window in range(RECENT_WINDOWS + 50):
        ring.add(f"{window},", viewer)
        assert viewer.pump(0.0)
    wire = Wire()
    viewer.start(wire, wire_of)
    while not viewer.pump(1.0):
        wire.take()
    assert "".join(text for _, text in told(wire)) == "".join(f"{window}," for window in range(10, RECENT_WINDOWS + 50))


def tcp_pair(buffer_bytes: int) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection whose kernel buffers hold little."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    for end in (ours, theirs):
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
    return ours, theirs


async def test_a_live_client_gets_each_frame_once_in_order_whatever_its_socket_takes() -> None:
    """It joined ahead of what the feed has read. Then each frame goes straight to the kernel, and when that is full
    through the transport, in order; a closed one gets nothing more."""
    ring, (ours, theirs) = Ring(), tcp_pair(30_000)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    viewer: Viewer[FramePacket] = Viewer(ring, 3)
    viewer.start(transport, lambda packet: b"%d." % packet.window + b"x" * 20_000)
    pushed, heard = 0, b""

    def hear() -> None:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            while data := theirs.recv(1 << 20):
                heard += data

    for window in range(200):
        ring.add("x")
        if viewer.at == window and viewer.push(ring.packet(window), 0.0):
            pushed += 1
        else:
            viewer.pump(0.0)
        # At times the kernel has room again before the transport knows of it.
        if window % 5 in (2, 3):
            hear()
        if window % 5 == 4:
            async with asyncio.timeout(10):
                while transport.get_write_buffer_size() or viewer.at < ring.end:
                    hear()
                    await asyncio.sleep(0)
                    viewer.pump(0.0)
    assert 40 < pushed < 190
    hear()
    parts = heard.split(b".")
    assert [int(part.lstrip(b"x")) for part in parts[:-1]] == list(range(4, 200))
    assert all(part.count(b"x") == 20_000 for part in parts[1:])
    transport.abort()
    ring.add("x")
    assert not viewer.push(ring.packet(200), 0.0)
    theirs.close()


# --- the real process -------------------------------------------------------------------------------------------------


def deaf_socket(web: WebServer, path: str) -> socket.socket:
    """A client that upgrades and reads nothing more; the kernel keeps little for it."""
    host, port = web.address.split(":")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    found.connect((host, int(port)))
    head = f"GET {path} HTTP/1.1\r\nHost: {web.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    found.sendall(f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    return found


@pytest.fixture
def recorder(redis: RedisServer, web: WebServer) -> Recorder:
    wait_until(lambda: record_of(redis, web), "the web is ready")
    return Recorder(redis, text="x" * 2_000)


async def test_a_socket_that_never_reads_is_closed_after_ten_seconds(
    redis: RedisServer, web: WebServer, recorder: Recorder
) -> None:
    asleep = deaf_socket(web, f"/frames?session={recorder.session}")
    began_s = asyncio.get_running_loop().time()

    async def is_sent_away() -> bool:
        recorder.write(20)
        record = record_of(redis, web)
        return record is not None and record.detail["clients_too_slow"] == 1

    await until(is_sent_away, "the client that takes nothing is sent away")
    assert asyncio.get_running_loop().time() - began_s >= PATIENCE_S
    record = record_of(redis, web)
    assert record
    assert record.detail["clients"] == 0
    asleep.close()


async def test_a_slow_client_costs_nobody_else(
    redis: RedisServer, web: WebServer, recorder: Recorder, client: aiohttp.ClientSession
) -> None:
    """One reads, one reads nothing for a while: the first gets every frame at once, the other all of the text, in fewer
    frames."""
    awake = FramesListener(client, web, recorder.session)
    listening = asyncio.create_task(awake.listen())
    deaf = aiohttp.ClientSession()
    async with deaf, deaf.ws_connect(f"{web.http}/frames?session={recorder.session}") as asleep:
        assert asleep._conn is not None
        transport: Any = asleep._conn.transport
        transport.pause_reading()
        for number in range(60):
            recorder.write(30)

            async def has_all(count: int = 30 * (number + 1)) -> bool:
                return len(awake.frames) == count

            await until(has_all, "who reads has every frame", 5)
        transport.resume_reading()
        recorder.write(1, final=True)
        messages = [json.loads(message.data) async for message in asleep]
        assert asleep.close_code == 1000
    await listening
    assert [frame["window_index"] for frame in awake.frames] == list(range(1_801))
    shown = [frame["window_index"] for frame in messages]
    assert shown == sorted(set(shown))
    assert shown[-1] == 1_800
    assert len(shown) < 1_500
    assert "".join(frame["members"][0]["text"] for frame in messages) == "x" * 2_000 * 1_801

    def is_counted() -> bool:
        record = record_of(redis, web)
        return record is not None and record.detail["frames_merged"] == 1_801 - len(shown)

    wait_until(is_counted, "what was merged is counted")


def reads_of(redis: RedisServer) -> int:
    """How many XREADs Redis has served."""
    return int(str(redis.run("INFO", "commandstats")).split("cmdstat_xread:calls=")[1].split(",")[0])


async def test_many_watch_and_the_frames_are_read_once_and_made_once(
    redis: RedisServer, web: WebServer, client: aiohttp.ClientSession, recorder: Recorder
) -> None:
    """Fifty clients: every one of them gets the same bytes."""
    listeners = [FramesListener(client, web, recorder.session) for _ in range(50)]
    listening = asyncio.gather(*(listener.listen() for listener in listeners))
    recorder.write(30)

    async def have_begun() -> bool:
        return all(listener.frames for listener in listeners)

    await until(have_begun, "everybody watches")
    before = reads_of(redis)
    recorder.write(30, final=True)
    await listening
    # At the most one for each frame, and some of those who wait for sessions.
    assert reads_of(redis) - before <= 40
    assert all(listener.frames == listeners[0].frames for listener in listeners)
    assert len(listeners[0].frames) == 60
