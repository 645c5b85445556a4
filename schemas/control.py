"""The control stream: what the council requires of a session's producers, a replay among them."""

from __future__ import annotations

import msgspec

from schemas.entries import UNDECODABLE
from schemas.errors import Malformed

# The grant of a member that must not start yet: less than any position in its answer.
NOT_STARTED = -1


class Stop(msgspec.Struct, array_like=True, frozen=True, tag="stop"):
    """Producers stop generating.

    members: the indexes of the members whose producers stop; an empty list means all members.
    reason: a word or a sentence for the user.
    """

    members: tuple[int, ...] = ()
    reason: str = "cancelled"


class Play(msgspec.Struct, array_like=True, frozen=True, tag="play"):
    """An order to a replay. None leaves a field as it is.

    rate: 1 for the recorded pace, 0 for as fast as the council computes.
    paused: whether the replay pauses.
    window: the window that is shown next.
    step: with a number other than 0, the window that is so many after the present one is shown.
    """

    rate: float | None = None
    paused: bool | None = None
    window: int | None = None
    step: int = 0


class Playback(msgspec.Struct, frozen=True):
    """The position of a replay.

    window: the window that is shown; -1: none yet.
    last_window: the last window of the recording.
    rate: that of Play.
    paused: whether it pauses.
    is_over: the last window is shown.
    """

    window: int
    last_window: int
    rate: float
    paused: bool
    is_over: bool = False


class Steer(msgspec.Struct, array_like=True, frozen=True):
    """The text that a member continues in its present branch: its answer up to `start`, and then `text`.

    start: the byte at which its last token that is kept ends, or the session's prefix: so a producer may read the state
      after two steers.
    end: the byte at which `text` ends.
    text: all that the member was given after that token.
    """

    start: int
    end: int
    text: str


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """What the aggregator has accepted of one member.

    claim: the entry id of the claim that counts; empty before the first one.
    next_seq: the seq of the next token, in the present branch.
    ended: whether the member has ended. In a consensus session its draft has, and it may be steered after that.
    grant: for producers whose backend pauses: a token may be written if its start in the answer, in bytes, is not past
      it; -1: no request is sent to the model yet; None: there is no limit.
    branch: the member's present branch.
    steer: the text with which that begins; None in branch 0.
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
