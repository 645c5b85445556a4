"""The records of an MCAP file, one by one: each bounded before it is unpacked, and taken apart by the library `mcap`.

The library's own reader believes the lengths in a file, and unpacks a chunk to whatever size its compressed data claims
(seen with mcap 1.6, zstandard 0.25).
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

# A chunk that the council writes has one MiB and a message more. Of a file that another tool has compressed anew,
# several; a larger one is damaged, or made to fill memory.
MOST_RECORD_BYTES = MOST_CHUNK_BYTES = 32 * 1024 * 1024
_MOST_CHANNELS = 1_024
_MOST_SCHEMA_BYTES = 64 * 1024
# A member of an enumeration takes longer to compare.
_MESSAGE_OPCODE = int(Opcode.MESSAGE)
# opcode, length of the body
RECORD_HEAD = struct.Struct("<BQ")
# channel, sequence, log_time, publish_time
_MESSAGE = struct.Struct("<HIQQ")
# Two numbers of 64 bits.
_LONGEST_ID = 41

Kind = Literal["entry", "frame", "event", "health"]

# What the library and the decompressors raise for bytes that are not what they should be.
UNREADABLE = (
    McapError, struct.error, UnicodeDecodeError, zstandard.ZstdError, RuntimeError, EOFError, ValueError, OverflowError,
    MemoryError,
)  # fmt: skip


class Item(NamedTuple):
    """One message. `id` and `raw` are an entry's id and its bytes (empty in a file without text); `raw` of the others
    is the message's JSON. `topic` is its channel's, `log_ns` its time, in nanoseconds of Unix time. `data` is the
    message's JSON, of entries too."""

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
    """The messages of a chunk that a recording has; `topics` learns its channels, and `schemas` the JSON Schemas of
    messages by their names. Raises Malformed and UNREADABLE."""
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
    """The records of a chunk. Raises Malformed where it has another size or checksum than it says, or a larger size
    than is allowed; UNREADABLE."""
    size = chunk.uncompressed_size
    if size > MOST_CHUNK_BYTES:
        raise Malformed(f"a chunk of {size} bytes")
    match chunk.compression:
        case "zstd":
            # A decompressor that is given a frame whose header contains a size allocates that.
            claimed = zstandard.frame_content_size(chunk.data)
            if claimed not in (-1, size):
                raise Malformed("a chunk has another size than it says")
            # Without a size it allocates the window that the frame asks for: 128 MiB, unless that is bounded.
            unpacking = zstandard.ZstdDecompressor(max_window_size=MOST_CHUNK_BYTES)
            data = unpacking.decompress(chunk.data, max_output_size=size or 1)
        case "":
            data = chunk.data
        case _:
            raise Malformed("a chunk has an unknown compression")
    if len(data) != size:
        raise Malformed("a chunk has another size than it says")
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise Malformed("a chunk's checksum is wrong")
    return data


def learn_channel(topics: dict[int, str], body: bytes) -> None:
    """Adds the channel in this record, where its messages are JSON. Raises Malformed and UNREADABLE."""
    channel = Channel.read(record_stream(body))
    if channel.message_encoding != "json":
        return
    topics[channel.id] = channel.topic
    if len(topics) > _MOST_CHANNELS:
        raise Malformed("too many channels")


def learn_schema(schemas: dict[str, bytes], body: bytes) -> None:
    """Adds the JSON Schema in this record, where it has the size of one of ours. Raises UNREADABLE."""
    if len(body) <= _MOST_SCHEMA_BYTES and len(schemas) < _MOST_CHANNELS:
        schema = Schema.read(record_stream(body))
        schemas.setdefault(schema.name, schema.data)


def item_in(data: bytes, start: int, end: int, topics: dict[int, str]) -> Item | None:
    """The message in data[start:end]; None for one of a channel that is not ours."""
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
    """What the messages of a channel are; None of one that is not ours."""
    if topic == SESSION or topic.startswith(TOKENS):
        return "entry"
    kinds: dict[str, Kind] = {FRAMES: "frame", EVENTS: "event", HEALTH: "health"}
    return kinds.get(topic)


def record_stream(body: bytes) -> ReadDataStream:
    """The bytes of one record, of which nothing beyond it can be read."""
    return ReadDataStream(io.BytesIO(body))
