"""`council inspect` counts the messages of a recording."""

from __future__ import annotations

import json
from pathlib import Path

from council.recording.inspect import inspected
from schemas.entries import Token, decode_entry
from tests.golden import golden
from tests.support.council_in_process import council
from tests.support.recording_files import frames_of, recording


def test_the_counts_are_those_of_the_session(tmp_path: Path) -> None:
    name = "killed"
    path, frames = recording(tmp_path, name), frames_of(name)
    found = inspected(path)
    entries = [decode_entry(raw) for _, raw in golden(name).entries]
    tokens = [entry for entry in entries if isinstance(entry, Token)]
    for index, member in enumerate(found["members"]):
        shown = [token for frame in frames for token in frame.tokens if token.member == index]
        assert member["tokens"] == len(shown)
        assert member["entries"] == sum(getattr(entry, "member", None) == index for entry in entries)
        last = frames[-1].members[index]
        assert (member["state"], member["reason"]) == (last.state, last.reason)
        windows = [frame.window_index for frame in frames if any(token.member == index for token in frame.tokens)]
        rate = (len(shown) - 1) * 60 / (windows[-1] - windows[0])
        assert abs(member["tokens_per_s"] - rate) < 0.01
    assert (found["frames"], found["windows"], found["entries"]) == (len(frames), len(frames), len(entries))
    assert sum(one["messages"] for one in found["channels"] if one["topic"].startswith("/tokens/")) >= len(tokens)
    assert found["final"]
    assert found["size_bytes"] == path.stat().st_size
    parted = next(frame for frame in frames if frame.alignment.diverged_at_bytes is not None)
    assert found["diverged_at_bytes"] == parted.alignment.diverged_at_bytes
    assert found["diverged_at_s"] == round(parted.window_index / 60, 3)


def test_the_command_writes_text_and_json(tmp_path: Path) -> None:
    path = recording(tmp_path)
    shown = council("inspect", str(path))
    assert shown.code == 0
    for words in ("What is a list?", "left", "tokens/s", "/frames", "CPython"):
        assert words in shown.out, words
    shown = json.loads(council("inspect", str(path), "--json").out)
    assert {**inspected(path), "file": str(path)} == shown


def test_a_recording_is_found_by_its_name_in_the_library(tmp_path: Path) -> None:
    path = recording(tmp_path)
    done = council("inspect", path.name, "--json", COUNCIL_RECORDINGS=str(tmp_path))
    assert json.loads(done.out)["file"] == str(path)


def test_a_gap_and_missing_text_are_shown(tmp_path: Path) -> None:
    path = recording(tmp_path, text=False, gaps=((3, 9),))
    out = council("inspect", str(path)).out
    assert "recorded without text" in out
    assert "3 to 9" in out
