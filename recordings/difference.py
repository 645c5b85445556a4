"""Differences between two recordings, or between a recording and the frames that are computed from its entries.

Frames are compared field by field, as the JSON objects in a recording, where a null field is left out. The JSON Schema
in the file lists the fields that its writer had, so that a field of a later version is not taken for a null one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from recordings.contents import About
from schemas.errors import Malformed

if TYPE_CHECKING:
    from recordings.reading import RecordingReader

FRAME_SCHEMA = "council.Frame"
# Fields that differ in each session and in each replay of it: names, and ids, which are times.
_OF_THE_SESSION = ("session", "replay_of", "cut")
# The texts of a frame's members, decisions and mixture.
_TEXTS = {"members": ("text", "thinking"), "decisions": ("runner_up",), "mixture": ("top",)}
# The fields of the metadata that describe the request.
_ASKED = (
    "prompt", "system", "prefix", "members", "temperature", "max_tokens", "seed", "sync", "weighting", "tier",
)  # fmt: skip

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Difference(msgspec.Struct, frozen=True):
    """A field that differs. `window` is None for a field of the opening. `field` is a path such as `members[0].energy`,
    or `frame` where only one recording has a frame of this window. A missing value is None."""

    window: int | None
    field: str
    one: Any
    other: Any

    @property
    def distance(self) -> float | None:
        """The absolute difference of two measured numbers; None for other values."""
        is_measured = isinstance(self.one, float) or isinstance(self.other, float)
        if is_measured and _is_number(self.one) and _is_number(self.other):
            return abs(float(self.one) - float(self.other))
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def frame_values(raw: bytes) -> dict[str, Any]:
    """The fields of a recorded frame. Raises Malformed where the bytes are not a JSON object with a window."""
    try:
        values = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise Malformed(f"a frame's JSON does not decode: {error}") from None
    if not isinstance(values, dict) or type(values.get("window_index")) is not int:
        raise Malformed("a frame has no window")
    return values


def known_fields(schema: bytes | None) -> Any:
    """The JSON Schema of frames, for `differences`; None where it is missing or not valid."""
    try:
        return msgspec.json.decode(schema) if schema else None
    except _UNREADABLE:
        return None


def differences(
    window: int, recorded: Mapping[str, Any], computed: Mapping[str, Any], known: Any = None
) -> list[Difference]:
    """The fields in which a recorded frame differs from the computed one. `known` is the schema of the recorded one: a
    missing field that is not in the schema is not compared. Raises Malformed."""
    try:
        return list(_differences(window, recorded, computed, known, ""))
    except RecursionError:
        raise Malformed(f"the frame of window {window} is nested too deeply") from None


def _differences(window: int, one: Any, other: Any, known: Any, path: str) -> Iterator[Difference]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        fields = known.get("properties") if isinstance(known, Mapping) else None
        # In the order of the computed frame's fields.
        for name in dict.fromkeys((*other, *one)):
            inner = fields.get(name) if isinstance(fields, Mapping) else None
            if name not in one and isinstance(fields, Mapping) and inner is None:
                continue
            yield from _differences(
                window, one.get(name), other.get(name), inner, f"{path}.{name}" if path else str(name)
            )
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        inner = known.get("items") if isinstance(known, Mapping) else None
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(window, left, right, inner, f"{path}[{number}]")
    elif type(one) is not type(other) or one != other:
        yield Difference(window, path, one, other)


def opening_differences(one: About, other: About) -> list[Difference]:
    """The differences between the prompts, members and options of two recordings."""
    left, right = msgspec.to_builtins(one), msgspec.to_builtins(other)
    asked = [name for name in _ASKED if one.text == other.text or name not in ("prompt", "system", "prefix")]
    found = differences(0, {name: left[name] for name in asked}, {name: right[name] for name in asked})
    return [msgspec.structs.replace(difference, window=None) for difference in found]


def first_frame_difference(one: Path, other: Path) -> Difference | None:
    """The first window and field in which two recordings differ; None where all frames are the same.

    The session's id, its `replay_of` and its `cut` are not compared, nor texts and the mixture where one recording has
    none. Raises Refused, Damage; Malformed where a frame does not decode.
    """
    from recordings.reading import RecordingReader  # most processes compare nothing, and do not need its libraries

    with RecordingReader(one) as left_file, RecordingReader(other) as right_file:
        with_text = left_file.about.text and right_file.about.text
        left, right = _frames(left_file, with_text=with_text), _frames(right_file, with_text=with_text)
        while True:
            mine, theirs = next(left, None), next(right, None)
            if mine is None and theirs is None:
                return None
            windows = [frame["window_index"] for frame in (mine, theirs) if frame is not None]
            window = min(windows)
            if mine is None or theirs is None or len({*windows}) > 1:
                has = [frame is not None and frame["window_index"] == window for frame in (mine, theirs)]
                return Difference(window, "frame", *("there" if is_there else None for is_there in has))
            if ("mixture" in mine) != ("mixture" in theirs):
                mine.pop("mixture", None)
                theirs.pop("mixture", None)
            if mine != theirs and (found := differences(window, mine, theirs)):
                return found[0]


def _frames(reader: RecordingReader, *, with_text: bool) -> Iterator[dict[str, Any]]:
    for item in reader.items():
        if item.kind == "frame":
            values = {name: value for name, value in frame_values(item.raw).items() if name not in _OF_THE_SESSION}
            if not with_text:
                values.pop("agreed", None)
                for parts, texts in _TEXTS.items():
                    if isinstance(values.get(parts), list):
                        values[parts] = [_without(texts, part) for part in values[parts]]
            yield values


def _without(names: Sequence[str], part: Any) -> Any:
    return {name: value for name, value in part.items() if name not in names} if isinstance(part, dict) else part


def first_difference(one: Path, other: Path) -> Difference | None:
    """The first difference of two recordings, in their openings or else in their frames; None where there is none.
    Raises Refused, Damage, Malformed."""
    from recordings.reading import RecordingReader  # as above

    with RecordingReader(one) as left, RecordingReader(other) as right:
        opening = opening_differences(left.about, right.about)
    return opening[0] if opening else first_frame_difference(one, other)
