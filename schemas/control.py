"""The control stream: what the council requires of a session's producers, a replay among them."""

from __future__ import annotations

import msgspec

from schemas.entries import UNDECODABLE
from schemas.errors import Malformed

# The grant of a member that must not start yet: less than any position in its answer.
NOT_STARTED = -1


class Stop(msgspec.Struct, array_like=True, frozen=True, tag="stop"):
    """The producers of these members stop generating; an empty list means all members."""

    members: tuple[int, ...] = ()
    reason: str = "cancelled"


class Play(msgspec.Struct, array_like=True, frozen=True, tag="play"):
    """An order to a replay; None leaves a field as it is. `rate` is 1 for the recorded pace, 0 for as fast as the
    council computes. `window` is shown next; with `step`, the window that is so many after the present one."""

    rate: float | None = None
    paused: bool | None = None
    window: int | None = None
    step: int = 0


class Playback(msgspec.Struct, frozen=True):
    """The position of a replay: `window` is shown (-1: none yet), `last_window` is the last one of the recording.
    `rate` is that of Play. `is_over`: the last window is shown."""

    window: int
    last_window: int
    rate: float
    paused: bool
    is_over: bool = False


class Steer(msgspec.Struct, array_like=True, frozen=True):
    """The text that a member continues in its present branch: its answer up to the byte `start`, and then `text`, up to
    the byte `end`. `start` is the end of its last token that is kept, or of the session's prefix: so `text` contains
    all that the member was given after that token, and a producer may read the state after two steers."""

    start: int
    end: int
    text: str


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """What the aggregator has accepted of one member: the winning claim, the next seq, and whether it has ended. In a
    consensus session that is the end of its draft, after which it may be steered.

    `grant` is for producers whose backend pauses: a token may be written if its start in the answer, in bytes, is not
    past the grant. NOT_STARTED: no request is sent to the model yet. None: there is no limit. `branch` is the member's
    present branch, in which `next_seq` counts, and `steer` the text with which that begins; None in branch 0.
    """

    claim: str
    next_seq: int
    ended: bool
    grant: int | None = None
    branch: int = 0
    steer: Steer | None = None


_encoder = msgspec.msgpack.Encoder()
_order_decoder: msgspec.msgpack.Decoder[Stop | Play] = msgspec.msgpack.Decoder(Stop | Play)
_progress_decoder = msgspec.msgpack.Decoder(tuple[Progress, ...])


def encode_control(order: Stop | Play) -> bytes:
    return _encoder.encode(order)


def decode_control(raw: bytes) -> Stop | Play:
    """Raises Malformed."""
    try:
        return _order_decoder.decode(raw)
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
