"""Frames: what one closed window says about a session. The names below are the names in JSON."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from schemas.entries import UNDECODABLE, Lane, Quality
from schemas.errors import Malformed
from schemas.named import named_struct

FRAME_VERSION = 1

MemberState = Literal["waiting", "loading", "thinking", "answering", "held", "detached", "finished", "dropped"]
Mode = Literal["step", "free", "single"]
AgreementSource = Literal["logprobs", "mixed", "text"]
Compares = Literal["next", "place"]
InterferenceKind = Literal["constructive", "destructive", "neutral"]


class MemberFrame(msgspec.Struct, array_like=True, frozen=True):
    """One member at the end of the window; `text` and `thinking` are what this frame releases of it.

    energy in [0, 1]; certainty in [0, 1], the latest that was measured; tokens_per_s over the last second;
    position_bytes is the released end of its answer; reason says why it finished or dropped; remote says that its
    server is not on this machine or its network. name is what the member is called: its model, unless it has a name of
    its own. awaited: its model loads or waits, and the others do not begin before it.
    """

    model: str
    state: MemberState
    energy: float
    tokens_per_s: float
    certainty: float | None
    position_bytes: int
    buffered_tokens: int
    text: str
    thinking: str
    reason: str | None
    remote: bool = False
    name: str = ""
    awaited: bool = False

    @property
    def display_name(self) -> str:
        """`name`, which frames of earlier versions lack."""
        return self.name or self.model


class TokenFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A token whose last byte this frame releases. start and end are byte offsets in its member's lane."""

    member: int
    lane: Lane
    seq: int
    start: int
    end: int
    logprob: float | None
    quality: Quality


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """One window of one session: a pure function of its token stream up to and including `cut`.

    start_ns and end_ns count from the session's origin. energy and diversity_index lie in [0, 1]; di_source says
    whether the index was measured. sync_lag_ms and arrival_skew_ms are None until two members are aligned. late,
    duplicates and dead_letters count what this window alone saw. tier is the one that the session runs in: a lower one
    than it was opened in after memory ran out.

    The rest was measured at the frontier, frontier_bytes, and is None where it was not: numbers in [0, 1], but
    entropy_total and entropy_within in nats, and diverged_at_bytes and span_bytes in bytes. di_low <= the true index <=
    diversity_index. wave is drawn; energy is the number. docs/frames.md and docs/maths.md say what each means.
    replay_of is the recorded session in the frames of a replay, else empty.
    """

    version: int
    session: str
    window_index: int
    start_ns: int
    end_ns: int
    mode: Mode
    final: bool
    cut: str
    energy: float
    diversity_index: float
    di_source: Literal["logprobs", "fallback"]
    sync_lag_ms: float | None
    arrival_skew_ms: float | None
    late: int
    duplicates: int
    dead_letters: int
    members: tuple[MemberFrame, ...]
    tokens: tuple[TokenFrame, ...]
    tier: str = ""
    frontier_bytes: int | None = None
    di_low: float | None = None
    di_covered: float | None = None
    coverage: float | None = None
    di_span: float | None = None
    span_bytes: int | None = None
    jsd: float | None = None
    entropy_total: float | None = None
    entropy_within: float | None = None
    coverage_mass: float | None = None
    agreement: float | None = None
    agreement_source: AgreementSource | None = None
    shared_prefix: bool | None = None
    diverged_at_bytes: int | None = None
    compares: Compares | None = None
    wave: float = 0.0
    amplified: bool = False
    dampened: bool = False
    interference: InterferenceKind = "neutral"
    resonance: bool = False
    replay_of: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_frame(raw: bytes) -> Frame:
    """Raises Malformed."""
    try:
        return _decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a frame does not decode: {error}") from error


def shown_logprob(logprob: float | None) -> float | None:
    """As it is shown: at most 0, to 1e-9; None where it is no finite number, which JSON does not have."""
    # Plus 0.0: what is rounded to it has no sign.
    return round(min(logprob, 0.0), 9) + 0.0 if logprob is not None and math.isfinite(logprob) else None


# A frame as JSON shows it, and as a recording contains it: there a field whose value is null is left out.
NamedFrame = named_struct(Frame)
RecordedFrame = named_struct(Frame, "left out")

_json_decoder = msgspec.json.Decoder(named_struct(Frame, "read"))


def every_drop(reasons: list[tuple[str, str]]) -> str:
    """A session that no member answered, in one sentence: (name, reason) of each member."""
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons)
    if len({reason for _, reason in reasons}) == 1:
        told = reasons[0][1]
    return f"Every member dropped: {told}" if told.endswith(("?", ".")) else f"Every member dropped: {told}."


def frame_json(frame: Frame) -> bytes:
    """The frame as one line of JSON, with the fields' names."""
    return msgspec.json.encode(msgspec.convert(frame, NamedFrame, from_attributes=True))


def recorded_frame_json(frame: Frame) -> bytes:
    """The frame as a recording contains it."""
    return msgspec.json.encode(msgspec.convert(frame, RecordedFrame, from_attributes=True))


def frame_of_json(raw: bytes) -> Frame:
    """The frame in its JSON, whether or not that contains the fields that are null. Raises Malformed."""
    try:
        named = _json_decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a frame's JSON does not decode: {error}") from error
    # msgspec's asdict takes a struct apart, and leaves those in it whole.
    values = msgspec.structs.asdict(named)
    values["members"] = tuple([MemberFrame(**msgspec.structs.asdict(member)) for member in values["members"]])
    values["tokens"] = tuple([TokenFrame(**msgspec.structs.asdict(token)) for token in values["tokens"]])
    return Frame(FRAME_VERSION, **values)
