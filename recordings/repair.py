"""Finding the sound parts of a recording that is cut off or damaged.

    chunk | chunk | damage | chunk        each chunk has its own checksum, so those after the damage are sound
    windows 0-59 | 60-119 | ? | 180-239   gap: windows 120 to 179, whose frames can neither be shown nor computed again

The frames after a gap are kept as they were recorded. They cannot be verified, because computing them needs the lost
entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Header, Metadata, Schema
from mcap.writer import MCAP0_MAGIC

from recordings.contents import ABOUT, About, struct_of, topics_of
from recordings.difference import FRAME_SCHEMA, frame_values
from recordings.reading import Damage, RecordingReader, not_mcap, open_file
from recordings.records import (
    MOST_CHUNK_BYTES,
    MOST_RECORD_BYTES,
    RECORD_HEAD,
    UNREADABLE,
    Item,
    item_in,
    learn_channel,
    learn_schema,
    messages_of,
    record_stream,
)
from recordings.writing import RecordingWriter, about_session
from schemas.entries import decode_entry
from schemas.errors import Malformed, Refused
from schemas.frame_json import frame_of_json
from schemas.keys import entry_order
from schemas.sessions import Opening

_BLOCK_BYTES = 1024 * 1024
# The bytes before the data of a chunk: start and end time, size, checksum, and the length of the compression's name.
_BEFORE_COMPRESSION = 8 + 8 + 8 + 4
_CHUNK_SIGN = b"\x04\x00\x00\x00zstd"
_BEFORE_DATA = _BEFORE_COMPRESSION + len(_CHUNK_SIGN) + 8
# A file can contain many false beginnings of chunks. They are tried up to this many times the size of the file.
_MOST_TRIED = 4


class Salvage(msgspec.Struct):
    """The sound parts of a file. `lost_bytes` are the bytes of damaged records; `gaps` are the lost windows [first,
    last] between sound frames; `is_whole`: nothing is lost. `frame_schema` is the JSON Schema of its frames; `reason`
    is why its session ended, if not by itself."""

    about: About
    entries: int = 0
    frames: int = 0
    last_window: int = -1
    lost_bytes: int = 0
    gaps: tuple[tuple[int, int], ...] = ()
    is_whole: bool = True
    frame_schema: bytes | None = None
    reason: str = ""


def salvage(path: Path, progress: Callable[[int], None] | None = None) -> Salvage:
    """Searches the file for sound parts. Raises Refused where no part is sound."""
    is_whole, reason = True, ""
    try:
        with RecordingReader(path) as reader:
            for _ in reader.items():
                if progress:
                    progress(reader.at_bytes)
            reason = reader.summary.reason if reader.summary else ""
    except Damage:
        is_whole = False
    about = _about(path, is_trusted=is_whole)
    found, gaps, schemas = Salvage(about, is_whole=is_whole, reason=reason), list(about.gaps), dict[str, bytes]()
    is_torn = False
    for item, window in _session_items(path, about, found, schemas):
        if item is None:
            is_torn = True
        elif item.kind == "entry":
            # Before the opening there were no messages to lose.
            is_torn = is_torn and item.id != about.opened
            found.entries += 1
        elif item.kind == "frame":
            first = found.last_window + 1
            if is_torn or (found.frames and window > first):
                gaps.append((first, max(first, window - 1)))
                is_torn = False
            found.frames, found.last_window = found.frames + 1, window
    found.gaps, found.frame_schema = _united(gaps), schemas.get(FRAME_SCHEMA)
    return found


def _united(gaps: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The gaps in order; adjacent ones are joined."""
    found = list[tuple[int, int]]()
    for first, last in sorted(gaps):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def write_salvaged(path: Path, found: Salvage, writer: RecordingWriter) -> None:
    """Writes the sound parts of the file into another recording, whose metadata is `found.about` with its gaps. Raises
    OSError."""
    seconds = 0
    for item, _ in _session_items(path, found.about, Salvage(found.about), {}):
        if item is None:
            continue
        writer.add_recorded(item)
        if (second := item.log_ns // 10**9) != seconds:
            writer.flush()
            seconds = second


def _session_items(
    path: Path, about: About, found: Salvage, schemas: dict[str, bytes]
) -> Iterator[tuple[Item | None, int]]:
    """(sound message, its window if it is a frame), each entry and each frame once and in order; (None, 0) where
    something was lost."""
    last_window, last_entry = -1, (-1, -1)
    for item in _sound_items(path, found, topics_of(about), schemas):
        window = 0
        if item is not None and item.kind == "frame":
            try:
                frame_of_json(item.raw)
                window = int(frame_values(item.raw)["window_index"])
            except Malformed:
                yield None, 0
                continue
            if window <= last_window:
                continue
            last_window = window
        elif item is not None and item.kind == "entry":
            if (order := entry_order(item.id)) <= last_entry:
                continue
            last_entry = order
        yield item, window


def _about(path: Path, *, is_trusted: bool) -> About:
    """The metadata. For a damaged file it is made from the opening, if that is found."""
    about, problem = None, ""
    try:
        with RecordingReader(path) as reader:
            about = reader.about
    except Damage as damage:
        problem = damage.problem
    if about is not None and (is_trusted or not about.text):
        return about
    names = topics_of(about) if about else {}
    for item in _sound_items(path, None, names, {}):
        if item is not None and item.kind == "entry":
            try:
                opening = decode_entry(item.raw)
            except Malformed:
                continue
            if isinstance(opening, Opening):
                made = about_session(opening, item.id, about.council_version if about else "unknown")
                if about is None:
                    return msgspec.structs.replace(made, python="unknown", platform="unknown")
                return msgspec.structs.replace(made, python=about.python, platform=about.platform, gaps=about.gaps)
            if about is not None:
                break
    if about is None:
        raise Refused("nothing_sound", f"{path} has no sound part ({problem}), so it cannot be recovered.")
    return about


def _sound_items(
    path: Path, found: Salvage | None, topics: dict[int, str], schemas: dict[str, bytes]
) -> Iterator[Item | None]:
    """The messages of each sound chunk, in the order of the file, and None where something was lost. `topics` are the
    channels by the council's ids, for a file whose first chunk is lost."""
    file, size = open_file(path)
    trials = [_MOST_TRIED * size + MOST_RECORD_BYTES]
    with file:
        if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
            raise not_mcap(path)
        while (at := file.tell()) < size:
            head = file.read(RECORD_HEAD.size)
            opcode, length = RECORD_HEAD.unpack(head) if len(head) == RECORD_HEAD.size else (0, 0)
            is_inside = 0 < length <= size - file.tell()
            if is_inside and (opcode == Opcode.ATTACHMENT or opcode > Opcode.DATA_END) and found and found.is_whole:
                # From another tool, and of any size.
                file.seek(length, 1)
                continue
            is_inside = is_inside and length <= MOST_RECORD_BYTES
            body = file.read(length) if is_inside else b""
            if opcode == Opcode.DATA_END and len(body) == 4:
                return
            items = _items_of(opcode, body, topics, schemas) if is_inside else None
            if items is not None:
                yield from items
                continue
            after = _next_chunk(file, at + 1, size, trials)
            if found is not None:
                found.lost_bytes += after - at
            yield None
            file.seek(after)


def _items_of(opcode: int, body: bytes, topics: dict[int, str], schemas: dict[str, bytes]) -> list[Item] | None:
    """All messages of a record; None where it is damaged. A record whose length differs from that of its content is
    damaged too, because sound records may be inside it."""
    stream = record_stream(body)
    try:
        match opcode:
            case Opcode.CHUNK:
                chunk = Chunk.read(stream)
                return list(messages_of(chunk, topics, schemas)) if stream.count == len(body) else None
            case Opcode.MESSAGE:
                item = item_in(body, 0, len(body), topics)
                return [] if item is None else [item]
            case Opcode.MESSAGE_INDEX:
                is_sound = int.from_bytes(body[2:6], "little") == len(body) - 6
                return [] if is_sound else None
            case Opcode.METADATA:
                metadata = Metadata.read(stream)
                if metadata.name == ABOUT:
                    struct_of(metadata.metadata, About)
            case Opcode.CHANNEL:
                Channel.read(stream)
                learn_channel(topics, body)
            case Opcode.SCHEMA:
                Schema.read(stream)
                learn_schema(schemas, body)
            case Opcode.HEADER:
                Header.read(stream)
            case _:
                return None
    except (*UNREADABLE, Malformed):
        return None
    return [] if stream.count == len(body) else None


def _next_chunk(file: IO[bytes], start: int, size: int, trials: list[int]) -> int:
    """The position of the next sound chunk at `start` or after it; `size` where there is none."""
    at, kept = start, b""
    while at < size:
        file.seek(at)
        block = kept + file.read(_BLOCK_BYTES)
        base, index = at - len(kept), 0
        while (index := block.find(_CHUNK_SIGN, index)) >= 0:
            begin = base + index - _BEFORE_COMPRESSION - RECORD_HEAD.size
            if begin >= start and trials[0] > 0 and _is_chunk(file, begin, size, trials):
                return begin
            index += 1
        at += _BLOCK_BYTES
        kept = block[-(len(_CHUNK_SIGN) - 1) :]
    return size


def _is_chunk(file: IO[bytes], at: int, size: int, trials: list[int]) -> bool:
    file.seek(at)
    head = file.read(RECORD_HEAD.size + _BEFORE_DATA)
    if len(head) < RECORD_HEAD.size + _BEFORE_DATA:
        return False
    opcode, length = RECORD_HEAD.unpack_from(head)
    unpacked_bytes = int.from_bytes(head[RECORD_HEAD.size + 16 : RECORD_HEAD.size + 24], "little")
    data_bytes = int.from_bytes(head[-8:], "little")
    if opcode != Opcode.CHUNK or length > min(MOST_RECORD_BYTES, size - at - RECORD_HEAD.size):
        return False
    if data_bytes != length - _BEFORE_DATA or unpacked_bytes > MOST_CHUNK_BYTES:
        return False
    trials[0] -= length + unpacked_bytes
    file.seek(at + RECORD_HEAD.size)
    return _items_of(opcode, file.read(length), {}, {}) is not None
