"""The records of an MCAP file: the size of each is checked before it is unpacked, and the library `mcap` decodes it.

The library's own reader does not check the lengths in a file, and unpacks a chunk to any size that its compressed data
has (seen with mcap 1.6, zstandard 0.25).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Schema

from recordings.contents import EVENTS, FRAMES, HEALTH, SESSION, TOKENS
from schemas.errors import Malformed
from schemas.keys import is_entry_id

# A chunk of the council has at most one MiB and one message, after another tool has compressed the file again some
# more. A larger one is damaged, or made to fill memory.
MOST_RECORD_BYTES = MOST_CHUNK_BYTES = 32 * 1024 * 1024
_MOST_CHANNELS = 1_024
_MOST_SCHEMA_BYTES = 64 * 1024
# Comparing a member of an enumeration takes longer.
_MESSAGE_OPCODE = int(Opcode.MESSAGE)
# opcode, length of the body
RECORD_HEAD = struct.Struct("<BQ")
# channel, sequence, log_time, publish_time
_MESSAGE = struct.Struct("<HIQQ")
# Two numbers of 64 bits.
_LONGEST_ID = 41

Kind = Literal["entry", "frame", "event", "health"]

# The exceptions of the library and the decompressors for bytes that do not decode.
UNREADABLE = (
    McapError, struct.error, UnicodeDecodeError, zstandard.ZstdError, RuntimeError, EOFError, ValueError, OverflowError,
    MemoryError,
)  # fmt: skip


class Item(NamedTuple):
    """One message. `data` is its JSON, `topic` its channel's, `log_ns` its time in nanoseconds of Unix time. For an
    entry, `id` is its id and `raw` its bytes (empty in a file without text); else `raw` is the JSON too."""

    kind: Kind
    id: str
    raw: bytes
    topic: str
    log_ns: int
    data: bytes = b""


# Item(...) takes twice as long, for each message of a file.
_new_item = tuple.__new__


class _EntryBytes(msgspec.Struct, gc=False):
    id: str
    entry: bytes = b""


_entry_decoder = msgspec.json.Decoder(_EntryBytes)


def messages_of(chunk: Chunk, topics: dict[int, str], schemas: dict[str, bytes] | None = None) -> Iterator[Item]:
    """The messages of a chunk. Adds its channels to `topics`, and the JSON Schemas of its messages, by name, to
    `schemas`. Raises Malformed and UNREADABLE."""
    data = unpacked(chunk)
    at, end, head_bytes, head_of = 0, len(data), RECORD_HEAD.size, RECORD_HEAD.unpack_from
    while at < end:
        opcode, length = head_of(data, at)
        at += head_bytes
        after = at + length
        if after > end:
            raise Malformed("a message is longer than its chunk")
        if opcode == _MESSAGE_OPCODE:
            if (item := item_in(data, at, after, topics)) is not None:
                yield item
        elif opcode == Opcode.CHANNEL:
            learn_channel(topics, data[at:after])
        elif opcode == Opcode.SCHEMA and schemas is not None:
            learn_schema(schemas, data[at:after])
        at = after


def unpacked(chunk: Chunk) -> bytes:
    """The records of a chunk. Raises Malformed where its size or checksum differs from the stated one, or it is too
    large; UNREADABLE."""
    size = chunk.uncompressed_size
    if size > MOST_CHUNK_BYTES:
        raise Malformed(f"a chunk of {size} bytes")
    match chunk.compression:
        case "zstd":
            # A decompressor allocates the size in the header of a compressed frame.
            claimed = zstandard.frame_content_size(chunk.data)
            if claimed not in (-1, size):
                raise Malformed("the stated size of a chunk is wrong")
            # Without a size it allocates the window that the header states: up to 128 MiB, unless that is bounded.
            unpacking = zstandard.ZstdDecompressor(max_window_size=MOST_CHUNK_BYTES)
            data = unpacking.decompress(chunk.data, max_output_size=size or 1)
        case "":
            data = chunk.data
        case _:
            raise Malformed("a chunk has an unknown compression")
    if len(data) != size:
        raise Malformed("the stated size of a chunk is wrong")
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise Malformed("a chunk's checksum is wrong")
    return data


def learn_channel(topics: dict[int, str], body: bytes) -> None:
    """Adds the channel in this record, if its messages are JSON. Raises Malformed and UNREADABLE."""
    channel = Channel.read(record_stream(body))
    if channel.message_encoding != "json":
        return
    topics[channel.id] = channel.topic
    if len(topics) > _MOST_CHANNELS:
        raise Malformed("too many channels")


def learn_schema(schemas: dict[str, bytes], body: bytes) -> None:
    """Adds the JSON Schema in this record, unless it is too large for one of the council's. Raises UNREADABLE."""
    if len(body) <= _MOST_SCHEMA_BYTES and len(schemas) < _MOST_CHANNELS:
        schema = Schema.read(record_stream(body))
        schemas.setdefault(schema.name, schema.data)


def item_in(data: bytes, start: int, end: int, topics: dict[int, str]) -> Item | None:
    """The message in data[start:end]; None for a message of a foreign channel."""
    if end - start < _MESSAGE.size:
        raise Malformed("a message is too short")
    channel, _, log_ns, _ = _MESSAGE.unpack_from(data, start)
    topic = topics.get(channel)
    if topic is None:
        return None
    raw, kind = data[start + _MESSAGE.size : end], _kind_of(topic)
    if kind != "entry":
        return None if kind is None else _new_item(Item, (kind, "", raw, topic, log_ns, raw))
    try:
        entry = _entry_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"an entry does not decode: {error}") from None
    if not is_entry_id(entry.id) or len(entry.id) > _LONGEST_ID:
        raise Malformed("an entry has no id")
    return _new_item(Item, ("entry", entry.id, entry.entry, topic, log_ns, raw))


@lru_cache(maxsize=_MOST_CHANNELS)
def _kind_of(topic: str) -> Kind | None:
    """The kind of a channel's messages; None for a foreign channel."""
    if topic == SESSION or topic.startswith(TOKENS):
        return "entry"
    kinds: dict[str, Kind] = {FRAMES: "frame", EVENTS: "event", HEALTH: "health"}
    return kinds.get(topic)


def record_stream(body: bytes) -> ReadDataStream:
    """A stream of the bytes of one record, beyond which it cannot read."""
    return ReadDataStream(io.BytesIO(body))
