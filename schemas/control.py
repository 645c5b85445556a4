"""The control stream: what the council says to a session's producers."""

from __future__ import annotations

import msgspec

from schemas.entries import UNDECODABLE
from schemas.errors import Malformed

# The grant of a member that the others' models keep from starting: less than any place in its answer.
NOT_STARTED = -1


class Stop(msgspec.Struct, array_like=True, frozen=True, tag="stop"):
    """These members' producers stop generating; an empty list means all of them."""

    members: tuple[int, ...] = ()
    reason: str = "cancelled"


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """What the aggregator has accepted of one member: the winning claim, the next seq, and whether it has ended.

    `grant` is for producers whose backend pauses: a token may be written whose start in the answer, in bytes, is not
    past it; NOT_STARTED: the model is not asked yet; None lets it write as it likes.
    """

    claim: str
    next_seq: int
    ended: bool
    grant: int | None = None


_encoder = msgspec.msgpack.Encoder()
_stop_decoder = msgspec.msgpack.Decoder(Stop)
_progress_decoder = msgspec.msgpack.Decoder(tuple[Progress, ...])


def encode_stop(stop: Stop) -> bytes:
    return _encoder.encode(stop)


def decode_stop(raw: bytes) -> Stop:
    """Raises Malformed."""
    try:
        return _stop_decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a control entry does not decode: {error}") from error


def encode_progress(progress: tuple[Progress, ...]) -> bytes:
    return _encoder.encode(progress)


def decode_progress(raw: bytes) -> tuple[Progress, ...]:
    """Raises Malformed."""
    try:
        return _progress_decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a session's progress does not decode: {error}") from error
