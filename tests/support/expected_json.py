"""The JSON of a wire struct as its definition has it, computed without the product's encoder."""

from __future__ import annotations

from typing import Any

import msgspec


def named(struct: msgspec.Struct) -> dict[str, Any]:
    """The struct as an object with named fields, without its version."""
    out: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            value = named(value)
        elif isinstance(value, tuple):
            value = [named(item) if isinstance(item, msgspec.Struct) else item for item in value]
        if name != "version":
            out[name] = value
    return out
