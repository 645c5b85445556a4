"""The replay process: it plays the recordings of the library, and another process continues what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from recordings.opening import replay_opening
from schemas.control import Play
from schemas.errors import RedisAway
from schemas.sessions import Opening
from tests.chaos.conftest import durable as durable
from tests.golden import golden
from tests.producers.replay.test_player import check_it_shows_what_was_recorded, replaying, until_at, until_past
from tests.support.recording_files import record_stream
from tests.support.redis_servers import DurableRedis
from tests.support.role_processes import Roles, roles_on
from tests.support.sessions import check_the_law, until_ended
from transport.redis.connection import AsyncPipe
from transport.replays import order_playback
from transport.sessions import find_session, new_session_id, open_session


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library with one recording."""
    folder = tmp_path / "library"
    folder.mkdir()
    record_stream(folder / "early.mcap", golden("early-end").entries)
    return folder


async def open_replay(pipe: AsyncPipe, path: Path, recording: str = "early.mcap") -> Opening:
    opened, opening = replay_opening(path, new_session_id(), recording)
    await open_session(pipe, opening, opened)
    return opening


async def reconnect(pipe: AsyncPipe) -> None:
    """The first command after a restart finds the connection broken."""
    with contextlib.suppress(RedisAway):
        await pipe.one("PING")


async def test_it_plays_replays_and_does_not_touch_live_sessions(pipe: AsyncPipe, roles: Roles, library: Path) -> None:
    roles.ready("aggregator")
    roles.ready("producers.replay", "--recordings", str(library))
    opening = await open_replay(pipe, library / "early.mcap")
    await until_ended(pipe, opening.session)
    await check_it_shows_what_was_recorded(pipe, opening, library / "early.mcap")
    # It still follows orders that look back.
    await order_playback(pipe, opening.session, Play(window=5, paused=True))
    await until_at(pipe, opening.session, 5)


async def test_a_missing_recording_ends_the_replay_with_a_sentence(
    pipe: AsyncPipe, roles: Roles, library: Path
) -> None:
    roles.ready("aggregator")
    roles.ready("producers.replay", COUNCIL_RECORDINGS=str(library))
    for name in ("gone.mcap", "../early.mcap", "/etc/passwd", ".hidden.mcap"):
        opening = await open_replay(pipe, library / "early.mcap", name)
        state = await until_ended(pipe, opening.session)
        assert "recording cannot be replayed" in state.reason


async def test_after_a_kill_at_any_moment_no_entry_is_missing_and_none_is_there_twice(
    pipe: AsyncPipe, roles: Roles, library: Path
) -> None:
    chance = random.Random(15)
    roles.ready("aggregator")
    process = roles.ready("producers.replay", "--recordings", str(library))
    opening = await open_replay(pipe, library / "early.mcap")
    for _ in range(3):
        window = (await find_session(pipe, opening.session)).window + chance.randrange(1, 25)
        await until_past(pipe, opening.session, window)
        process.kill()
        process = roles.ready("producers.replay", "--recordings", str(library))
    await until_ended(pipe, opening.session, 60)
    await check_it_shows_what_was_recorded(pipe, opening, library / "early.mcap")


async def test_a_process_that_is_ended_hands_its_replays_over(pipe: AsyncPipe, roles: Roles, library: Path) -> None:
    roles.ready("aggregator")
    first = roles.ready("producers.replay", "--recordings", str(library))
    opening = await open_replay(pipe, library / "early.mcap")
    await until_past(pipe, opening.session, 10)
    roles.ready("producers.replay", "--recordings", str(library))
    assert first.end() == 0
    await until_ended(pipe, opening.session, 60)
    await check_it_shows_what_was_recorded(pipe, opening, library / "early.mcap")


async def test_a_restart_of_redis_with_its_file_loses_nothing(durable: DurableRedis, library: Path) -> None:
    pipe = AsyncPipe(durable.url)
    with roles_on(durable.url) as roles:
        roles.ready("aggregator")
        roles.ready("producers.replay", "--recordings", str(library))
        opening = await open_replay(pipe, library / "early.mcap")
        await until_past(pipe, opening.session, 10)
        durable.restart()
        await reconnect(pipe)
        await until_ended(pipe, opening.session, 60)
        await check_it_shows_what_was_recorded(pipe, opening, library / "early.mcap")
        await check_the_law(pipe, opening.session)
    await pipe.close()


async def test_entries_that_redis_lost_are_written_again(durable: DurableRedis, library: Path) -> None:
    pipe = AsyncPipe(durable.url)
    with roles_on(durable.url) as roles:
        roles.ready("aggregator")
        roles.ready("producers.replay", "--recordings", str(library))
        opening = await open_replay(pipe, library / "early.mcap")
        await until_past(pipe, opening.session, 10)
        size = durable.append_only_file.stat().st_size
        await until_past(pipe, opening.session, 40)
        durable.roll_back(size)
        await reconnect(pipe)
        await until_ended(pipe, opening.session, 60)
        await check_it_shows_what_was_recorded(pipe, opening, library / "early.mcap")
    await pipe.close()


def test_a_missing_folder_is_a_problem_only_for_a_replay(roles: Roles, tmp_path: Path) -> None:
    assert roles.ready("producers.replay", "--recordings", str(tmp_path / "missing")).end() == 0


@pytest.mark.parametrize("frames", [False, True])
async def test_a_break_during_another_callers_commands_is_noticed(
    durable: DurableRedis, library: Path, frames: bool
) -> None:
    """The player's own commands never fail, because the connection is a new one before the next of them. What Redis
    lost is written again nevertheless, before anything that follows."""
    own, path = AsyncPipe(durable.url), library / "early.mcap"
    with roles_on(durable.url) as roles:
        roles.ready("aggregator")
        async with replaying(own, path, frames=frames, paused=True) as (opening, player, playing):
            player.order(Play(window=10))
            await until_at(own, opening.session, 10)
            size = durable.append_only_file.stat().st_size
            player.order(Play(window=60))
            await until_at(own, opening.session, 60)
            # No call of the player is under way, so that the PING is what meets the break.
            while own._has_first or (own._serving is not None and not own._serving.done()):  # noqa: ASYNC110
                await asyncio.sleep(0)
            durable.roll_back(size)
            with contextlib.suppress(RedisAway):
                await own.one("PING")
            player.order(Play(rate=4.0, paused=False))
            await asyncio.wait_for(playing, 60)
            await until_ended(own, opening.session)
            await check_it_shows_what_was_recorded(own, opening, path)
    await own.close()
