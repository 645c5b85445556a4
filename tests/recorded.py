"""Recordings for tests: the golden sessions as files, written as a recorder writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aggregator.replay import replayed
from recordings.reading import RecordingReader
from recordings.records import Item
from recordings.writing import RecordingWriter, about_session
from schemas.entries import decode_entry
from schemas.frames import Frame, frame_of_json
from schemas.grid import window_of_entry
from schemas.keys import entry_ms
from schemas.sessions import Opening


def record_stream(path: Path, stream: Sequence[tuple[str, bytes]], *, windows: int = 0, text: bool = True) -> Path:
    """Writes the recording of a token stream: its entries, and the frames that the core computes of it."""
    opened, raw = stream[0]
    opening = decode_entry(raw)
    assert isinstance(opening, Opening)
    about = about_session(opening, opened, "0.1.0", text=text)
    left = list(stream)
    with path.open("wb") as file:
        writer = RecordingWriter(file, about)
        for closed in replayed(stream, windows):
            window = closed.frame.window_index
            while left and window_of_entry(int(about.origin_ns), entry_ms(left[0][0])) <= window:
                writer.add_entry(*left.pop(0))
            writer.add_frame(closed.frame)
            if window % 60 == 59:
                writer.flush()
        for entry in left:
            writer.add_entry(*entry)
        writer.finish()
    return path


def items_of(path: Path) -> list[Item]:
    """All messages of a recording."""
    with RecordingReader(path) as reader:
        return list(reader.items())


def recorded_entries(path: Path) -> list[tuple[str, bytes]]:
    """The token stream in a recording."""
    return [(item.id, item.raw) for item in items_of(path) if item.kind == "entry"]


def recorded_frames(path: Path) -> list[Frame]:
    """The frames in a recording."""
    return [frame_of_json(item.raw) for item in items_of(path) if item.kind == "frame"]
