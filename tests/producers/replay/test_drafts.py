"""Recordings of councils that write one answer: verified, counted, compared, exported, replayed."""

from __future__ import annotations

import asyncio
import csv
import json
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest

from aggregator.core.replay import replayed
from consumers.web.answer_cache import AnswerCache
from council.recording.export import export
from council.recording.inspect import inspect_lines, inspected
from council.recording.verify import verified
from producers.replay.player import Player
from recordings.difference import first_difference
from recordings.reading import read_metadata
from recordings.records import Item
from recordings.repair import salvage
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.control import Play
from schemas.entries import Steered, Token, decode_entry, decode_opening, encode_entry
from schemas.frame_json import frame_json
from tests.producers.replay.test_player import check_it_shows_what_was_recorded, replaying, shown_frames
from tests.support.drafting import drafted
from tests.support.recording_files import items_of, record_stream, recorded_entries, recorded_frames
from tests.support.role_processes import Roles
from tests.support.sessions import check_the_law, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session

# Four members, eighteen steers.
SEED = 5


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_stream(tmp_path_factory.mktemp("drafts") / "drafts.mcap", drafted(SEED).stream)


def texts_of(path: Path) -> list[list[str]]:
    """Each member's text at each frame of the recording."""
    shown = ([member.text for member in frame.members] for frame in recorded_frames(path))
    return list(accumulate(shown, lambda before, now: [one + two for one, two in zip(before, now, strict=True)]))


@pytest.mark.parametrize("frames", [False, True], ids=["computed", "recorded"])
async def test_a_replay_has_the_recorded_frames_and_texts_and_writes_no_mark_again(
    pipe: AsyncPipe, roles: Roles, path: Path, frames: bool
) -> None:
    if not frames:
        roles.ready("aggregator")
    async with replaying(pipe, path, frames=frames, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 60)
        await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)
        if not frames:
            await check_the_law(pipe, opening.session)
        cache, texts = AnswerCache(pipe), texts_of(path)
        for window in range(0, len(await shown_frames(pipe, opening.session)), 7):
            released = await cache.released(opening.session, window)
            assert (released.texts, released.agreed) == (texts[window], max(texts[window], key=len))


async def test_at_each_decision_a_replay_of_frames_has_the_texts_although_another_process_goes_on_with_it(
    pipe: AsyncPipe, path: Path
) -> None:
    """The marks of a decision are behind its frame. The replay stands at each such frame; in the middle it is taken
    over by a process that has shown none of the frames before."""
    texts, frames = texts_of(path), recorded_frames(path)
    stops = [frame.window_index for frame in frames if any(one.against for one in frame.consensus.decisions or ())]
    assert len(stops) > 5
    async with replaying(pipe, path, frames=True, paused=True) as (opening, first, playing):
        player = first
        for stop in stops:
            if stop == stops[len(stops) // 2]:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
                player = Player(pipe, path, opening, RedisPresence(Log(50)))
                playing = asyncio.create_task(player.run())
            player.order(Play(window=stop))

            async def is_shown(stop: int = stop) -> bool:
                return (await find_session(pipe, opening.session)).window == stop

            await until(is_shown, f"window {stop} is shown")
            released = await AnswerCache(pipe).released(opening.session)
            assert (stop, released.texts) == (stop, texts[stop])
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


def test_it_is_verified_and_counted(path: Path) -> None:
    frames = recorded_frames(path)
    assert verified(path).is_right
    _, summary = read_metadata(path)
    kinds = [decision.kind for frame in frames for decision in frame.consensus.decisions or ()]
    assert (summary.partings, summary.estimates) == (
        len(kinds) - kinds.count("unanimous") - kinds.count("followed"), kinds.count("estimate"),
    )  # fmt: skip
    assert (summary.partings or 0) > 5
    assert summary.superseded == sum(frame.counts.superseded for frame in frames) > 0
    parted = next(line for line in inspect_lines(inspected(path), path) if line.startswith("parted"))
    assert parted == (
        f"parted        the drafts of one answer, {summary.partings} times, {summary.estimates} of them estimated; "
        f"{summary.superseded} tokens were discarded"
    )
    once = inspect_lines({**inspected(path), "partings": 1, "estimates": 1, "superseded": 1}, path)
    assert "parted        the drafts of one answer, once, estimated; 1 token was discarded" in once
    assert salvage(path).is_whole


def test_tokens_are_exported_with_their_branch_and_frames_with_their_decisions(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.csv"
    export(path, "csv", "tokens", out)
    with out.open(newline="") as file:
        rows = [(int(row["member"]), int(row["branch"]), int(row["seq"])) for row in csv.DictReader(file)]
    entries = [decode_entry(raw) for _, raw in recorded_entries(path)]
    assert rows == [(one.member, one.branch, one.seq) for one in entries if isinstance(one, Token)]
    assert max(branch for _, branch, _ in rows) > 1
    out = tmp_path / "frames.csv"
    export(path, "csv", "frames", out)
    with out.open(newline="") as file:
        shown = list(csv.DictReader(file))
    named = [json.loads(frame_json(frame)) for frame in recorded_frames(path)]
    for name in ("decisions", "mixture"):
        assert [json.loads(row[name]) for row in shown] == [frame[name] for frame in named]
    assert [int(row["superseded"]) for row in shown] == [frame["superseded"] for frame in named]
    assert [row["agreed"].lstrip("'") for row in shown] == [frame["agreed"].lstrip("'") for frame in named]


def test_a_steer_is_recorded_with_its_member(path: Path) -> None:
    steers = [item for item in items_of(path) if item.kind == "entry" and _is_steer(item)]
    assert len(steers) > 10
    for item in steers:
        mark, shown = decode_entry(item.raw), msgspec.json.decode(item.data)
        assert isinstance(mark, Steered)
        assert item.topic == f"/tokens/m{mark.member}"
        assert (shown["kind"], shown["branch"], shown["text"]) == ("steered", mark.branch, mark.text)


def _is_steer(item: Item) -> bool:
    return isinstance(decode_entry(item.raw), Steered)


def test_a_recording_without_text_has_the_decisions_but_none_of_the_texts(path: Path, tmp_path: Path) -> None:
    secret = drafted(SEED, "A secret").stream
    silent = record_stream(tmp_path / "silent.mcap", secret, text=False)
    spans = [span for frame in recorded_frames(silent) for span in frame.consensus.mixture or ()]
    whole = [span for closed in replayed(secret) for span in closed.frame.consensus.mixture or ()]
    assert any(span.top for span in whole)
    assert spans == [msgspec.structs.replace(span, top=()) for span in whole]
    for frame in recorded_frames(silent):
        assert (frame.consensus.agreed, [one.runner_up for one in frame.consensus.decisions or ()].count(None)) == (
            "", len(frame.consensus.decisions or ()),
        )  # fmt: skip
    assert not any(b"secret" in item.data for item in items_of(silent))
    about, summary = read_metadata(silent)
    assert (about.prefix, (summary.partings or 0) > 0) == ("", True)
    numbers = record_stream(tmp_path / "numbers.mcap", drafted(SEED).stream, text=False)
    assert first_difference(path, numbers) is None


def test_the_mixture_is_compared_only_where_both_recordings_have_it(path: Path, tmp_path: Path) -> None:
    (opened, raw), *rest = drafted(SEED).stream
    for mixture, is_same in ((0, True), (1, False)):
        opening = msgspec.structs.replace(decode_opening(raw), mixture=mixture)
        other = record_stream(tmp_path / f"{mixture}.mcap", [(opened, encode_entry(opening)), *rest])
        assert (first_difference(path, other) is None) == is_same


def test_recordings_of_two_prefixes_and_of_two_decisions_differ(path: Path, tmp_path: Path) -> None:
    other = record_stream(tmp_path / "other.mcap", drafted(SEED, "A word").stream)
    found = first_difference(path, other)
    assert found
    assert (found.window, found.field, found.other) == (None, "prefix", "A word")
    assert (verified(other).is_right, read_metadata(other)[0].prefix) == (True, "A word")
    other = record_stream(tmp_path / "seed.mcap", drafted(SEED + 1000).stream)
    assert first_difference(path, other) is not None
