"""The JSON of a wire struct as its definition has it, computed without the product's encoder."""

from __future__ import annotations

from typing import Any

import msgspec


def named(struct: msgspec.Struct) -> dict[str, Any]:
    """The struct as an object with named fields, without its version; fields of a struct in it are beside its own."""
    out: dict[str, Any] = {}
    # Not structs.fields(), which evaluates the annotations of the class again in each call.
    for field, name in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
        value = getattr(struct, field)
        if isinstance(value, msgspec.Struct):
            out |= named(value)
        elif isinstance(value, tuple):
            out[name] = [named(item) if isinstance(item, msgspec.Struct) else item for item in value]
        elif field != "version":
            out[name] = value
    return out
