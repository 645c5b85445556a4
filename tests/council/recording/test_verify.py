"""A recording is right exactly where its frames are those that its entries give.

entries --the core--> frames == recorded frames        exit 0
                             != a field                exit 1: window, field, both values
                             == up to a gap            exit 0, and what could not be proved
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aggregator.core.replay import StreamReplay, replayed
from council.recording.verify import verified
from recordings.difference import FRAME_SCHEMA, differences, known_fields
from recordings.reading import Damage, RecordingReader
from recordings.writing import RecordingWriter
from schemas.entries import Beat, encode_entry
from schemas.errors import Malformed, Refused
from schemas.frames import Frame, encode_frame
from schemas.keys import entry_order
from tests.golden import golden, golden_names
from tests.support.council_in_process import council
from tests.support.frames import changed_frame
from tests.support.recording_files import NAME, about_of, changed, frames_of, recording, repeated, write_recording


@pytest.mark.parametrize("name", golden_names())
@pytest.mark.parametrize("flushed_windows", [60, 1])
def test_the_recording_of_a_golden_session_is_right(name: str, flushed_windows: int, tmp_path: Path) -> None:
    verdict = verified(recording(tmp_path, name, flushed_windows=flushed_windows))
    assert verdict.is_right
    assert (verdict.compared, verdict.unproved, verdict.not_recorded) == (len(frames_of(name)), 0, 0)
    assert verdict.entries == len(golden(name).entries)


@pytest.mark.parametrize("window", [0, 59, 60, 139])
def test_a_changed_value_is_found_with_its_window_its_field_and_both_values(window: int, tmp_path: Path) -> None:
    def lie(frame: Frame) -> Frame:
        members = (msgspec.structs.replace(frame.members[0], position_bytes=77_777), *frame.members[1:])
        return msgspec.structs.replace(frame, members=members)

    right = frames_of(NAME)[window].members[0].position_bytes
    stream = golden(NAME).entries
    path = write_recording(tmp_path / "wrong.mcap", stream, changed(frames_of(NAME), window, lie))
    done = council("verify", str(path))
    assert done.code == 1
    assert f"window {window}, members[0].position_bytes: recorded 77777, computed {right}" in done.out
    verdict = verified(path)
    assert verdict.difference is not None
    assert (verdict.difference.window, verdict.difference.one, verdict.difference.other) == (window, 77_777, right)


def _nudged(frame: Frame) -> Frame:
    return msgspec.structs.replace(frame, energy=frame.energy + 3e-9)


def test_numbers_that_differ_count_as_equal_within_a_tolerance_only(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "near.mcap", golden(NAME).entries, changed(frames_of(NAME), 90, _nudged))
    assert not verified(path).is_right
    assert not verified(path, 1e-9).is_right
    assert verified(path, 1e-8).is_right
    done = council("verify", str(path), "--tolerance", "1e-8")
    assert done.code == 0, done.said
    assert "within 1e-08" in done.out


def test_a_count_is_not_a_measured_number(tmp_path: Path) -> None:
    frames = changed(frames_of(NAME), 90, lambda frame: changed_frame(frame, late=frame.counts.late + 1))
    path = write_recording(tmp_path / "count.mcap", golden(NAME).entries, frames)
    assert not verified(path, 5.0).is_right


def test_numbers_of_another_machine_are_compared_to_the_end_to_find_the_largest_difference(
    tmp_path: Path,
) -> None:
    frames = changed(frames_of(NAME), 30, _nudged)
    frames = changed(frames, 100, lambda frame: msgspec.structs.replace(frame, energy=frame.energy + 7e-9))
    about = about_of(golden(NAME).entries, python="PyPy 7", platform="Plan 9")
    path = write_recording(tmp_path / "far.mcap", golden(NAME).entries, frames, about=about)
    verdict = verified(path)
    assert verdict.largest == pytest.approx(7e-9, rel=1e-3)
    assert (verdict.is_right, verdict.numbers_alone, verdict.compared) == (False, True, len(frames))
    assert verdict.difference is not None
    assert verdict.difference.window == 30
    done = council("verify", str(path))
    assert done.code == 1
    assert "PyPy 7 on Plan 9" in done.out
    assert council("verify", str(path), "--tolerance", "1e-8").code == 0


def test_frames_that_redis_trimmed_before_the_recording_are_not_compared(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "late.mcap", golden(NAME).entries, frames_of(NAME)[70:])
    verdict = verified(path)
    assert (verdict.is_right, verdict.not_recorded, verdict.compared) == (True, 70, len(frames_of(NAME)) - 70)
    assert "begins with window 70: the 70 frames" in council("verify", str(path)).out


@pytest.mark.parametrize("place", ["lost", "twice", "swapped"])
def test_every_frame_is_there_once_and_in_order(place: str, tmp_path: Path) -> None:
    frames = list(frames_of(NAME))
    at = 80
    if place == "lost":
        del frames[at]
    elif place == "twice":
        frames.insert(at, frames[at])
    else:
        frames[at], frames[at + 1] = frames[at + 1], frames[at]
    verdict = verified(write_recording(tmp_path / "order.mcap", golden(NAME).entries, frames), 1e9)
    assert not verdict.is_right
    assert verdict.difference is not None
    assert verdict.difference.field == "window_index"


def test_without_text_only_the_order_is_checked_and_the_message_says_so(tmp_path: Path) -> None:
    path = recording(tmp_path, text=False)
    verdict = verified(path)
    assert (verdict.is_right, verdict.compared, verdict.unproved) == (True, 0, len(frames_of(NAME)))
    done = council("verify", str(path))
    assert done.code == 0
    assert "without text" in done.out
    short = write_recording(
        tmp_path / "short.mcap", golden(NAME).entries, [*frames_of(NAME)[:20], *frames_of(NAME)[21:]],
        about=about_of(golden(NAME).entries, text=False),
    )  # fmt: skip
    assert not verified(short).is_right


def test_after_a_gap_nothing_is_computed_and_the_message_says_so(tmp_path: Path) -> None:
    about = about_of(golden(NAME).entries, gaps=((40, 49),))
    frames = [*frames_of(NAME)[:40], *frames_of(NAME)[50:]]
    path = write_recording(tmp_path / "gap.mcap", golden(NAME).entries, frames, about=about)
    verdict = verified(path)
    assert (verdict.is_right, verdict.compared, verdict.unproved) == (True, 40, len(frames) - 40)
    assert "the first is 40" in council("verify", str(path)).out


def test_a_gap_may_have_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from council.recording import verify

    monkeypatch.setattr(verify, "_MOST_WAITING", 30)
    stream, frames = golden(NAME).entries, frames_of(NAME)
    first, last = entry_order(frames[44].cut), entry_order(frames[119].cut)
    kept = [entry for entry in stream if not first < entry_order(entry[0]) <= last]
    path = tmp_path / "gap.mcap"
    about = about_of(stream, gaps=((45, 119),))
    assert verified(write_recording(path, kept, [*frames[:45], *frames[120:]], about=about)).compared == 45


def test_an_entry_after_its_window_a_missing_opening_and_a_file_without_frames_are_refused(
    tmp_path: Path,
) -> None:
    stream, frames = golden(NAME).entries, frames_of(NAME)
    with_late, last = list(stream), frames[100].cut
    late = f"{last.partition('-')[0]}-{int(last.partition('-')[2]) + 1}"
    path = tmp_path / "late.mcap"
    with path.open("wb") as file:
        writer = RecordingWriter(file, about_of(stream))
        for frame in frames:
            while with_late and entry_order(with_late[0][0]) <= entry_order(frame.cut):
                writer.add_entry(*with_late.pop(0))
            writer.add_frame(frame)
            if frame.window_index == 100:
                writer.add_entry(late, encode_entry(Beat()))
        writer.finish()
    with pytest.raises(Malformed, match=f"{late} comes after the frame of its window"):
        verified(path)
    headless = write_recording(tmp_path / "headless.mcap", stream[1:], frames, about=about_of(stream))
    with pytest.raises(Malformed, match="does not begin with the opening"):
        verified(headless)
    empty = write_recording(tmp_path / "empty.mcap", stream, [])
    with pytest.raises(Malformed, match="contains no frame"):
        verified(empty)
    for path in (headless, empty):
        done = council("verify", str(path))
        assert (done.code, done.out) == (1, "")
        done.assert_said("council:")


def test_a_late_entry_is_refused_by_the_replay_and_one_after_the_final_frame_changes_nothing() -> None:
    stream = golden(NAME).entries
    replay = StreamReplay(stream[0])
    list(replay.close_to(10))
    with pytest.raises(Malformed, match="closed before"):
        list(replay.add(stream[1]))
    after = [*stream, (f"{int(stream[-1][0].partition('-')[0]) + 5_000}-0", stream[-1][1])]
    assert [encode_frame(one.frame) for one in replayed(after)] == [encode_frame(one) for one in frames_of(NAME)]


def test_metadata_that_differs_from_the_opening_is_refused(tmp_path: Path) -> None:
    about = about_of(golden(NAME).entries, prompt="What is a lie?")
    path = write_recording(tmp_path / "lie.mcap", golden(NAME).entries, frames_of(NAME), about=about)
    with pytest.raises(Malformed, match="the prompt of its metadata differs"):
        verified(path)


def test_a_field_that_is_new_is_not_compared_and_one_that_is_missing_is_null(
    tmp_path: Path,
) -> None:
    with RecordingReader(recording(tmp_path)) as reader:
        list(reader.items())
        known = known_fields(reader.schemas[FRAME_SCHEMA])
    computed = {"window_index": 3, "jsd": 0.5, "later": 0.25, "members": [{"name": "a", "later": 1}]}
    recorded = {"window_index": 3, "members": [{"name": "a"}]}
    (found,) = differences(3, recorded, computed, known)
    assert (found.field, found.one, found.other) == ("jsd", None, 0.5)
    (unknown,) = differences(3, {**computed, "odd": None, "new": 1}, computed, known)
    assert (unknown.field, unknown.other) == ("new", None)


def test_too_many_windows_without_a_frame_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from council.recording import verify

    monkeypatch.setattr(verify, "_MOST_WAITING", 50)
    stream = golden(NAME).entries
    path = tmp_path / "pile.mcap"
    with path.open("wb") as file:
        writer = RecordingWriter(file, about_of(stream))
        for entry in stream:
            writer.add_entry(*entry)
        for frame in frames_of(NAME):
            writer.add_frame(frame)
        writer.finish()
    with pytest.raises(Malformed, match="more than 50 windows"):
        verified(path)
    monkeypatch.setattr(verify, "_MOST_WAITING", 36_000)
    assert verified(path).is_right


def test_a_long_session_is_right_and_progress_reaches_its_end(tmp_path: Path) -> None:
    stream = repeated(golden(NAME).entries, 4)
    frames = [closed.frame for closed in replayed(stream)]
    path = write_recording(tmp_path / "long.mcap", stream, frames)
    seen = list[int]()
    assert verified(path, progress=seen.append).is_right
    assert seen == sorted(seen)
    assert seen[-1] > path.stat().st_size / 2


def test_a_cut_file_is_damaged_and_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = recording(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damage):
        verified(path)
    with pytest.raises(Refused):
        verified(tmp_path / "nothing")
    council("verify", str(tmp_path / "nothing")).assert_refused("cannot be read")
