"""The difference of two recordings: in the opening first, then in a window and a field."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from recordings.difference import first_difference
from tests.golden import golden
from tests.support.council_in_process import council
from tests.support.recording_files import NAME, about_of, changed, frames_of, recording, write_recording


def test_the_session_id_of_a_copy_is_not_a_difference(tmp_path: Path) -> None:
    """A replay has another session id and names its recording; entry ids are times."""
    path = recording(tmp_path)
    again = [msgspec.structs.replace(frame, session="again", replay_of="first", cut="1-1") for frame in frames_of(NAME)]
    other = write_recording(tmp_path / "again.mcap", golden(NAME).entries, again)
    assert first_difference(path, other) is None
    done = council("diff", str(path), str(other))
    assert (done.code, done.out) == (0, "The recordings are equal.\n")


def test_the_first_window_and_field_that_differ_are_found(tmp_path: Path) -> None:
    path = recording(tmp_path)
    frames = changed(frames_of(NAME), 77, lambda frame: msgspec.structs.replace(frame, tier="low"))
    frames = changed(frames, 90, lambda frame: msgspec.structs.replace(frame, tier="high"))
    other = write_recording(tmp_path / "other.mcap", golden(NAME).entries, frames)
    found = first_difference(path, other)
    assert found is not None
    assert (found.window, found.field, found.one, found.other) == (77, "tier", frames_of(NAME)[0].tier, "low")
    done = council("diff", str(path), str(other), "--json")
    assert done.code == 1
    assert json.loads(done.out)["first"] == {"window": 77, "field": "tier", "one": found.one, "other": "low"}


def test_a_window_that_is_missing_in_one_recording_is_a_difference(tmp_path: Path) -> None:
    path = recording(tmp_path)
    for missing in (0, 50, len(frames_of(NAME)) - 1):
        frames = [frame for frame in frames_of(NAME) if frame.window_index != missing]
        other = write_recording(tmp_path / "other.mcap", golden(NAME).entries, frames)
        found = first_difference(other, path)
        assert found is not None
        assert (found.window, found.field, found.one, found.other) == (missing, "frame", None, "there")


def test_the_openings_are_compared_first(tmp_path: Path) -> None:
    done = council("diff", str(recording(tmp_path)), str(recording(tmp_path, "thinking")))
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("opening, ")
    assert lines[-1].startswith("window 0, ")
    found = first_difference(tmp_path / "twins.mcap", tmp_path / "thinking.mcap")
    assert found is not None
    assert found.window is None


def test_texts_are_compared_only_where_both_have_them(tmp_path: Path) -> None:
    path = recording(tmp_path)
    silent = write_recording(
        tmp_path / "silent.mcap",
        golden(NAME).entries,
        frames_of(NAME),
        about=about_of(golden(NAME).entries, text=False),
    )
    assert first_difference(path, silent) is None
    assert "texts were not compared" in council("diff", str(path), str(silent)).out
