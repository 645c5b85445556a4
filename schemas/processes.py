"""A running process of the council, as it describes itself each second."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["council", "producer", "aggregator", "decipher", "web", "recorder", "replay"]


class ProcessRecord(msgspec.Struct, frozen=True):
    """`detail` is the role's own: its model, its address, its tier. Sizes in bytes, CPU in seconds since the start."""

    name: str
    role: Role
    host: str
    pid: int
    started_ms: int
    ready: bool
    rss_bytes: int
    cpu_s: float
    detail: dict[str, str | int | float | bool] = {}
