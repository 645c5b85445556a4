"""The entries of a session's token stream: the only things that can influence a frame.

    open                        the whole request, first in the stream
    claim, waiting, loading,    marks of one member's producer; a member's claim is the id of its claim mark
    alive, starved, finished,
    failed
    token                       what the model wrote, with what was measured about it
    cancel, beat                marks of the council: a person's wish, and the aggregator's second

Every struct is a msgpack array whose first element is its tag. New fields come last, with a default; none is ever
moved.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from schemas.errors import Malformed
from schemas.sessions import Opening

Lane = Literal["answer", "thinking"]
# real: measured by the model server; placeholder: asked for, but the server sent a stand-in; missing: not sent.
Quality = Literal["real", "placeholder", "missing"]

NO_TOP = msgspec.Raw(b"\x90")


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry of the token stream."""


class Token(Entry, array_like=True, frozen=True, gc=False, tag="t"):
    """One token of one member.

    `text` is what is shown; `piece` the token's own bytes where they differ from it (empty: they do not). `logprob`
    is the natural logarithm of the sampled token's probability, None where it was not measured. `top` is a packed
    list of (piece, logprob), as the server sent it, at most 200 long. Times are wall clock, kept rising by the
    monotonic clock.
    """

    member: int
    claim: str
    seq: int
    lane: Lane
    text: str
    arrival_ns: int
    written_ns: int
    logprob: float | None = None
    quality: Quality = "missing"
    piece: bytes = b""
    top: msgspec.Raw = NO_TOP


class Claim(Entry, frozen=True, tag="claim"):
    """A producer takes a member; `pauses` says whether its backend stops while it has no grant. `waits`: its model is
    not known to be loaded, with a slot for it; what it does next says more."""

    member: int
    written_ns: int
    pauses: bool = False
    producer: str = ""
    waits: bool = False


class Waiting(Entry, frozen=True, tag="waiting"):
    """The producer has no free slot yet."""

    member: int
    claim: str
    written_ns: int


class Loading(Entry, frozen=True, tag="loading"):
    """The model server is still loading the model."""

    member: int
    claim: str
    written_ns: int


class Alive(Entry, frozen=True, tag="alive"):
    """The producer is there, whatever its model does."""

    member: int
    claim: str
    written_ns: int


class Finished(Entry, frozen=True, tag="finished"):
    """The model ended its answer by itself after `tokens` tokens; `reason` is stop or length."""

    member: int
    claim: str
    written_ns: int
    tokens: int
    reason: str = "stop"


class Failed(Entry, frozen=True, tag="failed"):
    """The model or its server failed; `reason` is a sentence for a person."""

    member: int
    claim: str
    written_ns: int
    reason: str


class Starved(Entry, frozen=True, tag="starved"):
    """There is no memory to load the model; `reason` is a sentence for a person. Where `room_helps` others could leave
    that memory, and its producer tries again when the session has made room."""

    member: int
    claim: str
    written_ns: int
    reason: str
    room_helps: bool = True


class Cancel(Entry, frozen=True, tag="cancel"):
    """A person stops these members; an empty list stops the session."""

    members: tuple[int, ...] = ()
    reason: str = "cancelled"


class Beat(Entry, frozen=True, tag="beat"):
    """The aggregator lives: silence of a producer is counted in these and not in time."""


Mark = Claim | Waiting | Loading | Alive | Starved | Finished | Failed | Cancel | Beat
AnyEntry = Opening | Token | Mark

# What msgspec raises for bytes that are not what they should be; the last for lists nested beyond reason.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)
_top_decoder: msgspec.msgpack.Decoder[list[tuple[bytes, float | None]]] = msgspec.msgpack.Decoder(
    list[tuple[bytes, float | None]]
)


def encode_entry(entry: AnyEntry) -> bytes:
    return _encoder.encode(entry)


def decode_entry(raw: bytes) -> AnyEntry:
    """The entry in `raw`. Raises Malformed where there is none; whether `top` decodes is found out when it is
    needed."""
    try:
        return _decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"an entry of a token stream does not decode: {error}") from error


def pack_top(top: list[tuple[bytes, float]]) -> msgspec.Raw:
    """A token's most probable pieces with their logprobs, as received."""
    return msgspec.Raw(_encoder.encode(top)) if top else NO_TOP


def unpack_top(top: msgspec.Raw) -> list[tuple[bytes, float]]:
    """The reverse of pack_top, less what is no number. Empty where the bytes are no such list: then nothing was
    measured."""
    pairs = unpack_sent(top)
    return [(piece, logprob) for piece, logprob in pairs if logprob is not None and not math.isnan(logprob)]


def unpack_sent(top: msgspec.Raw) -> list[tuple[bytes, float | None]]:
    """The list as it was packed, whatever numbers it holds; empty where the bytes are no such list."""
    try:
        return _top_decoder.decode(top)
    except UNDECODABLE:
        return []
