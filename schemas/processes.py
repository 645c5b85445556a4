"""The record of a running process of the council, which it writes each second."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.entries import UNDECODABLE
from schemas.errors import Malformed, OtherVersion

# It rises when the fields of a record change.
RECORD_VERSION = 1

Role = Literal["council", "producer", "aggregator", "decipher", "web", "recorder", "replay"]
# Larger numbers are not measurements, and JSON cannot represent all of them.
_Count = Annotated[int, Meta(ge=0, lt=2**53)]
_Seconds = Annotated[float, Meta(ge=0.0, lt=2.0**53)]


class ProcessRecord(msgspec.Struct, frozen=True):
    """A process that runs, as JSON. It expires 5 s after the last renewal.

    name: its name, unique for each start.
    role: its role.
    host: the name of its machine.
    pid: its process id there.
    started_ms: when it started, in ms of Unix time.
    ready: whether it serves.
    rss_bytes: its resident memory, in bytes.
    cpu_s: the CPU time that it has used, in s.
    detail: the role's own facts: its model, its address, its tier.
    version: RECORD_VERSION.
    """

    name: str
    role: Role
    host: str
    pid: _Count
    started_ms: _Count
    ready: bool
    rss_bytes: _Count
    cpu_s: _Seconds
    detail: dict[str, str | int | float | bool] = {}
    version: int = RECORD_VERSION

    @property
    def is_draining(self) -> bool:
        """True where the process finishes what it has begun, and takes nothing new."""
        return self.detail.get("draining") is True


_decoder = msgspec.json.Decoder(ProcessRecord)


def encode_record(record: ProcessRecord) -> bytes:
    return msgspec.json.encode(record)


def decode_record(raw: bytes) -> ProcessRecord:
    """Raises OtherVersion; Malformed for what another client wrote."""
    try:
        record = _decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a process record does not decode: {error}") from error
    if record.version != RECORD_VERSION:
        raise OtherVersion("A process record", record.version, RECORD_VERSION)
    return record
