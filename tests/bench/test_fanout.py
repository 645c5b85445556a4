"""The fan-out benchmark's writer: a thread that commits frames while the rows are computed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from bench import fanout
from bench.members import models_of
from tests.support.sessions import opening_of


class NoRedis:
    """Takes commands and does nothing."""

    def __init__(self, url: str) -> None: ...

    def run(self, commands: object) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def switching_all_the_time() -> Iterator[None]:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


@pytest.mark.usefixtures("switching_all_the_time")
def test_the_times_of_sent_frames_are_read_while_frames_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader and the writing thread alternate for 2,000 frames or more, which are written without a pause."""
    monkeypatch.setattr(fanout, "Pipe", NoRedis)
    monkeypatch.setattr(fanout, "sleep_until", lambda due_ns: 0)
    opening = opening_of(*models_of(4))
    with contextlib.closing(fanout.FrameWriter("redis://unused", opening, "1700000000000-0")) as writer:
        sizes = [0]
        while sizes[-1] < 2_000 or len(set(sizes)) < 10:
            sent_ns = writer.sent_ns(7)
            assert list(sent_ns) == list(range(7, 7 + len(sent_ns)))
            sizes.append(len(sent_ns))
        assert sizes == sorted(sizes)
