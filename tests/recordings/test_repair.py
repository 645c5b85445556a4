"""From a damaged file only recorded messages are read, and recovering it makes a file that verifies.

whole file --cut at any byte, any byte flipped--> reading: the same messages up to the damage, then Damage or Refused
                                              \\--> recover: a file that verifies, or one sentence and no file
"""

from __future__ import annotations

import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from council.recording import recover
from council.recording.recover import recovered
from council.recording.verify import verified
from recordings.difference import first_frame_difference
from recordings.reading import Damage, RecordingReader, read_metadata
from recordings.records import Item
from schemas.errors import CouncilError, Malformed, Refused, Unavailable
from tests.golden import golden
from tests.support.council_in_process import council
from tests.support.recording_files import NAME, about_of, frames_of, recording, write_recording

CHUNK_WINDOWS = 10
some_bytes = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@cache
def whole(name: str = "early-end") -> bytes:
    """The bytes of a recording with a chunk each ten windows."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return recording(Path(folder), name, flushed_windows=CHUNK_WINDOWS).read_bytes()


def items(path: Path) -> tuple[list[Item], CouncilError | None]:
    """The messages that can be read, and the error that ended the reading."""
    found = list[Item]()
    try:
        with RecordingReader(path) as reader:
            found.extend(reader.items())
    except (Damage, Refused) as error:
        return found, error
    return found, None


@cache
def all_items() -> list[Item]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.mcap")
        path.write_bytes(whole())
        return items(path)[0]


def assert_recovers(path: Path, folder: Path) -> None:
    """A file that verifies, whose frames are some of the recorded ones; or one sentence and no file."""
    out = folder / "out.mcap"
    out.unlink(missing_ok=True)
    result = error = None
    try:
        result = recovered(path, out)
    except (Refused, Malformed) as refusal:
        error = refusal
    assert error is None or ("\n" not in str(error) and not out.exists())
    if result is not None:
        assert result.verdict.is_right
        assert verified(out).is_right
        frames = {item.raw for item in all_items() if item.kind == "frame"}
        kept, damage = items(out)
        assert damage is None
        assert {item.raw for item in kept if item.kind == "frame"} <= frames
        entries = {(item.id, item.raw) for item in all_items() if item.kind == "entry"}
        assert {(item.id, item.raw) for item in kept if item.kind == "entry"} <= entries
    assert [name for name in os.listdir(folder) if name.endswith(".part")] == []


@some_bytes
@given(data=st.data())
def test_a_file_that_is_cut_at_any_byte_reads_as_damaged_and_recovers(data: st.DataObject, tmp_path: Path) -> None:
    length = data.draw(st.integers(0, len(whole()) - 1))
    path = tmp_path / "cut.mcap"
    path.write_bytes(whole()[:length])
    found, error = items(path)
    assert error is not None
    assert found == all_items()[: len(found)]
    assert_recovers(path, tmp_path)


@some_bytes
@given(data=st.data())
def test_a_flipped_byte_is_found_and_its_record_is_not_read(data: st.DataObject, tmp_path: Path) -> None:
    place = data.draw(st.integers(0, len(whole()) - 1))
    flip = data.draw(st.integers(1, 255))
    raw = bytearray(whole())
    raw[place] ^= flip
    path = tmp_path / "flipped.mcap"
    path.write_bytes(raw)
    found, error = items(path)
    assert error is not None, place
    wanted = iter(all_items())
    assert all(item in wanted for item in found)
    with pytest.raises(CouncilError):
        verified(path)
    assert_recovers(path, tmp_path)


@pytest.mark.parametrize("chunk", [0, 1, 3, -1])
def test_the_frames_after_a_lost_chunk_are_kept_and_the_gap_is_listed(chunk: int, tmp_path: Path) -> None:
    raw = bytearray(whole())
    places = [at for at in range(len(raw)) if raw[at : at + 8] == b"\x04\x00\x00\x00zstd"]
    starts = [at for at in places if raw[at - 37] == 6]
    raw[starts[chunk] + 60] ^= 1
    path, out = tmp_path / "lost.mcap", tmp_path / "out.mcap"
    path.write_bytes(raw)
    done = council("recover", str(path), "-o", str(out))
    assert done.code == 0, done.said
    with RecordingReader(out) as reader:
        gaps = reader.about.gaps
        windows = [item.log_ns for item in reader.items() if item.kind == "frame"]
    assert "Lost" in done.out
    if chunk == -1:
        assert gaps == ()
    else:
        first = chunk * CHUNK_WINDOWS
        assert gaps == ((first, first + CHUNK_WINDOWS - 1),)
        assert f"{first} to {first + CHUNK_WINDOWS - 1}" in done.out
        assert len(windows) == len(frames_of("early-end")) - CHUNK_WINDOWS
    verdict = verified(out)
    assert verdict.is_right
    assert verdict.compared == (len(windows) if chunk == -1 else chunk * CHUNK_WINDOWS)
    again = tmp_path / "again.mcap"
    recovered(out, again)
    with RecordingReader(again) as reader:
        assert reader.about.gaps == gaps


def test_metadata_with_a_changed_letter_is_damaged_and_not_carried_over(tmp_path: Path) -> None:
    """MCAP has no checksum for metadata, so the council's is in the metadata."""
    raw = whole().replace(b"CPython", b"JPython", 1)
    assert raw != whole()
    path, out = tmp_path / "letter.mcap", tmp_path / "out.mcap"
    path.write_bytes(raw)
    with pytest.raises(Damage, match="checksum of its metadata"):
        RecordingReader(path)
    recovered(path, out)
    with RecordingReader(out) as reader:
        assert reader.about.python == "unknown"


def test_an_index_with_a_false_length_hides_no_chunk(tmp_path: Path) -> None:
    raw = bytearray(whole())
    sign = raw.find(b"\x04\x00\x00\x00zstd")
    chunk_length = int.from_bytes(raw[sign - 36 : sign - 28], "little")
    index = sign - 28 + chunk_length
    assert raw[index] == 7
    # By 10 KiB, which is more than one chunk.
    raw[index + 2] += 40
    assert index + 10_240 < len(raw)
    path, out = tmp_path / "long.mcap", tmp_path / "out.mcap"
    path.write_bytes(raw)
    assert recovered(path, out).found.frames == len(frames_of("early-end"))


def test_a_whole_file_loses_nothing(tmp_path: Path) -> None:
    path, out = recording(tmp_path), tmp_path / "copy.mcap"
    done = council("recover", str(path), "-o", str(out))
    assert (done.code, "nothing was lost" in done.out) == (0, True), done.said
    assert items(out) == items(path)
    assert read_metadata(out) == read_metadata(path)
    assert first_frame_difference(out, path) is None


def test_a_file_without_text_keeps_its_numbers(tmp_path: Path) -> None:
    path, out = recording(tmp_path, text=False), tmp_path / "copy.mcap"
    path.write_bytes(path.read_bytes()[:-100])
    recovered(path, out)
    assert items(out)[0] == items(path)[0]


def test_the_file_of_a_killed_recorder_is_recovered_up_to_its_last_chunk(tmp_path: Path) -> None:
    stream = golden(NAME).entries
    path = write_recording(tmp_path / "killed.mcap", stream, frames_of(NAME)[:100], finish=False)
    out = tmp_path / "out.mcap"
    result = recovered(path, out)
    assert (result.found.last_window, result.verdict.compared, result.found.gaps) == (99, 100, ())


def test_a_file_without_its_opening_keeps_its_frames_and_they_are_not_verified(tmp_path: Path) -> None:
    frames = frames_of(NAME)
    path = write_recording(
        tmp_path / "headless.mcap", golden(NAME).entries, frames, about=about_of(golden(NAME).entries, gaps=((0, 0),))
    )
    raw = bytearray(path.read_bytes())
    first = raw.find(b"\x04\x00\x00\x00zstd")
    raw[first + 80] ^= 255
    path.write_bytes(raw)
    out = tmp_path / "out.mcap"
    done = council("recover", str(path), "-o", str(out))
    assert done.code == 0, done.said
    assert "cannot be computed again" in done.out
    assert verified(out).compared == 0


def test_no_file_is_written_over_another_one_or_itself(tmp_path: Path) -> None:
    path, out = recording(tmp_path), tmp_path / "there.mcap"
    out.write_bytes(b"mine")
    for name in (out, path):
        before = name.read_bytes()
        council("recover", str(path), "-o", str(name)).assert_refused("exists already")
        assert name.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    path = recording(tmp_path)
    council("recover", str(path), "-o", str(tmp_path / "none" / "out.mcap")).assert_refused("cannot be written")
    council("recover", str(path), "-o", "/proc/out.mcap").assert_refused("cannot be written")


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(tmp_path)
    room = [20_000]

    class Full:
        """A file on a disk with a little room."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self._file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    real = recover.RecordingWriter
    monkeypatch.setattr(recover, "RecordingWriter", lambda file, *rest: real(Full(file), *rest))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="No space left"):
        recovered(path, tmp_path / "out.mcap")
    assert sorted(os.listdir(tmp_path)) == [path.name]


def test_a_result_that_does_not_verify_is_not_kept(tmp_path: Path) -> None:
    frames = list(frames_of(NAME))
    frames[50] = frames[51]
    path = write_recording(tmp_path / "wrong.mcap", golden(NAME).entries, frames, finish=False)
    # Frames of another session cannot be the result of damage.
    others = [frames_of(NAME)[0], *frames_of("thinking")[1:]]
    mixed = write_recording(tmp_path / "mixed.mcap", golden(NAME).entries, others)
    with pytest.raises(Malformed, match="cannot be verified"):
        recovered(mixed, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()
    assert recovered(path, tmp_path / "out.mcap").found.gaps == ((50, 50),)
