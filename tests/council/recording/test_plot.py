"""A picture shows the content of the frames of a session of any length, and is the same each time."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec
import pytest

from council.recording.curves import Curves
from council.recording.plot import gathered, plotted
from schemas.entries import decode_entry, encode_entry
from schemas.errors import Malformed, Refused
from schemas.sessions import Opening
from tests.golden import golden
from tests.support.council_in_process import council
from tests.support.recording_files import NAME, frames_of, recording, write_recording


def test_a_peak_of_one_window_is_kept_for_any_number_of_windows() -> None:
    curves = Curves(1, 1, most_buckets=64)
    for window in range(100_000):
        curves.add(window, [1.0 if window == 77_777 else 0.25], ["peak" if window > 50_000 else "calm"])
    windows, values = curves.line(0)
    assert len(windows) <= 128
    assert max(values) == 1.0
    assert min(values) == 0.25
    at = windows[values.index(1.0)]
    assert abs(at - 77_777) <= curves.windows_per_bucket
    calm, peak = curves.runs(0)
    assert (calm[2], peak[2]) == ("calm", "peak")
    assert abs(calm[1] - 50_000) <= curves.windows_per_bucket


def test_few_windows_are_drawn_one_by_one_with_gaps_where_nothing_was_measured() -> None:
    curves = Curves(2, 0, most_buckets=64)
    for window in range(40):
        curves.add(window, [window / 40, None if window < 20 else 0.5], [])
    assert curves.line(0) == ([float(window) for window in range(40)], [window / 40 for window in range(40)])
    assert [math.isnan(value) for value in curves.line(1)[1]] == [True] * 20 + [False] * 20


def test_a_very_large_window_index_costs_no_memory() -> None:
    curves = Curves(1, 1)
    curves.add(0, [0.5], ["a"])
    curves.add(2**62, [1.0], ["b"])
    assert len(curves.line(0)[0]) <= 4_096


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_the_same_each_time(kind: str, tmp_path: Path) -> None:
    path = recording(tmp_path, "vocabularies")
    for name in ("one", "other"):
        plotted(path, tmp_path / f"{name}.{kind}")
    one, other = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "other"))
    assert one == other
    assert one.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    if kind == "svg":
        for words in (b"v400", b"diversity_index", b"jsd", b"parted at byte"):
            assert words in one


def test_the_picture_shows_the_window_in_which_the_answers_parted(tmp_path: Path) -> None:
    drawn = gathered(recording(tmp_path, "vocabularies"))
    frames = frames_of("vocabularies")
    parted = next(frame for frame in frames if frame.alignment.diverged_at_bytes is not None)
    assert (drawn.parted, drawn.parted_bytes) == (parted.window_index, parted.alignment.diverged_at_bytes)


@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "\x1b[31mred", "日本語 🎉", "<script>alert(1)</script>"])
def test_no_name_of_a_member_breaks_a_picture(name: str, tmp_path: Path) -> None:
    stream = list(golden(NAME).entries)
    opening = decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    members = (msgspec.structs.replace(opening.members[0], name=name), *opening.members[1:])
    stream[0] = stream[0][0], encode_entry(msgspec.structs.replace(opening, members=members, prompt=name))
    path, out = write_recording(tmp_path / "named.mcap", stream, frames_of(NAME)), tmp_path / "named.svg"
    plotted(path, out)
    assert b"\x1b" not in out.read_bytes()
    assert b"<script" not in out.read_bytes()


def test_what_cannot_be_drawn_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(tmp_path)
    council("plot", str(path), "-o", str(tmp_path / "out.gif")).assert_refused(".png or .svg")
    with pytest.raises(Malformed, match="contains no frame"):
        plotted(write_recording(tmp_path / "empty.mcap", golden(NAME).entries, []), tmp_path / "out.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Refused, match=r'pip install "turbo-ensemble\[plot\]"'):
        plotted(path, tmp_path / "out.png")
    assert not list(tmp_path.glob("*out*"))
