"""Session files for tests: golden sessions, written as a recorder writes them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec

from aggregator.replay import replayed
from recordings.folder import recording_name
from recordings.writing import RecordingWriter, about_session
from schemas.entries import decode_entry, encode_entry
from schemas.frames import Frame
from schemas.keys import entry_ms
from schemas.sessions import Opening
from tests.golden import golden

# Three members, two of them the same; 2.3 s.
SHORT = "twins"


@functools.cache
def golden_stream(name: str = SHORT) -> tuple[list[tuple[str, bytes]], list[Frame]]:
    """(its entries, its frames)."""
    entries = golden(name).entries
    return entries, [closed.frame for closed in replayed(entries)]


def write_recording(
    folder: Path, golden_name: str = SHORT, *, text: bool = True, last: int | None = None, **opening: Any
) -> Path:
    """The file of a golden session in the folder, under its own name; with other things said in its opening, and
    without the frames from the window `last` on."""
    entries, frames = golden_stream(golden_name)
    opened, raw = entries[0]
    changed = decode_entry(raw)
    assert isinstance(changed, Opening)
    changed = msgspec.structs.replace(changed, **opening)
    stream = [(opened, encode_entry(changed)), *entries[1:]]
    if "members" in opening:
        frames = [closed.frame for closed in replayed(stream)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / recording_name(changed.session, changed.prompt, entry_ms(opened))
    with path.open("wb") as file:
        writer = RecordingWriter(file, about_session(changed, opened, "0.0.0", text=text))
        for entry in stream:
            writer.add_entry(*entry)
        for frame in frames[:last]:
            writer.add_frame(msgspec.structs.replace(frame, session=changed.session))
        writer.finish()
    return path
