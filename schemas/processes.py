"""A running process of the council, as it describes itself each second."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.entries import UNDECODABLE
from schemas.errors import Malformed

Role = Literal["council", "producer", "aggregator", "decipher", "web", "recorder", "replay"]
# Larger numbers are no measurements, and some are no JSON either.
_Count = Annotated[int, Meta(ge=0, lt=2**53)]
_Seconds = Annotated[float, Meta(ge=0.0, lt=2.0**53)]


class ProcessRecord(msgspec.Struct, frozen=True):
    """`detail` is the role's own: its model, its address, its tier. Sizes in bytes, CPU in seconds since the start."""

    name: str
    role: Role
    host: str
    pid: _Count
    started_ms: _Count
    ready: bool
    rss_bytes: _Count
    cpu_s: _Seconds
    detail: dict[str, str | int | float | bool] = {}


_decoder = msgspec.json.Decoder(ProcessRecord)


def encode_record(record: ProcessRecord) -> bytes:
    return msgspec.json.encode(record)


def decode_record(raw: bytes) -> ProcessRecord:
    """Raises Malformed: for a record of another version, or what another client wrote."""
    try:
        return _decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a process record does not decode: {error}") from error
