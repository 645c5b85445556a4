"""Recording files of golden sessions, written as the recorder writes them: a window's entries, then its frame."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from aggregator.core.replay import replayed
from recordings.contents import About, Health
from recordings.folder import recording_name
from recordings.reading import RecordingReader
from recordings.records import Item
from recordings.writing import RecordingWriter, about_session
from schemas.entries import Beat, Token, decode_entry, encode_entry
from schemas.frame_json import frame_of_json
from schemas.frames import Frame
from schemas.grid import NS_PER_MS, window_of_entry, window_start_ns
from schemas.keys import entry_ms
from schemas.sessions import Opening
from tests.golden import golden

Stream = list[tuple[str, bytes]]
FLUSHED_WINDOWS = 60
# Three members, two of them the same model; 2.3 s.
NAME = "twins"


@functools.cache
def frames_of(name: str) -> list[Frame]:
    """The frames that the core computes of a golden session."""
    return [closed.frame for closed in replayed(golden(name).entries)]


def about_of(stream: Stream, **changes: object) -> About:
    """The metadata of a recording of this stream, with these fields changed."""
    opening = decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    text = changes.get("text", True) is True
    return msgspec.structs.replace(about_session(opening, stream[0][0], "0.1.0", text=text), **changes)


def write_recording(
    path: Path,
    stream: Stream,
    frames: list[Frame],
    *,
    flushed_windows: int = FLUSHED_WINDOWS,
    reason: str = "",
    finish: bool = True,
    about: About | None = None,
) -> Path:
    """Writes the file; an event with every tenth frame, the health with each flush. Returns `path`."""
    found = about or about_of(stream)
    origin_ns = int(found.origin_ns)
    with path.open("wb") as file:
        writer = RecordingWriter(file, found)
        written = 0
        for frame in frames:
            while (
                written < len(stream) and window_of_entry(origin_ns, entry_ms(stream[written][0])) <= frame.window_index
            ):
                writer.add_entry(*stream[written])
                written += 1
            writer.add_frame(frame)
            if frame.window_index % 10 == 0:
                writer.add_event(frame.window_index, b'{"type":"energy_update","payload":{"totalEnergy":0.5}}')
            if frame.window_index % flushed_windows == flushed_windows - 1:
                health = Health(frame.window_index, 0, 0, 1, 1_000_000, 4, 0.5)
                writer.add_health(origin_ns + window_start_ns(frame.window_index + 1), health)
                writer.flush()
        for entry_id, raw in stream[written:]:
            writer.add_entry(entry_id, raw)
        if finish:
            writer.finish(reason)
        else:
            writer.flush()
    return path


def recording(folder: Path, name: str = NAME, *, flushed_windows: int = FLUSHED_WINDOWS, **changes: object) -> Path:
    """The recording of a golden session, with these fields of its metadata changed."""
    stream = golden(name).entries
    path = folder / f"{name}.mcap"
    about = about_of(stream, **changes)
    return write_recording(path, stream, frames_of(name), flushed_windows=flushed_windows, about=about)


def record_stream(path: Path, stream: Sequence[tuple[str, bytes]], *, windows: int = 0, text: bool = True) -> Path:
    """Writes the recording of any token stream: its entries, and the frames that the core computes of it."""
    entries = list(stream)
    frames = [closed.frame for closed in replayed(entries, windows)]
    return write_recording(path, entries, frames, about=about_of(entries, text=text))


def write_golden(
    folder: Path, name: str = NAME, *, text: bool = True, entries: int | None = None, **opening: Any
) -> Path:
    """The recording of a golden session in a library, under the file name that a recorder gives it; of its first
    `entries` only, and with these fields of its opening changed."""
    (opened, raw), *rest = golden(name).entries[:entries]
    new = decode_entry(raw)
    assert isinstance(new, Opening)
    new = msgspec.structs.replace(new, **opening)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / recording_name(new.session, new.prompt, entry_ms(opened))
    return record_stream(path, [(opened, encode_entry(new)), *rest], text=text)


def items_of(path: Path) -> list[Item]:
    """All messages of a recording."""
    with RecordingReader(path) as reader:
        return list(reader.items())


def recorded_entries(path: Path) -> Stream:
    """The token stream in a recording."""
    return [(item.id, item.raw) for item in items_of(path) if item.kind == "entry"]


def recorded_frames(path: Path) -> list[Frame]:
    """The frames in a recording."""
    return [frame_of_json(item.raw) for item in items_of(path) if item.kind == "frame"]


def changed(frames: list[Frame], window: int, change: Callable[[Frame], Frame]) -> list[Frame]:
    """The frames, that of one window changed."""
    return [change(frame) if frame.window_index == window else frame for frame in frames]


def repeated(stream: Stream, times: int) -> Stream:
    """A long session: each member writes its tokens this many times, with a beat after each time."""
    decoded = [(entry_id, decode_entry(raw)) for entry_id, raw in stream]
    tokens = [(entry_id, entry) for entry_id, entry in decoded if isinstance(entry, Token)]
    first_ms, last_ms = entry_ms(tokens[0][0]), entry_ms(tokens[-1][0])
    counts = [sum(token.member == member for _, token in tokens) for member in range(8)]
    found = [pair for pair in stream if entry_ms(pair[0]) <= first_ms and pair[0] < tokens[0][0]]
    for turn in range(times):
        by_ms = turn * (last_ms - first_ms + 40)
        for number, (entry_id, token) in enumerate(tokens):
            again = msgspec.structs.replace(
                token,
                seq=token.seq + turn * counts[token.member],
                arrival_ns=token.arrival_ns + by_ms * NS_PER_MS,
                written_ns=token.written_ns + by_ms * NS_PER_MS,
            )
            found.append((f"{entry_ms(entry_id) + by_ms}-{number + 1}", encode_entry(again)))
        found.append((f"{last_ms + by_ms + 1}-0", encode_entry(Beat())))
    return found
