"""The entries of a session's token stream. Nothing else influences a frame.

    open                        the whole request, the first entry
    claim, waiting, loading,    marks of one member's producer; a claim is identified by the id of its mark
    alive, starved, finished,
    failed
    token                       a token of the model, with its measurements
    cancel, beat, steered       marks of the council: the user stops members; the aggregator counts a second; it has
                                decided that a member continues another text

Every struct is a msgpack array whose first element is its tag. New fields are added at the end, with a default; the
position of a field never changes. Docstrings describe each field in a line, from which docs/streams.md is made.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from schemas.errors import Malformed, OtherVersion
from schemas.sessions import ENTRY_VERSION, Opening

Lane = Literal["answer", "thinking"]
Quality = Literal["real", "placeholder", "missing"]

NO_TOP = msgspec.Raw(b"\x90")


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry of the token stream."""


class Token(Entry, array_like=True, frozen=True, gc=False, tag="t"):
    """One token of one member.

    member: the index of the member in the opening.
    claim: the entry id of the claim under which its producer writes.
    seq: 0, 1, 2, … in each branch; of a claim only the next one is accepted.
    lane: whether it is part of the answer, or of the thinking before it.
    text: its text as it is shown.
    arrival_ns: when the model yielded it, in ns of Unix time by a clock that never falls.
    written_ns: when its producer wrote it, by the same clock.
    logprob: the natural logarithm of its probability; None where it was not measured.
    quality: of the logprob: real, measured by the model server; placeholder, a constant that it sent; missing.
    piece: its own bytes where they differ from `text`, else empty.
    top: the list of likely tokens as the server sent it: at most 200 arrays of a piece, in bytes, and its logprob; an
      empty piece is the end of the answer.
    branch: how often the member had been steered to another text before.
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
    branch: int = 0


class Claim(Entry, frozen=True, tag="claim"):
    """A producer announces that it writes a member. The id of this entry identifies the claim.

    member: the index of the member in the opening.
    written_ns: when the producer wrote it, in ns of Unix time.
    pauses: its backend stops while it has no grant.
    producer: the name of the process.
    waits: the model may not be loaded, or may have no free slot; the next marks have the details.
    """

    member: int
    written_ns: int
    pauses: bool = False
    producer: str = ""
    waits: bool = False


class Waiting(Entry, frozen=True, tag="waiting"):
    """The producer has no free slot yet.

    member: the index of the member in the opening.
    claim: the entry id of its claim.
    written_ns: when the producer wrote it, in ns of Unix time.
    """

    member: int
    claim: str
    written_ns: int


class Loading(Entry, frozen=True, tag="loading"):
    """The model server is still loading the model.

    member: the index of the member in the opening.
    claim: the entry id of its claim.
    written_ns: when the producer wrote it, in ns of Unix time.
    """

    member: int
    claim: str
    written_ns: int


class Alive(Entry, frozen=True, tag="alive"):
    """The producer runs, whether or not its model writes.

    member: the index of the member in the opening.
    claim: the entry id of its claim.
    written_ns: when the producer wrote it, in ns of Unix time.
    """

    member: int
    claim: str
    written_ns: int


class Finished(Entry, frozen=True, tag="finished"):
    """The model ended its answer by itself.

    member: the index of the member in the opening.
    claim: the entry id of its claim.
    written_ns: when the producer wrote it, in ns of Unix time.
    tokens: how many tokens the answer has, in this branch.
    reason: stop, length, or a sentence for the user about an end that needs attention.
    branch: the branch that it ends.
    logprob: that of the end, as of a token.
    top: that of the end, as of a token.
    prompt_tokens: how many tokens the server counted in the request; None where it does not report that.
    """

    member: int
    claim: str
    written_ns: int
    tokens: int
    reason: str = "stop"
    branch: int = 0
    logprob: float | None = None
    top: msgspec.Raw = NO_TOP
    prompt_tokens: int | None = None


class Failed(Entry, frozen=True, tag="failed"):
    """The model or its server failed.

    member: the index of the member in the opening.
    claim: the entry id of its claim.
    written_ns: when the producer wrote it, in ns of Unix time.
    reason: a sentence for the user.
    branch: the branch that it ends.
    """

    member: int
    claim: str
    written_ns: int
    reason: str
    branch: int = 0


class Starved(Entry, frozen=True, tag="starved"):
    """There is not enough memory to load the model.

    member: the index of the member in the opening.
    claim: the entry id of its claim.
    written_ns: when the producer wrote it, in ns of Unix time.
    reason: a sentence for the user.
    room_helps: other models of the session could leave that memory, and the producer tries again after they have left.
    """

    member: int
    claim: str
    written_ns: int
    reason: str
    room_helps: bool = True


class Cancel(Entry, frozen=True, tag="cancel"):
    """The user stops members.

    members: their indexes in the opening; an empty list stops the session.
    reason: a word or a sentence for the user.
    """

    members: tuple[int, ...] = ()
    reason: str = "cancelled"


class Beat(Entry, frozen=True, tag="beat"):
    """The aggregator runs. The silence of a producer is counted in beats, not in time."""


class Steered(Entry, frozen=True, tag="steered"):
    """The aggregator has decided that a member continues another text, in a new branch.

    It follows from the entries before it: only the silence of the member is counted from it. Readers of the token
    stream need it to put an answer together.

    member: the index of the member in the opening.
    branch: the new branch.
    start: the byte up to which the member's own text is kept.
    text: follows that text; the member continues behind it.
    tokens: how many tokens of the branch before had been accepted; later ones of it are superseded.
    """

    member: int
    branch: int
    start: int
    text: str
    tokens: int = 0


Mark = Claim | Waiting | Loading | Alive | Starved | Finished | Failed | Cancel | Beat | Steered
AnyEntry = Opening | Token | Mark

# The exceptions of msgspec for bytes that do not decode; the last one for lists that are nested too deep.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)
_top_decoder: msgspec.msgpack.Decoder[list[tuple[bytes, float | None]]] = msgspec.msgpack.Decoder(
    list[tuple[bytes, float | None]]
)


def encode_entry(entry: AnyEntry) -> bytes:
    return _encoder.encode(entry)


def decode_entry(raw: bytes) -> AnyEntry:
    """The entry in `raw`. Raises Malformed. A token's `top` is not decoded here, and may be malformed."""
    try:
        return _decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"an entry of a token stream does not decode: {error}") from error


def decode_opening(raw: bytes) -> Opening:
    """The opening in the first entry of a token stream. Raises OtherVersion, Malformed."""
    version = version_in(raw, 1)
    if version is not None and version != ENTRY_VERSION:
        raise OtherVersion("A session", version, ENTRY_VERSION)
    opening = decode_entry(raw)
    if not isinstance(opening, Opening):
        raise Malformed("the first entry of a session is not its opening")
    return opening


def version_in(raw: bytes, at: int) -> int | None:
    """The version in the field `at` of a packed array, whatever its other fields are; None where there is no number."""
    try:
        found = msgspec.msgpack.decode(raw)
    except UNDECODABLE:
        return None
    return found[at] if isinstance(found, list) and len(found) > at and isinstance(found[at], int) else None


def pack_top(top: list[tuple[bytes, float]]) -> msgspec.Raw:
    """The list of a token's most probable pieces with their logprobs, packed as it was received."""
    return msgspec.Raw(_encoder.encode(top)) if top else NO_TOP


def unpack_top(top: msgspec.Raw) -> list[tuple[bytes, float]]:
    """The reverse of pack_top, without logprobs that are not numbers. Empty where the bytes do not decode: then nothing
    was measured."""
    pairs = unpack_sent(top)
    return [(piece, logprob) for piece, logprob in pairs if logprob is not None and not math.isnan(logprob)]


def unpack_sent(top: msgspec.Raw) -> list[tuple[bytes, float | None]]:
    """The list as it was packed, whatever its logprobs are; empty where the bytes do not decode."""
    try:
        return _top_decoder.decode(top)
    except UNDECODABLE:
        return []
