"""The rows of an export: tokens, and frames with one column for each number. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from recordings.contents import About, RecordedEntry, recorded_entry
from recordings.records import Item
from schemas.errors import Malformed
from schemas.frame_json import FRAME_FIELDS, frame_of_json, shown_values
from schemas.frames import Decision, MemberFrame, MixtureSpan
from schemas.grid import NS_PER_MS
from schemas.keys import entry_ms
from schemas.named import named_struct

# (name, kind) of each column; a time is in nanoseconds of Unix time.
Column = tuple[str, str]
TOKEN_COLUMNS: tuple[Column, ...] = (
    ("id", "text"), ("time", "time"), ("member", "integer"), ("name", "text"), ("seq", "integer"), ("lane", "text"),
    ("text", "text"), ("logprob", "number"), ("quality", "text"), ("arrival_ms", "number"), ("branch", "integer"),
)  # fmt: skip
_INTEGERS = (
    "window_index", "start_ns", "end_ns", "late", "duplicates", "dead_letters", "frontier_bytes", "span_bytes",
    "diverged_at_bytes", "position_bytes", "buffered_tokens", "superseded",
)  # fmt: skip
_FLAGS = ("final", "shared_prefix", "amplified", "dampened", "resonance", "remote", "awaited")
_TEXTS = (
    "session", "mode", "cut", "di_source", "tier", "agreement_source", "compares", "interference", "replay_of", "model",
    "state", "text", "thinking", "reason", "name", "agreed", "decisions",
    "mixture",
)  # fmt: skip
# The columns that contain a list as JSON.
_LISTS: dict[str, Any] = {
    "decisions": list[named_struct(Decision)],  # type: ignore[misc]  # mypy does not know a struct that is computed
    "mixture": list[named_struct(MixtureSpan)],  # type: ignore[misc]
}
_entry_decoder = msgspec.json.Decoder(RecordedEntry)


def _column(name: str, field: str) -> Column:
    kind = "integer" if field in _INTEGERS else "flag" if field in _FLAGS else "text" if field in _TEXTS else "number"
    return name, kind


_FRAME_FIELDS = tuple(name for name in FRAME_FIELDS if name not in ("members", "tokens"))
_MEMBER_FIELDS = MemberFrame.__struct_fields__


def frame_columns(about: About) -> tuple[Column, ...]:
    """The columns of a frame: its own fields, the number of its tokens, and each member's fields."""
    return (
        ("time", "time"),
        *(_column(name, name) for name in _FRAME_FIELDS),
        ("tokens", "integer"),
        *(_column(f"member_{n}_{name}", name) for n in range(len(about.members)) for name in _MEMBER_FIELDS),
    )


def frame_row(item: Item, about: About) -> list[Any]:
    """The values of a frame's columns; its decisions and its mixture are JSON. Raises Malformed."""
    frame = frame_of_json(item.raw)
    values = shown_values(frame)
    for name, kind in _LISTS.items():
        if values[name] is not None:
            values[name] = msgspec.json.encode(msgspec.convert(values[name], kind, from_attributes=True)).decode()
    row = [item.log_ns, *[values[name] for name in _FRAME_FIELDS], len(frame.tokens)]
    for member in frame.members[: len(about.members)]:
        row += msgspec.structs.astuple(member)
    return row + [None] * (len(_MEMBER_FIELDS) * (len(about.members) - len(frame.members)))


def token_row(item: Item, about: About) -> list[Any] | None:
    """The values of a token's columns; None for an entry that is not a token. Raises Malformed."""
    if item.raw:
        entry, _ = recorded_entry(item.id, item.raw, int(about.origin_ns))
    else:
        try:
            entry = _entry_decoder.decode(item.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"an entry does not decode: {error}") from None
    if entry.kind != "token":
        return None
    names = about.names
    name = names[entry.member] if entry.member is not None and 0 <= entry.member < len(names) else None
    return [
        item.id, entry_ms(item.id) * NS_PER_MS, entry.member, name, entry.seq, entry.lane, entry.text, entry.logprob,
        entry.quality, entry.arrival_ms, entry.branch,
    ]  # fmt: skip
