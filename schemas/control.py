"""The control stream: what the council requires of a session's producers, a replay among them."""

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


class Play(msgspec.Struct, array_like=True, frozen=True, tag="play"):
    """How a replay goes on; what is None stays as it is. `rate` is 1 for the recorded pace, 0 for as fast as the
    council computes; `window` is shown next, `step` so many windows after the present one."""

    rate: float | None = None
    paused: bool | None = None
    window: int | None = None
    step: int = 0


class Playback(msgspec.Struct, frozen=True):
    """How far a replay is. `window` is the one that is shown (-1: none yet), `last_window` the last one of the
    recording; `rate` as in Play. `is_over`: the last window is shown."""

    window: int
    last_window: int
    rate: float
    paused: bool
    is_over: bool = False


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
_word_decoder: msgspec.msgpack.Decoder[Stop | Play] = msgspec.msgpack.Decoder(Stop | Play)
_progress_decoder = msgspec.msgpack.Decoder(tuple[Progress, ...])


def encode_control(word: Stop | Play) -> bytes:
    return _encoder.encode(word)


def decode_control(raw: bytes) -> Stop | Play:
    """Raises Malformed."""
    try:
        return _word_decoder.decode(raw)
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
