"""Checkpoints: a session's record as bytes, and back. Floats are exact, so that a new owner's frames are the same
bytes."""

from __future__ import annotations

import msgspec

from aggregator.core.record import SessionRecord
from aggregator.core.session import Session
from schemas.errors import Malformed
from schemas.sessions import Opening

CHECKPOINT_VERSION = 6


class Checkpoint(msgspec.Struct, array_like=True, frozen=True):
    """The record after the window `record.window - 1`. The contents of buffered and unaligned tokens are read again
    from the entry `need_from` on (None: there are no such tokens)."""

    version: int
    record: SessionRecord
    need_from: str | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Checkpoint)


def dump(session: Session) -> bytes:
    return _encoder.encode(Checkpoint(CHECKPOINT_VERSION, session.checkpointed(), session.need_from))


def load(opening: Opening, opened: str, raw: bytes) -> tuple[Session, str | None]:
    """The session, and the entry id from which on restore() needs the entries up to the record's cut (None: it needs
    none).

    Raises Malformed for bytes that are not a checkpoint of this version.
    """
    try:
        checkpoint = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise Malformed(f"a checkpoint does not decode: {error}") from error
    if checkpoint.version != CHECKPOINT_VERSION:
        raise Malformed(f"a checkpoint has version {checkpoint.version}, not {CHECKPOINT_VERSION}")
    return Session(opening, opened, checkpoint.record), checkpoint.need_from
