"""Structs with named fields, for the JSON of wire structs, which are arrays.

A named struct has the fields of its wire struct without the version. It is made once, when the module that needs it is
imported; msgspec copies the values, without Python code for each field. A struct in a field of the wire struct is
flattened: in JSON its fields are beside the others.
"""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

# The JSON of a field whose value is None: null, or the field is left out; "read" accepts both.
Null = Literal["shown", "left out", "read"]


def named_struct(
    wire: type[msgspec.Struct], null: Null = "shown", order: Sequence[str] | None = None
) -> type[msgspec.Struct]:
    """The struct with named fields for the wire struct `wire`, and for the structs in it. `order` are the names of all
    its fields (default: the order of the wire struct).

    Where null is "left out", every other field is always present and each field has one type, which makes a simple JSON
    Schema. To read that JSON, or the JSON of an earlier version that lacks newer fields, null must be "read".
    """
    flat = flat_fields(wire)
    fields: list[Any] = []
    for name in flat if order is None else order:
        field = flat[name][1]
        annotation = _named(field.type, null)
        if null != "shown" and _may_be_null(field.type):
            fields.append((name, annotation, None))
        elif null == "read" and field.default is not msgspec.NODEFAULT:
            fields.append((name, annotation, field.default))
        else:
            fields.append((name, annotation))
    return msgspec.defstruct(
        wire.__name__, fields, frozen=True, gc=False, kw_only=null != "shown", omit_defaults=null == "left out"
    )


def flat_fields(wire: type[msgspec.Struct]) -> dict[str, tuple[str, msgspec.structs.FieldInfo]]:
    """The fields that JSON shows, by their names there: each with its path from the wire struct ("counts.late")."""
    flat = {}
    for field in msgspec.structs.fields(wire):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for name, (path, inner) in flat_fields(field.type).items():
                flat[name] = f"{field.name}.{path}", inner
        elif field.name != "version":
            flat[field.encode_name] = field.name, field
    return flat


def _named(annotation: Any, null: Null) -> Any:
    """The annotation with named structs in place of wire structs."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return named_struct(annotation, null)
    if typing.get_origin(annotation) is tuple:
        inner = [part if part is ... else _named(part, null) for part in typing.get_args(annotation)]
        return tuple[tuple(inner)]  # type: ignore[misc]  # mypy does not know a tuple that is computed
    if _may_be_null(annotation):
        parts = [_named(part, null) for part in typing.get_args(annotation)]
        return functools.reduce(operator.or_, parts)
    return annotation


def _may_be_null(annotation: Any) -> bool:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(annotation)


def plain_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a struct whose fields may be left out, with one type for each field and no references.

    Readers of recordings (Foxglove) accept neither `$ref` nor `anyOf`.
    """
    schema = msgspec.json.schema(struct)
    plain: dict[str, Any] = _plain(schema, schema.get("$defs", {}))
    return plain


def _plain(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        (only,) = [part for part in schema["anyOf"] if part.get("type") != "null"]
        return _plain(only, definitions)
    if "enum" in schema:
        return {"type": "string", "enum": [value for value in schema["enum"] if value is not None]}
    kept = {key: value for key, value in schema.items() if key in ("type", "title", "required", "contentEncoding")}
    if "properties" in schema:
        kept["properties"] = {name: _plain(part, definitions) for name, part in schema["properties"].items()}
    if "items" in schema:
        kept["items"] = _plain(schema["items"], definitions)
    return kept
