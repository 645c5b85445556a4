"""Frames in JSON: with the fields' names, and the fields of a frame's five parts (measures, alignment, interference,
counts, consensus) beside the frame's own."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec

from schemas.entries import UNDECODABLE
from schemas.errors import Malformed
from schemas.frames import (
    FRAME_VERSION,
    ConsensusFrame,
    Decision,
    Frame,
    MemberFrame,
    MixtureSpan,
    MixtureText,
    TokenFrame,
)
from schemas.named import flat_fields, named_struct

# The version of frames in JSON, in recordings.
FRAME_JSON_VERSION = 1

# The order of the fields in JSON. New ones are added at the end.
FRAME_FIELDS = (
    "session", "window_index", "start_ns", "end_ns", "mode", "final", "cut", "energy", "diversity_index", "di_source",
    "sync_lag_ms", "arrival_skew_ms", "late", "duplicates", "dead_letters", "members", "tokens", "tier",
    "frontier_bytes", "di_low", "di_covered", "coverage", "di_span", "span_bytes", "jsd", "entropy_total",
    "entropy_within", "coverage_mass", "agreement", "agreement_source", "shared_prefix", "diverged_at_bytes",
    "compares", "wave", "amplified", "dampened", "interference", "resonance", "replay_of", "superseded", "agreed",
    "decisions", "mixture",
)  # fmt: skip

# A frame in JSON, and in a recording, where a field whose value is null is left out.
NamedFrame = named_struct(Frame, "shown", FRAME_FIELDS)
RecordedFrame = named_struct(Frame, "left out", FRAME_FIELDS)
_ReadFrame = named_struct(Frame, "read", FRAME_FIELDS)

_flat = flat_fields(Frame)
_values_of = attrgetter(*[_flat[name][0] for name in FRAME_FIELDS])
# What msgspec reads the values of a frame from, to copy them and those of the structs in it.
_FlatFrame = msgspec.defstruct("FlatFrame", FRAME_FIELDS, gc=False)
_own_fields = [name for name in FRAME_FIELDS if _flat[name][0] == name]
# The parts of a frame, each with a function that takes its values from a struct with named fields.
_parts = {
    field.name: (field.type, attrgetter(*flat_fields(field.type)))
    for field in msgspec.structs.fields(Frame)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}
_member_values = attrgetter(*MemberFrame.__struct_fields__)
_token_values = attrgetter(*TokenFrame.__struct_fields__)
_decision_values = attrgetter(*Decision.__struct_fields__)
_json_decoder = msgspec.json.Decoder(_ReadFrame)


def shown_values(frame: Frame) -> dict[str, Any]:
    """The values of the frame in JSON, by the names of FRAME_FIELDS."""
    return dict(zip(FRAME_FIELDS, _values_of(frame), strict=True))


def frame_json(frame: Frame) -> bytes:
    """The frame as one line of JSON, with the fields' names."""
    return msgspec.json.encode(msgspec.convert(_FlatFrame(*_values_of(frame)), NamedFrame, from_attributes=True))


def recorded_frame_json(frame: Frame) -> bytes:
    """The frame as JSON for a recording."""
    return msgspec.json.encode(msgspec.convert(_FlatFrame(*_values_of(frame)), RecordedFrame, from_attributes=True))


def frame_of_json(raw: bytes) -> Frame:
    """The frame in its JSON, whether or not that contains the fields that are null. Raises Malformed."""
    try:
        named: Any = _json_decoder.decode(raw)
    except UNDECODABLE as error:
        raise Malformed(f"a frame's JSON does not decode: {error}") from error
    values: dict[str, Any] = {name: getattr(named, name) for name in _own_fields}
    values["members"] = tuple([MemberFrame(*_member_values(member)) for member in named.members])
    values["tokens"] = tuple([TokenFrame(*_token_values(token)) for token in named.tokens])
    values |= {name: part(*part_values(named)) for name, (part, part_values) in _parts.items()}
    values["consensus"] = ConsensusFrame(named.agreed, _decisions(named.decisions), _mixture(named.mixture))
    return Frame(FRAME_VERSION, **values)


def _decisions(named: Any) -> tuple[Decision, ...] | None:
    """The decisions in a frame's JSON; None where that has none."""
    return None if named is None else tuple([Decision(*_decision_values(one)) for one in named])


def _mixture(named: Any) -> tuple[MixtureSpan, ...] | None:
    """The mixture in a frame's JSON; None where that has none."""
    if named is None:
        return None
    tops = [tuple([MixtureText(text.text, text.share) for text in span.top]) for span in named]
    return tuple([MixtureSpan(span.start, span.end, span.share, top) for span, top in zip(named, tops, strict=True)])
