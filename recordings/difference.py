"""The first difference of two recordings: which window, and which field of its frame."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import msgspec

from recordings.reading import RecordingReader
from schemas.frames import Frame, frame_of_json

# What two recordings of the same happenings do not share: whose frames they are.
_NAMES = ("session", "replay_of")


class Difference(msgspec.Struct, frozen=True):
    """Where two recordings differ: the window, the field of its frame, and both values as JSON. A file that ends
    before the other has no frame there."""

    window: int
    field: str
    one: str
    other: str


def first_difference(one: Path, other: Path) -> Difference | None:
    """The first window and field in which the frames of two recordings differ; None where they are the same. Raises
    Refused, Damage, Malformed."""
    with RecordingReader(one) as first, RecordingReader(other) as second:
        for left, right in zip_longest(_frames(first), _frames(second)):
            if left is None or right is None:
                there = left or right
                assert there is not None, "one of them goes on"
                return Difference(
                    there.window_index, "frame", *("none" if f is None else "present" for f in (left, right))
                )
            if found := _differing(left, right):
                return found
    return None


def _frames(reader: RecordingReader) -> Iterator[Frame]:
    return (frame_of_json(item.raw) for item in reader.items() if item.kind == "frame")


def _differing(left: Frame, right: Frame) -> Difference | None:
    for field in Frame.__struct_fields__:
        one, other = getattr(left, field), getattr(right, field)
        if field not in _NAMES and one != other:
            shown = [msgspec.json.encode(value).decode() for value in (one, other)]
            return Difference(min(left.window_index, right.window_index), field, *shown)
    return None
