"""Frames: the content of one closed window of a session.

Packed, for Redis, a frame is an array of arrays. schemas/frame_json.py has its JSON.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from schemas.entries import UNDECODABLE, Lane, Quality, version_in
from schemas.errors import Malformed, OtherVersion

# The version of packed frames. A program reads frames of its own version only, and goes on with sessions whose frames
# have this version. It rises when the fields of a frame change, and when the same token stream gives another frame.
FRAME_VERSION = 4
# The diversity index where it was not measured.
FALLBACK_INDEX = 0.5

MemberState = Literal["waiting", "loading", "thinking", "answering", "held", "detached", "finished", "dropped"]
Mode = Literal["step", "free", "single", "consensus"]
# unanimous: all drafts were the same. certain, estimate: the drafts parted, and the lists decided, with or without
# doubt. followed: one member alone wrote it.
DecisionKind = Literal["unanimous", "certain", "estimate", "followed"]
AgreementSource = Literal["logprobs", "mixed", "text"]
Compares = Literal["next", "place"]
InterferenceKind = Literal["constructive", "destructive", "neutral"]


# The reasons of a member that finished as a model does: by itself, or at its limit of tokens.
PLAIN_ENDS = ("stop", "length")


class MemberFrame(msgspec.Struct, array_like=True, frozen=True):
    """One member at the end of the window; `text` and `thinking` are what this frame releases of it.

    energy in [0, 1]; certainty in [0, 1], the latest that was measured; tokens_per_s over the last second;
    position_bytes is the released end of its answer; reason is why it finished or dropped; remote: its server is not on
    this machine or its network. name is its display name: its own name, else its model's. awaited: its model loads or
    waits, and the others do not begin before it.
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

    @property
    def ended(self) -> bool:
        """True once it has finished or dropped."""
        return self.state in ("finished", "dropped")

    @property
    def warning(self) -> str:
        """Why the end of a member that finished needs attention; empty where it needs none."""
        return (self.reason or "") if self.state == "finished" and self.reason not in PLAIN_ENDS else ""


class TokenFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A token whose last byte this frame releases. start and end are byte offsets in its member's lane."""

    member: int
    lane: Lane
    seq: int
    start: int
    end: int
    logprob: float | None
    quality: Quality


class Measures(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The measurements at the frontier, rounded to 1e-9; all but the first two are None where nothing was measured.

    The numbers are in [0, 1], except entropy_total and entropy_within in nats and span_bytes in bytes. di_source is
    logprobs where diversity_index was measured; di_low <= the true index <= diversity_index.
    """

    diversity_index: float = FALLBACK_INDEX
    di_source: Literal["logprobs", "fallback"] = "fallback"
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


class AlignmentFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The positions at which the members are compared (frontier_bytes) and at which they parted (diverged_at_bytes).
    The spreads of releases and of arrivals at the frontier, in milliseconds, are None with fewer than two members."""

    frontier_bytes: int | None = None
    shared_prefix: bool | None = None
    diverged_at_bytes: int | None = None
    compares: Compares | None = None
    sync_lag_ms: float | None = None
    arrival_skew_ms: float | None = None


class InterferenceFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The wave in [0, 1], for drawing: the energy raised or lowered by the agreement. `kind` is `interference` in
    JSON."""

    wave: float = 0.0
    amplified: bool = False
    dampened: bool = False
    kind: InterferenceKind = msgspec.field(default="neutral", name="interference")
    resonance: bool = False


class WindowCounts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Entries of this window alone. superseded: tokens that are discarded in this window, because the council agreed
    on another text, and tokens of earlier branches that came too late; no frame contains them."""

    late: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    superseded: int = 0


class Decision(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How the council agreed on the bytes [at, end) of its answer. All but the first four are None or empty unless the
    drafts parted at `at`.

    `by` is the member whose draft was taken; None where all drafts were the same. share is the least probability, in
    [0, 1], that the council as a whole gives to the text that won; runner_up the beginning of the next likely one ("":
    the end of the answer), with its share. jsd in [0, 1]: the disagreement at `at`. against: the members whose drafts
    began otherwise.
    """

    at: int
    end: int
    kind: DecisionKind
    by: int | None = None
    share: float | None = None
    runner_up: str | None = None
    runner_up_share: float | None = None
    jsd: float | None = None
    against: tuple[int, ...] = ()


class MixtureText(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A text that may follow.

    text: what follows; empty for the end of the answer.
    share: its probability, in [0, 1].
    """

    text: str
    share: float


class MixtureSpan(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the council as a whole gives to the next bytes [start, end) of its answer (docs/maths.md, the mixture of the
    agreed text).

    share in [0, 1] is the probability of the text that stands there, None where it was not measured. top: the likeliest
    texts of that place, the likeliest first.
    """

    start: int
    end: int
    share: float | None = None
    top: tuple[MixtureText, ...] = ()


class ConsensusFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The text on which the council has agreed in this window, and the decisions, which tile it without the
    session's prefix: that is the agreed text of window 0. Both are None in a session that is not `sync: consensus`.
    `mixture` tiles that text in another way; it is None unless the opening requests it."""

    agreed: str | None = None
    decisions: tuple[Decision, ...] | None = None
    mixture: tuple[MixtureSpan, ...] | None = None


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """One window of one session: a pure function of its token stream up to and including `cut`.

    start_ns and end_ns count from the session's origin. energy is in [0, 1]. tier is the present one, which is lower
    than that of the opening after memory ran out. replay_of is the recorded session in the frames of a replay, else
    empty. docs/frames.md and docs/maths.md explain every field.

    version: FRAME_VERSION.
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
    members: tuple[MemberFrame, ...]
    tokens: tuple[TokenFrame, ...]
    measures: Measures = Measures()
    alignment: AlignmentFrame = AlignmentFrame()
    interference: InterferenceFrame = InterferenceFrame()
    counts: WindowCounts = WindowCounts()
    tier: str = ""
    replay_of: str = ""
    consensus: ConsensusFrame = ConsensusFrame()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_frame(raw: bytes) -> Frame:
    """Raises OtherVersion; Malformed for bytes that are not a frame."""
    try:
        frame = _decoder.decode(raw)
    except UNDECODABLE as error:
        version = version_in(raw, 0)
        if version is None or version == FRAME_VERSION:
            raise Malformed(f"a frame does not decode: {error}") from error
    else:
        if frame.version == FRAME_VERSION:
            return frame
        version = frame.version
    raise OtherVersion("A frame", version, FRAME_VERSION)


def shown_logprob(logprob: float | None) -> float | None:
    """The logprob for a frame: at most 0, rounded to 1e-9; None where it is not finite, which JSON cannot represent."""
    # Plus 0.0: a number that is rounded to 0 loses its sign.
    return round(min(logprob, 0.0), 9) + 0.0 if logprob is not None and math.isfinite(logprob) else None


def every_drop(reasons: list[tuple[str, str]]) -> str:
    """The reason of a session in which every member dropped, in one sentence; (name, reason) of each member."""
    text = "; ".join(f"{name}: {reason}" for name, reason in reasons)
    if len({reason for _, reason in reasons}) == 1:
        text = reasons[0][1]
    return f"Every member dropped: {text}" if text.endswith(("?", ".")) else f"Every member dropped: {text}."
