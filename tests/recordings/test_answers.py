"""The answers in a recording are those that its frames showed, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from recordings.answers import read_answers
from schemas.entries import decode_entry, encode_entry
from schemas.errors import Malformed, Refused
from schemas.sessions import Opening
from tests.golden import golden
from tests.support.recording_files import NAME, about_of, frames_of, recording, write_recording


def test_the_answers_are_the_texts_of_all_frames(tmp_path: Path) -> None:
    found = read_answers(recording(tmp_path))
    assert list(found.texts) == ["".join(texts) for texts in zip(*map(texts_of, frames_of(NAME)), strict=True)]
    assert all(found.texts)
    assert (found.ended, found.opening.replay, found.opening.names) == (
        True,
        None,
        about_of(golden(NAME).entries).names,
    )
    assert found.opening.session == about_of(golden(NAME).entries).session


def texts_of(frame: object) -> list[str]:
    return [member.text for member in frame.members]  # type: ignore[attr-defined]


def test_answers_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    stream, frames = golden(NAME).entries, frames_of(NAME)
    part = write_recording(tmp_path / "part.mcap", stream, frames[:40])
    assert not read_answers(part).ended
    for name, kept in (("gap", [*frames[:10], *frames[12:]]), ("late", frames[3:])):
        with pytest.raises(Refused, match="lacks the window") as caught:
            read_answers(write_recording(tmp_path / f"{name}.mcap", stream, kept))
        assert caught.value.code == "incomplete_recording"
    with pytest.raises(Refused, match="without text"):
        read_answers(recording(tmp_path, text=False))
    damaged = tmp_path / "damaged.mcap"
    damaged.write_bytes(part.read_bytes()[:-200])
    with pytest.raises(Malformed):
        read_answers(damaged)


@pytest.mark.parametrize("count", [2, 4])
def test_an_opening_with_another_number_of_members_than_the_metadata_is_refused(tmp_path: Path, count: int) -> None:
    """The file's frames have three texts: one of another number is not the text of a member."""
    (opened, raw), *rest = golden(NAME).entries
    opening = decode_entry(raw)
    assert isinstance(opening, Opening)
    other = msgspec.structs.replace(opening, members=(*opening.members, opening.members[0])[:count])
    stream = [(opened, encode_entry(other)), *rest]
    path = write_recording(tmp_path / "other.mcap", stream, frames_of(NAME), about=about_of(golden(NAME).entries))
    with pytest.raises(Malformed, match=f"its opening has {count} members, and its metadata 3"):
        read_answers(path)
