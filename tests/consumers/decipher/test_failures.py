"""A frame that the composer fails on: tried again from the cursor, and given up with an event after some failures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from consumers.decipher.composer import Composer
from consumers.decipher.follower import Decipher
from runtime.log import log_to_stderr
from schemas import keys
from schemas.events import EnergyUpdate, ErrorEvent
from schemas.frames import FRAME_VERSION, Frame
from tests.support.protocol import events_of, without_end
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from transport.events import find_composed
from transport.redis.connection import AsyncPipe
from transport.register import ProcessRegistration

POISONED = 40
FRAMES = 80


@contextlib.asynccontextmanager
async def decipher_on(redis: RedisServer) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    decipher = Decipher(redis.url, ProcessRegistration("decipher"), log_to_stderr("decipher"))
    running = asyncio.create_task(decipher.run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await running


def failing(monkeypatch: pytest.MonkeyPatch, has_failed: Callable[[Frame], bool]) -> None:
    """The composer raises an error for these frames."""
    add = Composer.add

    def add_or_fail(composer: Composer, frame: Frame) -> None:
        add(composer, frame)
        if has_failed(frame):
            raise KeyError("a bug")

    monkeypatch.setattr(Composer, "add", add_or_fail)


async def until_over(pipe: AsyncPipe, session: str) -> None:
    async def is_over() -> bool:
        return (await find_composed(pipe, session)).is_over

    await until(is_over, "nothing follows the session's last event")


async def test_after_an_error_a_session_is_composed_from_its_cursor_on(
    redis: RedisServer, pipe: AsyncPipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failures: list[int] = []

    def fails_twice(frame: Frame) -> bool:
        if frame.window_index == POISONED and len(failures) < 2:
            failures.append(frame.window_index)
            return True
        return False

    failing(monkeypatch, fails_twice)
    recorder = FrameWriter(redis)
    recorder.write(FRAMES, final=True)
    recorder.announce()
    async with decipher_on(redis):
        await until_over(pipe, recorder.session)
    assert len(failures) == 2
    events = [event for _, event in await events_of(pipe, recorder.session)]
    numbers = [event.frameNumber for event in without_end(events) if isinstance(event, EnergyUpdate)]
    assert numbers == list(range(numbers[0], numbers[0] + FRAMES))
    assert not any(isinstance(event, ErrorEvent) for event in events)
    said = capfd.readouterr().err
    assert said.count("a frame cannot be composed") == said.count("Traceback") == 1
    assert recorder.session in said


async def test_a_frame_that_fails_each_time_ends_the_events_with_an_error_and_no_other_sessions(
    redis: RedisServer, pipe: AsyncPipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The events of all frames before it are written."""
    poisoned, sound = FrameWriter(redis), FrameWriter(redis)
    failures: list[int] = []

    def fails(frame: Frame) -> bool:
        failed = frame.session == poisoned.session and frame.window_index == POISONED
        failures.extend([frame.window_index] * failed)
        return failed

    failing(monkeypatch, fails)
    for recorder in (poisoned, sound):
        recorder.write(FRAMES, final=True)
        recorder.announce()
    async with decipher_on(redis):
        await until_over(pipe, poisoned.session)
        await until_over(pipe, sound.session)

        async def are_acknowledged() -> bool:
            return (await pipe.one("XPENDING", keys.SESSIONS, keys.DECIPHER_GROUP))[0] == 0

        await until(are_acknowledged, "both sessions are acknowledged")
    events = [event for _, event in await events_of(pipe, poisoned.session)]
    assert len([event for event in without_end(events) if isinstance(event, EnergyUpdate)]) == POISONED
    (error,) = [event.payload for event in events if isinstance(event, ErrorEvent)]
    assert (error.code, error.severity, error.component, error.recoverable) == (
        "DECIPHER_FAILED", "critical", "decipher", False,
    )  # fmt: skip
    reason = "DECIPHER failed on a frame (KeyError)."
    assert error.message == f"The events of this session end here, its frames go on: {reason}"
    assert len(failures) == 4
    said = capfd.readouterr().err
    assert said.count("a frame cannot be composed") == said.count("a session's events end here") == 1
    assert len(await events_of(pipe, sound.session)) > FRAMES


async def test_a_frame_of_another_version_ends_the_events_with_a_sentence_that_names_both(
    redis: RedisServer, pipe: AsyncPipe
) -> None:
    recorder = FrameWriter(redis)
    recorder.write(1, version=1)
    recorder.announce()
    async with decipher_on(redis):
        await until_over(pipe, recorder.session)
    ((_, event),) = await events_of(pipe, recorder.session)
    assert isinstance(event, ErrorEvent)
    assert f"A frame has version 1, and this program reads version {FRAME_VERSION}: run" in event.payload.message
