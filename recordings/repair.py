"""What is sound of a recording that was cut or damaged.

    chunk | chunk | damage | chunk        each chunk has a checksum of its own, so those after the damage are sound
    windows 0-59 | 60-119 | ? | 180-239   gap: windows 120 to 179, whose frames can neither be shown nor computed again

The frames after a gap are kept as they were recorded. They cannot be proved: what was lost is needed to compute them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Metadata
from mcap.writer import MCAP0_MAGIC

from recordings.contents import ABOUT, About, struct_of
from recordings.reading import Damage, RecordingReader, open_file
from recordings.records import MOST_RECORD_BYTES, RECORD_HEAD, UNREADABLE, Item, messages_of, record_stream
from recordings.writing import RecordingWriter, about_session
from schemas.entries import decode_entry
from schemas.errors import Malformed, Refused
from schemas.frames import frame_of_json
from schemas.grid import window_index_at
from schemas.sessions import Opening

_BLOCK_BYTES = 1024 * 1024
# What stands before the data of a chunk: start and end time, size, checksum, and the length of the compression's name.
_BEFORE_COMPRESSION = 8 + 8 + 8 + 4
_CHUNK_SIGN = b"\x04\x00\x00\x00zstd"


class Salvage(msgspec.Struct):
    """What is sound of a file. `lost_bytes` are the bytes of damaged records; `gaps` are windows [first, last] that
    are lost between frames that are not; `is_whole`: nothing is lost."""

    about: About
    entries: int = 0
    frames: int = 0
    last_window: int = -1
    lost_bytes: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    is_whole: bool = True


def salvage(path: Path) -> Salvage:
    """Looks through the file for what is sound. Raises Refused where nothing of a recording is."""
    about = _about(path)
    found, gaps = Salvage(about), list[tuple[int, int]]()
    is_torn = False
    for item in _sound_items(path, found):
        if item is None:
            is_torn = True
        elif item.kind == "entry":
            # What was lost before the opening was no message.
            is_torn = is_torn and item.id != about.opened
            found.entries += 1
        elif item.kind == "frame":
            window = _window(item)
            if is_torn or window > found.last_window + 1 > 0:
                first = found.last_window + 1
                if found.frames or is_torn:
                    gaps.append((first, max(first, window - 1)))
                is_torn = False
            found.frames, found.last_window = found.frames + 1, max(window, found.last_window)
    found.gaps = (*about.gaps, *gaps)
    found.is_whole = found.is_whole and not found.lost_bytes
    return found


def write_salvaged(path: Path, found: Salvage, writer: RecordingWriter) -> None:
    """Writes what is sound of the file into another recording, whose metadata is `found.about` with its gaps. Raises
    OSError."""
    seconds, origin_ns = 0, int(found.about.origin_ns)
    for item in _sound_items(path, Salvage(found.about)):
        if item is None:
            continue
        add_item(writer, item, origin_ns)
        if (second := item.log_ns // 10**9) != seconds:
            writer.flush()
            seconds = second


def add_item(writer: RecordingWriter, item: Item, origin_ns: int) -> None:
    """Writes a message that was read into another recording of the same session. One that does not decode is left
    out. Raises OSError."""
    try:
        if item.kind == "entry":
            writer.add_entry(item.id, item.raw)
        elif item.kind == "frame":
            writer.add_frame(frame_of_json(item.raw))
        elif item.kind == "event":
            writer.add_event(window_index_at(item.log_ns - origin_ns) - 1, item.raw)
        else:
            writer.add_raw_health(item.log_ns, item.raw)
    except Malformed:
        return


def _window(item: Item) -> int:
    try:
        return frame_of_json(item.raw).window_index
    except Malformed:
        return -1


def _about(path: Path) -> About:
    """The metadata; where it is damaged, as much of it as the opening entry contains."""
    try:
        with RecordingReader(path) as reader:
            return reader.about
    except Damage as damage:
        for item in _sound_items(path, None):
            if item is not None and item.kind == "entry":
                try:
                    opening = decode_entry(item.raw)
                except Malformed:
                    continue
                if isinstance(opening, Opening):
                    about = about_session(opening, item.id, "0.0.0")
                    return msgspec.structs.replace(about, python="unknown", platform="unknown")
        raise Refused("nothing_sound", f"{path} has no sound part ({damage.problem}): nothing can be saved.") from None


def _sound_items(path: Path, found: Salvage | None) -> Iterator[Item | None]:
    """The messages of every sound chunk in the order of the file, and None where something was lost."""
    file, size = open_file(path)
    topics: dict[int, str] = {}
    with file:
        if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
            raise Refused("not_a_recording", f"{path} is not an MCAP file: name a recording of a council.")
        while (at := file.tell()) < size:
            head = file.read(RECORD_HEAD.size)
            opcode, length = RECORD_HEAD.unpack(head) if len(head) == RECORD_HEAD.size else (0, 0)
            is_whole = 0 < opcode <= Opcode.DATA_END and length <= min(MOST_RECORD_BYTES, size - file.tell())
            body = file.read(length) if is_whole else b""
            if opcode == Opcode.DATA_END and is_whole:
                return
            items = _items_of(opcode, body, topics) if is_whole else None
            if items is not None:
                yield from items
                continue
            after = _next_chunk(file, at + 1, size)
            if found is not None:
                found.lost_bytes += after - at
                found.is_whole = False
            yield None
            file.seek(after)
        if found is not None:
            found.is_whole = False


def _items_of(opcode: int, body: bytes, topics: dict[int, str]) -> list[Item] | None:
    """The messages of a record, all of them or None where it is damaged."""
    try:
        if opcode == Opcode.CHUNK:
            return list(messages_of(Chunk.read(record_stream(body)), topics))
        if opcode == Opcode.METADATA:
            metadata = Metadata.read(record_stream(body))
            if metadata.name == ABOUT:
                struct_of(metadata.metadata, About)
        if opcode == Opcode.CHANNEL:
            Channel.read(record_stream(body))
    except (*UNREADABLE, Malformed):
        return None
    return []


def _next_chunk(file: IO[bytes], start: int, size: int) -> int:
    """Where the next sound chunk begins, from `start` on; `size` where there is none."""
    at, kept = start, b""
    while at < size:
        file.seek(at)
        block = kept + file.read(_BLOCK_BYTES)
        base, place = at - len(kept), 0
        while (place := block.find(_CHUNK_SIGN, place)) >= 0:
            begin = base + place - _BEFORE_COMPRESSION - RECORD_HEAD.size
            if begin >= start and _is_chunk(file, begin, size):
                return begin
            place += 1
        at += _BLOCK_BYTES
        kept = block[-(len(_CHUNK_SIGN) - 1) :]
    return size


def _is_chunk(file: IO[bytes], at: int, size: int) -> bool:
    file.seek(at)
    opcode, length = RECORD_HEAD.unpack(file.read(RECORD_HEAD.size))
    if opcode != Opcode.CHUNK or length > min(MOST_RECORD_BYTES, size - at - RECORD_HEAD.size):
        return False
    return _items_of(opcode, file.read(length), {}) is not None
