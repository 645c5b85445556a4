"""Recordings for tests: the golden sessions as files, written as a recorder writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aggregator.core.replay import replayed
from recordings.reading import RecordingReader
from recordings.records import Item
from schemas.frames import Frame, frame_of_json
from tests.support.made_recordings import about_of, write_recording


def record_stream(path: Path, stream: Sequence[tuple[str, bytes]], *, windows: int = 0, text: bool = True) -> Path:
    """Writes the recording of a token stream: its entries, and the frames that the core computes of it."""
    entries = list(stream)
    frames = [closed.frame for closed in replayed(entries, windows)]
    return write_recording(path, entries, frames, about=about_of(entries, text=text))


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
