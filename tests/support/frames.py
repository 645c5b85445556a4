"""Frames that tests make by hand."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.frames import FRAME_VERSION, Frame, MemberFrame, TokenFrame
from schemas.grid import window_start_ns
from schemas.named import flat_fields


def made_frame(
    window: int, members: tuple[MemberFrame, ...], tokens: tuple[TokenFrame, ...] = (), **values: Any
) -> Frame:
    """A frame of the session "s". `values` are other fields, by their names in JSON."""
    start_ns, end_ns = window_start_ns(window), window_start_ns(window + 1)
    frame = Frame(FRAME_VERSION, "s", window, start_ns, end_ns, "free", False, "1-0", 0.5, members, tokens)
    return changed_frame(frame, **values)


def changed_frame(frame: Frame, **values: Any) -> Frame:
    """The frame with these values, by their names in JSON."""
    paths = {name: path for name, (path, _) in flat_fields(Frame).items()}
    for name, value in values.items():
        part, _, field = paths.get(name, name).rpartition(".")
        if part:
            value = msgspec.structs.replace(getattr(frame, part), **{field: value})
        frame = msgspec.structs.replace(frame, **{part or field: value})
    return frame
