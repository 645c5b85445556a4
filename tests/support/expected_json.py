"""The JSON of a wire struct as its definition has it, computed without the product's encoder."""

from __future__ import annotations

from typing import Any

import msgspec


def named(struct: msgspec.Struct) -> dict[str, Any]:
    """The struct as an object with named fields, without its version; fields of a struct in it are beside its own."""
    out: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, msgspec.Struct):
            out |= named(value)
        elif isinstance(value, tuple):
            out[field.encode_name] = [named(item) if isinstance(item, msgspec.Struct) else item for item in value]
        elif field.name != "version":
            out[field.encode_name] = value
    return out
