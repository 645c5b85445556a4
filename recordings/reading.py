"""Reading a recording: message by message, with bounded memory for any file.

    file --records--> header, metadata, chunks --messages--> entries, frames, events, health --> CRC of the file

A recording is read in the order in which it was written, which is that of its entries and of its frames.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mcap.opcode import Opcode
from mcap.records import Chunk, DataEnd, Footer, Header, Metadata, MetadataIndex
from mcap.writer import MCAP0_MAGIC

from recordings.contents import ABOUT, PROFILE, RECORDING_VERSION, SUMMARY, About, RecordingSummary, struct_of
from recordings.records import (
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
from schemas.errors import Malformed, Refused
from schemas.grid import NS_PER_MS
from schemas.keys import is_entry_id
from schemas.sessions import MAX_MEMBERS

# Ten hours of chunk indexes are 5 MB.
_MOST_SUMMARY_BYTES = 64 * 1024 * 1024
# Unpacked recordings are 5 to 60 times as large, the most where members are silent. A larger ratio is made to keep a
# reader busy.
_MOST_UNPACKED, _MOST_RATIO = 64 * 1024 * 1024, 200
_BLOCK_BYTES = 1024 * 1024
# The council's metadata has some kilobytes; a library keeps that of each file in memory.
_MOST_METADATA_BYTES = 1024 * 1024
# Times of messages and of a session have 64 bits. Texts with more digits are not converted.
_MOST_NS, _MOST_DIGITS = 2**64, 20
_FOOTER_BYTES = RECORD_HEAD.size + 20


class Damage(Malformed):
    """A recording that is cut off, or whose bytes were changed. `at_bytes` is the position of the damaged record."""

    def __init__(self, path: Path, at_bytes: int, problem: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {at_bytes} ({problem}): `council recover` makes a new file of its sound parts."
        )
        self.at_bytes, self.problem = at_bytes, problem


class RecordingReader:
    """An open recording. `about` is its metadata; `summary` is set after all items were read; `schemas` are the JSON
    Schemas of its messages, by name, as far as it was read.

    Raises Refused where the file cannot be opened, is not a recording, or is of a later version; Damage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.summary: RecordingSummary | None = None
        self.schemas: dict[str, bytes] = {}
        # The position of the record that is read now.
        self.at_bytes = 0
        self._crc = 0
        self._file, self._size = open_file(path)
        try:
            self.about = self._begin()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size_bytes(self) -> int:
        """The size of the file when it was opened."""
        return self._size

    def _begin(self) -> About:
        """Reads up to the metadata `council`."""
        if self._take(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
            raise not_mcap(self.path)
        try:
            for opcode, body in self._records():
                if opcode == Opcode.HEADER and Header.read(record_stream(body)).profile != PROFILE:
                    break
                if opcode == Opcode.METADATA and (found := Metadata.read(record_stream(body))).name == ABOUT:
                    return self._checked_about(found, len(body))
                if opcode == Opcode.CHUNK:
                    break
        except UNREADABLE as error:
            raise self._damage(error) from None
        raise Refused("not_a_recording", f"{self.path} is an MCAP file, but not a recording of a council: name one.")

    def _checked_about(self, found: Metadata, size: int) -> About:
        version = found.metadata.get("recording_version", "")
        if version.isascii() and version.isdigit() and int(version[:9]) > RECORDING_VERSION:
            raise Refused(
                "newer_recording",
                f"{self.path} was recorded by a later version of the council (format {version[:9]}; "
                f"this council reads versions up to {RECORDING_VERSION}): update the council.",
            )
        try:
            if size > _MOST_METADATA_BYTES:
                raise Malformed(f"its metadata has {size} bytes")
            about = struct_of(found.metadata, About)
            if not (is_entry_id(about.opened) and _is_time(about.opened, NS_PER_MS) and _is_time(about.origin_ns)):
                raise Malformed("its metadata has no opening")
            if not 1 <= len(about.members) <= MAX_MEMBERS:
                raise Malformed(f"its metadata has {len(about.members)} members")
        except Malformed as error:
            raise Damage(self.path, self.at_bytes, str(error)) from None
        return about

    def items(self) -> Iterator[Item]:
        """The following messages, in the order of the file, to its end. Raises Damage at the first one that is not
        sound; those before it are sound."""
        topics: dict[int, str] = {}
        most_unpacked = _MOST_UNPACKED + _MOST_RATIO * self._size
        try:
            for opcode, body in self._records():
                if opcode == Opcode.CHUNK:
                    chunk = Chunk.read(record_stream(body))
                    most_unpacked -= chunk.uncompressed_size
                    if most_unpacked < 0:
                        raise Malformed(f"it unpacks to more than {_MOST_RATIO} times its size")
                    yield from messages_of(chunk, topics, self.schemas)
                elif opcode == Opcode.CHANNEL:
                    learn_channel(topics, body)
                elif opcode == Opcode.SCHEMA:
                    learn_schema(self.schemas, body)
                elif opcode == Opcode.MESSAGE:
                    if (item := item_in(body, 0, len(body), topics)) is not None:
                        yield item
                elif opcode == Opcode.METADATA and (found := Metadata.read(record_stream(body))).name == SUMMARY:
                    self.summary = struct_of(found.metadata, RecordingSummary)
                elif opcode == Opcode.DATA_END:
                    self._check_end(DataEnd.read(record_stream(body)))
                    return
        except Malformed as error:
            raise (error if isinstance(error, Damage) else self._damage(error)) from None
        except UNREADABLE as error:
            raise self._damage(error) from None

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """(opcode, body) of each record. Raises Damage."""
        while True:
            self.at_bytes = self._file.tell()
            crc = self._crc
            opcode, length = RECORD_HEAD.unpack(self._take(RECORD_HEAD.size))
            if length > self._size - self._file.tell():
                raise Damage(self.path, self.at_bytes, "it is cut off here")
            if opcode == Opcode.ATTACHMENT or opcode > Opcode.DATA_END:
                # From another tool, and of any size.
                self._skip(length)
                continue
            if length > MOST_RECORD_BYTES:
                raise Damage(self.path, self.at_bytes, f"a record of {length} bytes")
            body = self._take(length)
            if opcode == Opcode.DATA_END:
                self._crc = crc
            yield opcode, body

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            if not self.at_bytes:
                raise not_mcap(self.path)
            raise Damage(self.path, self.at_bytes, "it is cut off here")
        self._crc = zlib.crc32(data, self._crc)
        return data

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._take(min(count, _BLOCK_BYTES)))

    def _check_end(self, end: DataEnd) -> None:
        """Checks the CRC of all records before `end`, and that of the indexes after it, up to the file's last byte."""
        if end.data_section_crc not in (0, self._crc):
            raise Damage(self.path, self.at_bytes, "its checksum is wrong")
        if self.summary is None:
            raise Damage(self.path, self.at_bytes, "its summary is missing")
        self.at_bytes, self._crc = self._file.tell(), 0
        self._skip(max(0, self._size - self.at_bytes - _FOOTER_BYTES - len(MCAP0_MAGIC)))
        footer_at, summary_crc = self._file.tell(), self._crc
        tail = self._take(_FOOTER_BYTES + len(MCAP0_MAGIC))
        if RECORD_HEAD.unpack_from(tail) != (Opcode.FOOTER, _FOOTER_BYTES - RECORD_HEAD.size) or not tail.endswith(
            MCAP0_MAGIC
        ):
            raise Damage(self.path, footer_at, "its end is missing")
        footer = Footer.read(record_stream(tail[RECORD_HEAD.size :]))
        if footer.summary_start not in (0, self.at_bytes):
            raise Damage(self.path, footer_at, "its footer has the wrong position of the indexes")
        if footer.summary_crc not in (0, zlib.crc32(tail[: RECORD_HEAD.size + 16], summary_crc)):
            raise Damage(self.path, self.at_bytes, "the checksum of its indexes is wrong")

    def _damage(self, error: BaseException) -> Damage:
        return Damage(self.path, self.at_bytes, _problem_in(error))


def not_mcap(path: Path) -> Refused:
    """The error for a file without the first bytes of an MCAP file."""
    return Refused("not_a_recording", f"{path} is not an MCAP file: name a recording of a council.")


def open_file(path: Path) -> tuple[IO[bytes], int]:
    """(the file, its size). Raises Refused where it is not a readable file."""
    try:
        # Opening a pipe would wait for its writer, and opening a device may have any effect.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused("not_a_recording", f"{path} is not a file: name a recording of a council.")
        file = path.open("rb")
        return file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise Refused("unreadable", f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError:
        raise Refused("unreadable", f"{str(path)!r} is not a valid name of a file.") from None


def read_metadata(path: Path) -> tuple[About, RecordingSummary]:
    """The metadata of a recording, from its beginning and its end, without reading the rest. Raises Refused, Damage; a
    file without its end is damaged."""
    with RecordingReader(path) as reader:
        about = reader.about
    file, size = open_file(path)
    with file:
        try:
            return about, _summary_at_end(file, size)
        except (*UNREADABLE, Malformed) as error:
            raise Damage(path, size, _problem_in(error)) from None


def _summary_at_end(file: IO[bytes], size: int) -> RecordingSummary:
    file.seek(max(0, size - _FOOTER_BYTES - len(MCAP0_MAGIC)))
    tail = file.read()
    if len(tail) < _FOOTER_BYTES or not tail.endswith(MCAP0_MAGIC) or tail[0] != Opcode.FOOTER:
        raise Malformed("its end is missing")
    footer = Footer.read(record_stream(tail[RECORD_HEAD.size :]))
    length = size - len(tail) - footer.summary_start
    if not 0 < footer.summary_start < size or not 0 < length <= _MOST_SUMMARY_BYTES:
        raise Malformed("its indexes are missing")
    file.seek(footer.summary_start)
    section = file.read(length)
    if footer.summary_crc not in (0, zlib.crc32(tail[: RECORD_HEAD.size + 16], zlib.crc32(section))):
        raise Malformed("the checksum of its indexes is wrong")
    at = 0
    while at < len(section):
        opcode, length = RECORD_HEAD.unpack_from(section, at)
        body = section[at + RECORD_HEAD.size : at + RECORD_HEAD.size + length]
        at += RECORD_HEAD.size + length
        if opcode == Opcode.METADATA_INDEX and (index := MetadataIndex.read(record_stream(body))).name == SUMMARY:
            if index.length > _MOST_METADATA_BYTES or index.offset > size:
                raise Malformed(f"a record of {index.length} bytes at byte {index.offset}")
            file.seek(index.offset)
            return struct_of(
                Metadata.read(record_stream(file.read(index.length)[RECORD_HEAD.size :])).metadata, RecordingSummary
            )
    raise Malformed("its summary is missing")


def _is_time(written: str, unit_ns: int = 1) -> bool:
    """True for the digits of a time that a message may have; a dash and what follows it are ignored."""
    digits = written.partition("-")[0]
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    return is_number and int(digits) * unit_ns < _MOST_NS


def _problem_in(error: BaseException) -> str:
    if isinstance(error, Damage):
        return error.problem
    if isinstance(error, Malformed):
        return str(error)
    return "its bytes do not decode"
