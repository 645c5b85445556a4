"""A recording contains what Redis had, byte for byte, whatever was killed while it was written.

council:{ID}:tokens, :frames, :events == the file's entries, frames, events
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.recorder.session_recorder import record_session
from recordings.folder import Library
from recordings.reading import read_metadata
from recordings.repair import salvage
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas import keys
from schemas.entries import Claim, decode_entry
from schemas.errors import RedisAway, Refused
from schemas.frame_json import recorded_frame_json
from schemas.frames import decode_frame
from schemas.sessions import Opening
from tests.chaos.conftest import durable as durable
from tests.golden import golden
from tests.producers.replay.test_player import replaying
from tests.support.recording_files import items_of, record_stream, recorded_entries, recorded_frames
from tests.support.redis_servers import DurableRedis
from tests.support.role_processes import Roles, roles_on
from tests.support.sessions import committed_frames, opening_of, token_stream, until_ended
from tests.support.waiting import until
from tests.support.web_server import PACE
from transport.keeping import ask_to_keep
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, find_session, open_session

QUIET = RedisPresence(Log(50))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library"


def council_of(roles: Roles, *pace: str) -> None:
    """Two members, an aggregator, DECIPHER. `pace` is empty or PACE."""
    started = [roles.start("aggregator"), roles.start("consumers.decipher")]
    started += [roles.start("producers", model, *pace) for model in ("ngram:word-3", "ngram:char-6")]
    for role in started:
        role.wait_ready()


async def ask(pipe: AsyncPipe, max_tokens: int = 40) -> Opening:
    """A session whose members use all their tokens."""
    opening = opening_of("ngram:word-3", "ngram:char-6", max_tokens=max_tokens, temperature=0.0)
    await open_session(pipe, opening)
    return opening


async def recording_of(folder: Path, session: str) -> Path:
    """The finished recording, once it is there."""

    async def is_there() -> str | None:
        return await asyncio.to_thread(Library(folder).of_session, session)

    name = await until(is_there, f"the recording of {session} is finished")
    assert name
    return folder / name


async def check_it_contains_what_redis_had(pipe: AsyncPipe, session: str, path: Path) -> None:
    assert recorded_entries(path) == await token_stream(pipe, session)
    items = items_of(path)
    committed = [recorded_frame_json(decode_frame(raw)) for _, raw in await committed_frames(pipe, session)]
    assert [item.raw for item in items if item.kind == "frame"] == committed
    events = await pipe.one("XRANGE", keys.events(session), "-", "+")
    assert [item.raw for item in items if item.kind == "event"] == [entry[1][1] for entry in events]


async def until_window(pipe: AsyncPipe, session: str, window: int) -> None:
    async def is_there() -> bool:
        with contextlib.suppress(RedisAway):
            return (await find_session(pipe, session)).window >= window
        return False

    await until(is_there, f"window {window} is committed")


async def test_every_session_is_recorded_with_record_all(pipe: AsyncPipe, roles: Roles, folder: Path) -> None:
    council_of(roles, *PACE)
    roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder))
    opening = await ask(pipe)
    await until_ended(pipe, opening.session)
    path = await recording_of(folder, opening.session)
    await check_it_contains_what_redis_had(pipe, opening.session, path)
    about, summary = read_metadata(path)
    assert (about.session, about.prompt, about.seed) == (opening.session, opening.prompt, 7)
    assert (summary.final, summary.tokens, summary.states) == (True, (40, 40), ("finished", "finished"))
    assert any(item.kind == "health" for item in items_of(path))
    claims = [entry for _, raw in recorded_entries(path) if isinstance(entry := decode_entry(raw), Claim)]
    assert claims
    assert not any(socket.gethostname() in claim.producer for claim in claims)
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    assert [one.name for one in folder.iterdir()] == [path.name]


async def test_an_ended_session_is_recorded_once_when_it_is_ordered(
    pipe: AsyncPipe, roles: Roles, folder: Path
) -> None:
    council_of(roles)
    recorder = roles.ready("consumers.recorder", "--recordings", str(folder))
    asked, other = await ask(pipe, 5), await ask(pipe, 5)
    await until_ended(pipe, asked.session)
    await until_ended(pipe, other.session)
    await ask_to_keep(pipe, asked.session)
    await ask_to_keep(pipe, asked.session)
    await ask_to_keep(pipe, "0" * 12)
    path = await recording_of(folder, asked.session)
    await check_it_contains_what_redis_had(pipe, asked.session, path)

    async def all_orders_are_done() -> bool:
        return not await pipe.one("XLEN", keys.KEEP)

    await until(all_orders_are_done, "no order is left")
    assert [one.name for one in folder.iterdir()] == [path.name]
    # The next recorder does not make a deleted recording again.
    Library(folder).delete(path.name)
    recorder.end()
    roles.ready("consumers.recorder", "--recordings", str(folder)).end()
    assert list(folder.iterdir()) == []


def part_in(folder: Path) -> Path:
    """The only unfinished recording."""
    (part,) = folder.glob("*.recording")
    return part


async def is_recorded(folder: Path, window: int) -> bool:
    """True once the only recording, which is not finished, contains a later window."""
    if not list(folder.glob("*.recording")):
        return False
    with contextlib.suppress(Refused):  # no part of it is complete yet
        return (await asyncio.to_thread(salvage, part_in(folder))).last_window > window
    return False


async def test_a_recorder_that_is_killed_at_any_moment_loses_nothing_and_writes_nothing_twice(
    pipe: AsyncPipe, roles: Roles, folder: Path
) -> None:
    chance = random.Random(15)
    council_of(roles)
    recorder = roles.ready("consumers.recorder", "--recordings", str(folder))
    # Longer than three restarts take on a busy machine.
    opening = await ask(pipe, 2_000)
    await ask_to_keep(pipe, opening.session)
    for _ in range(3):
        begun = (await find_session(pipe, opening.session)).window
        await until(lambda after=begun: is_recorded(folder, after), "the recorder has written windows of this round")
        await until_window(
            pipe, opening.session, (await find_session(pipe, opening.session)).window + chance.randrange(40)
        )
        recorder.kill()
        written = (await find_session(pipe, opening.session)).window
        # A second, and one more for a busy machine.
        assert written - salvage(part_in(folder)).last_window < 120
        recorder = roles.ready("consumers.recorder", "--recordings", str(folder))
    await cancel_session(pipe, opening.session)
    await until_ended(pipe, opening.session)
    path = await recording_of(folder, opening.session)
    await check_it_contains_what_redis_had(pipe, opening.session, path)
    assert [one.name for one in folder.iterdir()] == [path.name]


async def test_a_restart_of_redis_with_its_file_loses_nothing(durable: DurableRedis, folder: Path) -> None:
    pipe = AsyncPipe(durable.url)
    with roles_on(durable.url) as roles:
        council_of(roles)
        roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder))
        opening = await ask(pipe)
        await until_window(pipe, opening.session, 60)
        durable.restart()
        await until_window(pipe, opening.session, 61)
        await until_ended(pipe, opening.session)
        await check_it_contains_what_redis_had(pipe, opening.session, await recording_of(folder, opening.session))
    await pipe.close()


async def test_a_session_whose_end_redis_lost_is_recorded_as_it_is_afterwards(
    durable: DurableRedis, folder: Path
) -> None:
    pipe = AsyncPipe(durable.url)
    with roles_on(durable.url) as roles:
        council_of(roles)
        roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder))
        opening = await ask(pipe)
        await until_window(pipe, opening.session, 40)
        size = durable.append_only_file.stat().st_size
        await until_window(pipe, opening.session, 130)
        durable.roll_back(size)
        await until_window(pipe, opening.session, 0)
        await until_ended(pipe, opening.session)
        await check_it_contains_what_redis_had(pipe, opening.session, await recording_of(folder, opening.session))
    await pipe.close()


async def test_a_redis_that_lost_all_data_leaves_a_complete_file_with_the_reason(
    durable: DurableRedis, folder: Path
) -> None:
    pipe = AsyncPipe(durable.url)
    with roles_on(durable.url) as roles:
        council_of(roles)
        roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder))
        opening = await ask(pipe, 200)
        await until_window(pipe, opening.session, 90)
        durable.roll_back(0)
        path = await recording_of(folder, opening.session)
        _, summary = read_metadata(path)
        assert (summary.final, summary.last_window >= 0) == (False, True)
        assert "Redis lost the session" in summary.reason
    await pipe.close()


async def test_the_file_of_a_killed_recorder_is_completed_when_its_session_is_gone(
    pipe: AsyncPipe, roles: Roles, folder: Path
) -> None:
    council_of(roles)
    recorder = roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder))
    opening = await ask(pipe, 100)
    await until_window(pipe, opening.session, 120)
    recorder.kill()
    await pipe.one("DEL", *keys.of_session(opening.session))
    roles.ready("consumers.recorder", "--recordings", str(folder))
    path = await recording_of(folder, opening.session)
    assert [frame.window_index for frame in recorded_frames(path)] == list(range(len(recorded_frames(path))))
    assert not read_metadata(path)[1].final


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: writes that make a file larger fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


async def test_a_full_disk_leaves_no_partial_file_and_nothing_of_the_session_is_lost(
    pipe: AsyncPipe, roles: Roles, tmp_path: Path
) -> None:
    council_of(roles, *PACE)
    opening = await ask(pipe)
    await until_ended(pipe, opening.session)
    path = tmp_path / "kept.mcap"
    with files_of_at_most(8_192), pytest.raises(OSError, match="File too large"):
        await record_session(pipe, opening.session, path, QUIET)
    assert list(tmp_path.iterdir()) == []
    await record_session(pipe, opening.session, path, QUIET)
    await check_it_contains_what_redis_had(pipe, opening.session, path)


async def test_a_recording_of_numbers_alone_contains_no_text_of_the_session(
    pipe: AsyncPipe, roles: Roles, tmp_path: Path
) -> None:
    council_of(roles, *PACE)
    opening = await ask(pipe)
    await until_ended(pipe, opening.session)
    path, whole = tmp_path / "numbers.mcap", tmp_path / "whole.mcap"
    await record_session(pipe, opening.session, path, QUIET, text=False)
    await record_session(pipe, opening.session, whole, QUIET)
    answers = ["".join(frame.members[member].text for frame in recorded_frames(whole)) for member in (0, 1)]
    parts = [answer[at : at + 12] for answer in answers for at in range(0, len(answer) - 12, 6)] + [opening.prompt]
    assert len(parts) > 5
    raws = "\n".join(item.raw.decode("utf-8", "replace") for item in items_of(path))
    assert [part for part in parts if part in raws] == []
    silent, loud = recorded_frames(path), recorded_frames(whole)
    assert [frame.energy for frame in silent] == [frame.energy for frame in loud]
    about, summary = read_metadata(path)
    assert (about.text, about.prompt, about.system) == (False, "", "")
    assert summary.tokens == read_metadata(whole)[1].tokens


async def test_replays_are_not_recorded(pipe: AsyncPipe, roles: Roles, folder: Path, tmp_path: Path) -> None:
    roles.ready("aggregator")
    roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder))
    path = record_stream(tmp_path / "twins.mcap", golden("twins").entries)
    async with replaying(pipe, path, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 30)
        await until_ended(pipe, opening.session)
    live = await ask(pipe, 1)
    await pipe.one("HSET", keys.state(live.session), "status", "ended")
    await recording_of(folder, live.session)
    assert len(list(folder.iterdir())) == 1


async def test_the_library_stays_below_its_limit_and_starred_recordings_stay(
    pipe: AsyncPipe, roles: Roles, folder: Path
) -> None:
    folder.mkdir()
    for name in ("oldest", "starred"):
        record_stream(folder / f"{name}.mcap", golden("vocabularies").entries)
    Library(folder).star("starred.mcap", is_starred=True)
    council_of(roles)
    roles.ready("consumers.recorder", "--record", "all", "--recordings", str(folder), COUNCIL_RECORDINGS_GB="0.00001")
    opening = await ask(pipe, 5)
    path = await recording_of(folder, opening.session)

    async def is_trimmed() -> bool:
        return sorted(Library(folder).names()) == sorted([path.name, "starred.mcap"])

    await until(is_trimmed, "the oldest recording is deleted, and only that")


async def test_two_processes_do_not_write_one_file(pipe: AsyncPipe, roles: Roles, tmp_path: Path) -> None:
    council_of(roles)
    opening = await ask(pipe, 60)
    path = tmp_path / "kept.mcap"
    first = asyncio.create_task(record_session(pipe, opening.session, path, QUIET))
    await until_window(pipe, opening.session, 60)
    with pytest.raises(Refused, match="Another process is recording"):
        await record_session(pipe, opening.session, path, QUIET)
    await first
    await check_it_contains_what_redis_had(pipe, opening.session, path)
    with pytest.raises(Refused, match="exists already"):
        await record_session(pipe, opening.session, path, QUIET)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"COUNCIL_RECORD": "some"}, "write asked or all"),
        ({"COUNCIL_RECORDINGS_GB": "much"}, "gigabytes above 0"),
        ({"COUNCIL_RECORDINGS_GB": "-1"}, "gigabytes above 0"),
        ({"COUNCIL_RECORD_TEXT": "maybe"}, "write true or false"),
        ({"COUNCIL_RECORDINGS": "/dev/null/recordings"}, "cannot be used"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start_with_a_sentence(
    roles: Roles, variables: dict[str, str], words: str
) -> None:
    role = roles.start("consumers.recorder", **variables)
    assert role.process.wait(30) == 2
    assert words in role.log()
    assert "Traceback" not in role.log()
