"""Content that no council writes is not replayed: replays share an aggregator and Redis with all sessions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from aggregator.closing import WindowCloser
from aggregator.owned import OwnedSession
from aggregator.tenure import Tenure
from producers.replay.source import RecordedSource
from recordings.contents import SESSION
from recordings.opening import replay_opening
from recordings.records import Item
from schemas.entries import decode_entry, encode_entry
from schemas.errors import Malformed
from schemas.grid import window_start_ns
from schemas.sessions import Opening
from tests.golden import golden
from tests.producers.replay.test_player import replaying, shown_frames
from tests.support.recording_files import NAME, about_of, changed, frames_of, write_recording
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe, Command
from transport.sessions import cancel_session, find_session


async def test_a_replay_of_frames_is_stopped_although_no_aggregator_computes_it(
    pipe: AsyncPipe, tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "twins.mcap", golden(NAME).entries, frames_of(NAME))
    async with replaying(pipe, path, frames=True, rate=0.25) as (opening, _, playing):

        async def has_begun() -> bool:
            return (await find_session(pipe, opening.session)).window > 0

        await until(has_begun, "the first frames are shown")
        await cancel_session(pipe, opening.session, "a person stopped it")
        await asyncio.wait_for(playing, 10)
        state = await find_session(pipe, opening.session)
        assert (state.status, state.reason) == ("ended", "a person stopped it")


async def test_a_replay_of_frames_ends_where_the_file_has_lost_windows_and_the_end(
    pipe: AsyncPipe, tmp_path: Path
) -> None:
    stream = golden("twins").entries
    frames = frames_of("twins")
    late = [replace(frames[-2], window_index=window, end_ns=window_start_ns(window + 1))
            for window in (5_000, 5_001)]  # fmt: skip
    lost = write_recording(tmp_path / "lost.mcap", stream, [*frames[:20], *late])
    async with replaying(pipe, lost, frames=True, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        state = await find_session(pipe, opening.session)
        assert (state.status, state.window, state.reason) == ("ended", 5_001, "the replay ends here")
        assert len(await shown_frames(pipe, opening.session)) == 22


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": ()}, "has 0 members"),
        ({"members": frames_of(NAME)[0].members * 40}, "has 120 members"),
        ({"cut": "\n}{"}, "is not one of its session"),
        ({"window_index": 10_000_001}, "a frame of window 10000001"),
    ],
)
async def test_a_frame_of_another_session_is_not_shown(
    pipe: AsyncPipe, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    frames = changed(frames_of(NAME), 30, lambda frame: replace(frame, **changes))
    hostile = tmp_path / "hostile.mcap"
    write_recording(hostile, golden(NAME).entries, frames)
    async with replaying(pipe, hostile, frames=True, rate=0.0) as (_, _, playing):
        with pytest.raises(Malformed, match=words):
            await asyncio.wait_for(playing, 30)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (("17000000000000-0", b"x" * 300_000), "an entry has 300000 bytes"),
        ((f"{2**63}-0", b"x"), "an id that Redis refuses"),
    ],
)
def test_an_entry_that_no_stream_has_is_not_replayed(tmp_path: Path, entry: tuple[str, bytes], words: str) -> None:
    stream = golden(NAME).entries
    hostile = write_recording(tmp_path / "hostile.mcap", stream, frames_of(NAME))
    source = RecordedSource(hostile)
    source.begin_after(stream[-1][0], 0)
    raw = msgspec.json.encode({"id": entry[0], "entry": entry[1]})
    source._items = iter([Item("entry", entry[0], entry[1], SESSION, 0, raw)])
    with pytest.raises(Malformed, match=words):
        source.read_on()
    source.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: replace(one, members=one.members * 40), "it has 120 members"),
        (lambda one: replace(one, prompt="A" * 2_000_000), "its opening has 2000"),
        (lambda one: replace(one, limits=replace(one.limits, life_ms=2**62)), "a limit is not between"),
        (lambda one: replace(one, members=(replace(one.members[0], weight=math.nan),)), "a weight"),
        (lambda one: replace(one, profile=replace(one.profile, half_life_ms=0.0)), "is out of range"),
    ],
)
def test_an_opening_that_no_council_writes_is_not_replayed(
    tmp_path: Path, change: Callable[[Opening], Opening], words: str
) -> None:
    """An aggregator that accepted it would compute windows of 100,000 members, until memory is full."""
    stream = golden(NAME).entries
    opening = decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    hostile = [(stream[0][0], encode_entry(change(opening))), *stream[1:]]
    path = write_recording(tmp_path / "hostile.mcap", hostile, frames_of(NAME), about=about_of(stream))
    with pytest.raises(Malformed, match=words):
        replay_opening(path, "0" * 12)


def test_all_replays_together_have_a_share_of_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 4 ms each: the first replay uses the half tick up, and no live session is late."""
    spent_s = 0.0
    monkeypatch.setattr("aggregator.closing.time.thread_time", lambda: spent_s)

    def close_due(*_: Any) -> list[Command]:
        nonlocal spent_s
        spent_s += 0.004
        return [("PING",)]

    def session(name: str, *, is_replay: bool) -> OwnedSession:
        about = {"name": name, "is_replay": is_replay, "close_due": close_due, "due_ns": 1, "beat_due_s": math.inf}
        return cast(OwnedSession, SimpleNamespace(**about))

    sessions = [session("one", is_replay=True), session("other", is_replay=True), session("live", is_replay=False)]
    tenure = SimpleNamespace(owned={one.name: one for one in sessions}, owns=lambda _session: True)
    commits, _ = WindowCloser(cast(Tenure, tenure)).close_due([(one, 0) for one in sessions], 0.0)
    assert [one.name for one, _ in commits] == ["one"] * 3 + ["live"]
