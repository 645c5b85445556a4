"""The golden recordings: every later version must read them, prove them and replay them.

A wire change that old recordings cannot follow fails here: a frame's field that was renamed or means something else, an
entry that no longer decodes, a message that its own schema in the file does not describe.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import jsonschema_rs
import msgspec
import pytest
from mcap.reader import make_reader

from council.recording.verify import verified
from recordings.contents import Health
from recordings.reading import read_metadata
from schemas.entries import Claim, Token, decode_entry
from schemas.events import decode_event
from schemas.sessions import REPLAYED_VERSIONS, Opening
from tests.golden.recordings import golden_recordings
from tests.producers.replay.test_player import check_it_shows_what_was_recorded, replaying
from tests.support.recording_files import items_of, recorded_entries, recorded_frames
from tests.support.role_processes import Roles
from tests.support.sessions import check_the_law, until_ended
from transport.redis.connection import AsyncPipe

each_recording = pytest.mark.parametrize("path", golden_recordings(), ids=lambda path: path.stem)
NAMES = {"dropout", "ngram", "real", "split-characters", "takeover", "thinking"}


def test_there_is_a_recording_of_each_kind() -> None:
    assert {path.stem for path in golden_recordings()} == NAMES
    # Those of the first version of entries are replayed and verified too.
    assert {read_metadata(path)[0].entry_version for path in golden_recordings()} >= {REPLAYED_VERSIONS[0]}


@each_recording
def test_every_frame_is_computed_again_byte_for_byte(path: Path) -> None:
    verdict = verified(path)
    assert verdict.difference is None, verdict
    assert verdict.compared == len(recorded_frames(path))


@each_recording
def test_every_message_decodes_and_matches_its_schema_in_the_file(path: Path) -> None:
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary
        checks = {
            number: jsonschema_rs.validator_for(json.loads(schema.data)) for number, schema in summary.schemas.items()
        }
        count = 0
        for schema, _, message in reader.iter_messages():
            assert schema
            checks[schema.id].validate(json.loads(message.data))
            count += 1
    items = items_of(path)
    assert count == len(items)
    entries = [decode_entry(item.raw) for item in items if item.kind == "entry"]
    assert isinstance(entries[0], Opening)
    for item in items:
        if item.kind == "event":
            decode_event(item.raw)
        elif item.kind == "health":
            msgspec.json.decode(item.raw, type=Health)


@each_recording
def test_the_metadata_describes_what_was_recorded(path: Path) -> None:
    about, summary = read_metadata(path)
    entries = [decode_entry(raw) for _, raw in recorded_entries(path)]
    frames = recorded_frames(path)
    assert isinstance(entries[0], Opening)
    assert (about.session, about.prompt, about.names) == (entries[0].session, entries[0].prompt, entries[0].names)
    assert (summary.frames, summary.last_window, summary.final) == (len(frames), len(frames) - 1, True)
    assert summary.tokens == tuple(
        sum(token.member == member for frame in frames for token in frame.tokens)
        for member in range(len(about.members))
    )


@each_recording
async def test_a_replay_shows_the_recorded_frames(pipe: AsyncPipe, roles: Roles, path: Path) -> None:
    roles.ready("aggregator")
    async with replaying(pipe, path, rate=0.0) as (opening, _, playing):
        await asyncio.wait_for(playing, 60)
        await until_ended(pipe, opening.session)
        await check_it_shows_what_was_recorded(pipe, opening, path)
        await check_the_law(pipe, opening.session)


def test_each_recording_contains_what_its_name_promises() -> None:
    frames = {path.stem: recorded_frames(path) for path in golden_recordings()}
    entries = {path.stem: [decode_entry(raw) for _, raw in recorded_entries(path)] for path in golden_recordings()}
    assert "dropped" in {member.state for member in frames["dropout"][-1].members}
    epochs = [
        msgspec.json.decode(item.raw, type=Health).epoch
        for path in golden_recordings()
        if path.stem == "takeover"
        for item in items_of(path)
        if item.kind == "health"
    ]
    assert max(epochs) > min(epochs)
    assert any(isinstance(entry, Token) and entry.lane == "thinking" for entry in entries["thinking"])
    pieces = [entry.piece for entry in entries["split-characters"] if isinstance(entry, Token)]
    assert any(b"\xef\xbf\xbd" not in piece and not _is_text(piece) for piece in pieces)
    assert {member.model for member in frames["ngram"][0].members} == {"ngram:word-3", "ngram:char-6"}
    assert sum(isinstance(entry, Claim) for entry in entries["real"]) == 3


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
