"""Feeds: each frame is read, decoded and encoded once, however many clients watch."""

from __future__ import annotations

import pytest

from consumers.web.live import packets
from consumers.web.live.packets import FramePacket
from consumers.web.live.shared_feeds import SharedFeeds
from consumers.web.live.sources import FrameSource
from runtime.log import log_to_stderr
from runtime.presence import RedisPresence
from schemas.frames import Frame, decode_frame
from tests.consumers.web.live.test_slow_clients import SlowTransport
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until


async def test_each_live_frame_is_decoded_once_for_all_clients(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clients watch a session; its frames are committed one by one, and then the final one."""
    decoded: list[int] = []

    def counting_decode(raw: bytes) -> Frame:
        frame = decode_frame(raw)
        decoded.append(frame.window_index)
        return frame

    monkeypatch.setattr(packets, "decode_frame", counting_decode)
    log = log_to_stderr("test")
    feeds = SharedFeeds(redis.url, FrameSource(), RedisPresence(log), log)
    recorder = FrameWriter(redis)
    clients = [SlowTransport() for _ in range(3)]
    viewers = [feeds.join(recorder.session, -1) for _ in clients]
    for viewer, client in zip(viewers, clients, strict=True):
        assert viewer is not None
        viewer.start(client, FramePacket.websocket)
    for window in range(8):
        recorder.write(1, final=window == 7)

        async def has_arrived(window: int = window) -> bool:
            return all(len(client.written) == window + 1 for client in clients)

        await until(has_arrived, "every client has the frame")
    assert decoded == list(range(8))
    for viewer in viewers:
        assert viewer is not None
        assert (await viewer.done).code == 1000
        feeds.leave(recorder.session, viewer)
