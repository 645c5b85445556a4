"""A replay shows what was recorded: the same entries, the same frames, at any rate, whatever is killed meanwhile.

golden stream --record_stream--> file --Player--> Redis --aggregator--> frames == the file's, except for replay_of
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from producers.replay.player import Player, PlayReport
from recordings.opening import replay_opening
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.control import Play, Playback
from schemas.entries import Token, decode_entry
from schemas.errors import Malformed, Refused, SessionGone
from schemas.frames import Frame, decode_frame
from schemas.sessions import Opening
from tests.golden import golden
from tests.support.recording_files import record_stream, recorded_entries, recorded_frames, repeated
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles, roles_on
from tests.support.sessions import check_the_law, committed_frames, opening_of, token_stream, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.replays import find_playback, order_playback
from transport.sessions import cancel_session, find_session, new_session_id, open_session


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session in which one member ends early, another after its sentence."""
    return record_stream(tmp_path_factory.mktemp("recording") / "early.mcap", golden("early-end").entries)


@contextlib.asynccontextmanager
async def replaying(
    pipe: AsyncPipe, path: Path, *, frames: bool = False, **how: object
) -> AsyncIterator[tuple[Opening, Player, asyncio.Task[PlayReport]]]:
    """A replay session that is being played."""
    opened, opening = replay_opening(path, new_session_id(), frames=frames)
    await open_session(pipe, opening, opened)
    player = Player(pipe, path, opening, RedisPresence(Log(50)), **how)  # type: ignore[arg-type]
    playing = asyncio.create_task(player.run())
    try:
        yield opening, player, playing
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


async def shown_frames(pipe: AsyncPipe, session: str) -> list[Frame]:
    return [decode_frame(raw) for _, raw in await committed_frames(pipe, session)]


async def check_it_shows_what_was_recorded(pipe: AsyncPipe, opening: Opening, path: Path) -> None:
    """The same frames except for session and replay_of; the same entries with the same ids except for the opening."""
    assert opening.replay
    shown = await shown_frames(pipe, opening.session)
    assert {frame.replay_of for frame in shown} == {opening.replay.of}
    replace = msgspec.structs.replace
    assert [replace(frame, session=opening.replay.of, replay_of="") for frame in shown] == recorded_frames(path)
    assert (await token_stream(pipe, opening.session))[1:] == recorded_entries(path)[1:]


@pytest.mark.parametrize("rate", [1.0, 4.0, 0.0])
async def test_a_replay_has_the_recorded_frames_byte_for_byte_at_any_rate(
    pipe: AsyncPipe, roles: Roles, path: Path, rate: float
) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, rate=rate) as (opening, _, playing):
        report = await asyncio.wait_for(playing, 60)
        await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)
        await check_the_law(pipe, opening.session)
        assert report.entries == len(recorded_entries(path)) - 1
        assert report.achieved_rate is not None


async def test_recorded_frames_are_shown_as_they_are_without_an_aggregator(pipe: AsyncPipe, path: Path) -> None:
    async with replaying(pipe, path, frames=True, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        state = await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)
        written = [entry for _, raw in recorded_entries(path) if isinstance(entry := decode_entry(raw), Token)]
        counts = [sum(token.member == member for token in written) for member in range(len(opening.members))]
        assert [progress.next_seq for progress in state.progress] == counts


async def test_an_aggregator_does_not_take_a_replay_of_frames(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, frames=True, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)


async def test_a_recording_without_text_is_shown_frame_by_frame(pipe: AsyncPipe, tmp_path: Path) -> None:
    silent = record_stream(tmp_path / "silent.mcap", golden("twins").entries, text=False)
    async with replaying(pipe, silent, frames=True, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        shown = await shown_frames(pipe, opening.session)
        assert len(shown) == len(recorded_frames(silent))
        assert all(member.text == "" for frame in shown for member in frame.members)
    with pytest.raises(Refused, match="--frames"):
        replay_opening(silent, "0" * 12)


async def test_a_producer_of_the_same_model_does_not_serve_a_replay(
    pipe: AsyncPipe, roles: Roles, tmp_path: Path
) -> None:
    stream = golden("twins").entries
    opening = decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    replace = msgspec.structs.replace
    members = tuple(replace(one, model="ngram:word-3", name=f"m{i}") for i, one in enumerate(opening.members))
    own = replace(opening, members=members)
    path = record_stream(tmp_path / "ngram.mcap", [(stream[0][0], msgspec.msgpack.encode(own)), *stream[1:]])
    roles.ready("aggregator")
    roles.ready("producers", "ngram:word-3")
    async with replaying(pipe, path, rate=0.0) as (replay, _, playing):
        await asyncio.wait_for(playing, 30)
        await until_ended(pipe, replay.session)
        await check_it_shows_what_was_recorded(pipe, replay, path)


async def position(pipe: AsyncPipe, session: str) -> Playback:
    found = await find_playback(pipe, session)
    assert found
    return found


async def until_at(pipe: AsyncPipe, session: str, window: int) -> Playback:
    """Waits until the replay is at the window, and that window is computed."""

    async def is_there() -> Playback | None:
        playback, state = await find_playback(pipe, session), await find_session(pipe, session)
        return playback if playback and playback.window == window and state.window >= window else None

    return await until(is_there, f"the replay is at window {window}")


async def until_past(pipe: AsyncPipe, session: str, window: int) -> None:
    """Waits until the window is computed."""

    async def is_past() -> bool:
        return (await find_session(pipe, session)).window >= window

    await until(is_past, f"window {window} of the replay is committed")


async def test_orders_pause_step_seek_and_change_the_rate(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, paused=True, lingers_s=60.0) as (opening, _, playing):
        session = opening.session
        await until_at(pipe, session, -1)
        for order, window in ((Play(window=40), 40), (Play(step=1), 41), (Play(step=-3), 38), (Play(window=20), 20)):
            await order_playback(pipe, session, order)
            await until_at(pipe, session, window)
        # Computed frames stay, although the position is before them.
        assert (await find_session(pipe, session)).window >= 41
        await order_playback(pipe, session, Play(rate=16.0, paused=False))

        async def is_over() -> bool:
            return (await position(pipe, session)).is_over

        await until(is_over, "the replay is over")
        await until_ended(pipe, session)
        await check_it_shows_what_was_recorded(pipe, opening, path)
        # After the end the position can be set back.
        await order_playback(pipe, session, Play(window=10, paused=True))
        await until_at(pipe, session, 10)
        assert not playing.done()


async def test_orders_are_followed_after_the_end_however_early_the_last_one_came(
    pipe: AsyncPipe, roles: Roles, tmp_path: Path
) -> None:
    """The last order before the end came longer ago than orders are followed after it."""
    path = record_stream(tmp_path / "longer.mcap", repeated(golden("early-end").entries, 3))
    roles.ready("aggregator")
    async with replaying(pipe, path, paused=True, lingers_s=2.0) as (opening, player, playing):
        session = opening.session
        await until_at(pipe, session, -1)
        await order_playback(pipe, session, Play(rate=1.0, paused=False))

        async def is_over() -> bool:
            return playing.done() or (await find_session(pipe, session)).status == "ended"

        await until(is_over, "the replay has ended")
        assert not playing.done()
        await order_playback(pipe, session, Play(window=10, paused=True))
        await until_at(pipe, session, 10)
        await asyncio.wait_for(playing, 30)
        assert player.timeline is not None
        assert player.timeline.end_ns > 2 * 10**9


async def test_from_and_to_show_a_part(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    to_ns = 60 * 10**9 // 60
    async with replaying(pipe, path, from_ns=to_ns // 2, to_ns=to_ns, rate=4.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        await until_ended(pipe, opening.session)
        shown = await shown_frames(pipe, opening.session)
        assert 60 <= len(shown) <= 65
        assert shown[-1].final
        assert {member.reason for member in shown[-1].members if member.state == "dropped"} == {"the replay ends here"}
        recorded = recorded_frames(path)[:60]
        assert [frame.energy for frame in shown[:60]] == [frame.energy for frame in recorded]


async def test_a_replay_that_is_stopped_ends_even_while_it_is_paused(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, paused=True) as (opening, _, playing):
        await until_at(pipe, opening.session, -1)
        assert await cancel_session(pipe, opening.session)
        await until_ended(pipe, opening.session, 10)
        await asyncio.wait_for(playing, 10)
        await check_the_law(pipe, opening.session)


async def test_a_recording_that_ends_before_its_session_did_ends_the_replay(
    pipe: AsyncPipe, roles: Roles, tmp_path: Path
) -> None:
    stream = golden("early-end").entries
    part = record_stream(tmp_path / "part.mcap", stream[: len(stream) // 2])
    roles.ready("aggregator")
    async with replaying(pipe, part, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        await until_ended(pipe, opening.session)
        shown = await shown_frames(pipe, opening.session)
        assert shown[-1].final
        assert len(shown) >= len(recorded_frames(part))
        await check_the_law(pipe, opening.session)


async def test_an_aggregator_that_is_killed_changes_nothing(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    first = roles.ready("aggregator")
    roles.ready("aggregator")
    async with replaying(pipe, path, rate=1.0) as (opening, _, playing):
        await until_past(pipe, opening.session, 20)
        first.kill()
        await asyncio.wait_for(playing, 60)
        await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)


async def test_a_replay_as_fast_as_possible_leaves_new_sessions_their_aggregator(
    pipe: AsyncPipe, roles: Roles, tmp_path: Path
) -> None:
    """It uses all the time that is left, and a live session that is opened meanwhile is taken at once."""
    long = record_stream(tmp_path / "long.mcap", repeated(golden("twins").entries, 200))
    roles.ready("aggregator")
    async with replaying(pipe, long, rate=0.0) as (opening, _, playing):
        await until_past(pipe, opening.session, 300)
        live = opening_of("ngram:word-3")
        await open_session(pipe, live)
        await until_past(pipe, live.session, 10)
        assert not playing.done()
        assert (await find_session(pipe, opening.session)).status == "open"


async def test_a_replay_whose_player_has_died_ends_with_a_reason(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, rate=0.25) as (opening, _, playing):
        await until_past(pipe, opening.session, 3)
        playing.cancel()
        state = await until_ended(pipe, opening.session, 30)
        assert "process that played this replay" in state.reason


async def test_another_player_continues_where_the_first_one_was(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, rate=2.0) as (opening, _, first):
        await until_past(pipe, opening.session, 20)
        first.cancel()
        second = Player(pipe, path, opening, RedisPresence(Log(50)))
        report = await asyncio.wait_for(second.run(), 60)
        await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)
        assert report.entries < len(recorded_entries(path))
        assert (await position(pipe, opening.session)).rate == 2.0


async def test_a_redis_without_its_data_ends_the_player_with_a_sentence(
    redis: RedisServer, pipe: AsyncPipe, path: Path
) -> None:
    async with replaying(pipe, path, rate=0.25) as (opening, _, playing):
        redis.run("DEL", f"council:{{{opening.session}}}:state")
        with pytest.raises(SessionGone, match="Replay the file again"):
            await asyncio.wait_for(playing, 10)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A recording of three chunks, with one changed byte in the last one."""
    path = record_stream(tmp_path / "broken.mcap", golden("vocabularies").entries)
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 3 // 4] ^= 0xFF
    path.write_bytes(raw)
    return path


async def test_damage_is_reported_when_the_replay_reaches_it(pipe: AsyncPipe, roles: Roles, broken: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, broken, rate=0.0) as (_, _, playing):
        with pytest.raises(Malformed, match="damaged at byte"):
            await asyncio.wait_for(playing, 30)


@pytest.mark.parametrize("frames", [False, True])
async def test_a_replay_is_the_same_on_every_kind_of_redis(each_redis: RedisServer, path: Path, frames: bool) -> None:
    own = AsyncPipe(each_redis.url)
    with roles_on(each_redis.url) as roles:
        roles.ready("aggregator")
        async with replaying(own, path, frames=frames, rate=0.0) as (opening, _, playing):
            await asyncio.wait_for(playing, 30)
            await until_ended(own, opening.session)
            await check_it_shows_what_was_recorded(own, opening, path)
        async with replaying(own, path, paused=True) as (opening, _, playing):
            await until_at(own, opening.session, -1)
            assert await cancel_session(own, opening.session)
            await until_ended(own, opening.session, 10)
    await own.close()
