"""What the wire structs contain, for docs/streams_page.py and docs/asyncapi.py: positions, types, defaults, meanings.

A field's meaning is written once: in a line "name: meaning" of its struct's docstring, or, for frames, in a table of
docs/frames.md. Packed, a struct is an array; a tag comes first.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

# A field's line in a docstring, and the indented lines that continue it.
FIELD_LINE = re.compile(r"^(\w+): (.+(?:\n {2}.+)*)$", re.MULTILINE)
_PLAIN = {int: "int", float: "float", bool: "bool", str: "str", bytes: "bin", type(None): "nil"}
_JSON = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}
# The only field that is packed in advance: the list of a token.
RAW = list[tuple[bytes, float | None]]


class Field(NamedTuple):
    """`position` is the index in the packed array, `unit` a unit or a range, empty where there is none."""

    position: int
    name: str
    type: Any
    default: Any
    unit: str
    meaning: str


def is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def tag_of(struct: type[msgspec.Struct]) -> str | None:
    tag = struct.__struct_config__.tag
    return None if tag is None else str(tag)


def summary_of(struct: type[msgspec.Struct]) -> str:
    """The docstring without the lines of the fields; where a table describes the fields, its first paragraph."""
    text, count = FIELD_LINE.subn("", inspect.getdoc(struct) or "")
    if count < len(struct.__struct_fields__):
        text = text.partition("\n\n")[0]
    return " ".join(text.split())


def fields_of(struct: type[msgspec.Struct]) -> list[Field]:
    """Raises LookupError for a field that is described nowhere."""
    described = {
        name: " ".join(text.split()).rstrip(".") for name, text in FIELD_LINE.findall(inspect.getdoc(struct) or "")
    }
    if unknown := described.keys() - {field.name for field in msgspec.structs.fields(struct)}:
        raise LookupError(f"{struct.__name__} has no field {', '.join(sorted(unknown))}")
    return [
        Field(position, field.encode_name, field.type, field.default, *_meaning(struct, field, described))
        for position, field in enumerate(msgspec.structs.fields(struct), tag_of(struct) is not None)
    ]


def _meaning(
    struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo, described: dict[str, str]
) -> tuple[str, str]:
    """(unit, meaning)"""
    if field.name in described:
        return "", described[field.name]
    if is_struct(field.type):
        about = re.split(r"[.:;] ", summary_of(field.type))[0].rstrip(".")
        return "", about[0].lower() + about[1:]
    own = {one.encode_name for one in msgspec.structs.fields(struct) if not is_struct(one.type)} - described.keys()
    for table in tables_of("frames.md"):
        if own <= table.keys():
            return table[field.encode_name]
    raise LookupError(f"{struct.__name__}.{field.name} is described neither in its docstring nor in docs/frames.md")


@cache
def tables_of(page: str) -> list[dict[str, tuple[str, str]]]:
    """The tables of fields of a page: each field's (unit, meaning). In a row of several fields, as many parts between
    semicolons are those of each field; else the text is that of all."""
    found: list[dict[str, tuple[str, str]]] = []
    for block in re.findall(r"^\| field \|.*\n\|[-|]+\n((?:\|.*\n)+)", (DOCS / page).read_text(), re.MULTILINE):
        table = {}
        for line in block.splitlines():
            names, unit, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            parts = names.split(", ")
            for name, *texts in zip(parts, _shared(unit, len(parts)), _shared(meaning, len(parts)), strict=True):
                table[name] = (texts[0], re.sub(r",? \[?see below\]?(\([^)]*\))?", "", texts[1]))
        found.append(table)
    return found


def _shared(text: str, count: int) -> list[str]:
    parts = text.split("; ")
    return parts if len(parts) == count else [text] * count


def structs_in(annotation: Any) -> list[type[msgspec.Struct]]:
    """The structs that a type contains, without those inside them."""
    if is_struct(annotation):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in structs_in(part)]


def with_inner(*structs: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The structs, each followed by those in it that did not come before."""
    found: dict[type[msgspec.Struct], None] = {}

    def add(struct: type[msgspec.Struct]) -> None:
        if struct not in found:
            found[struct] = None
            for field in msgspec.structs.fields(struct):
                for inner in structs_in(field.type):
                    add(inner)

    for struct in structs:
        add(struct)
    return list(found)


def type_text(annotation: Any) -> str:
    """The msgpack type, for a cell of a table."""
    annotation, bounds = _unbounded(annotation)
    inner = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case typing.Literal:
            return "str: " + ", ".join(inner)
        case origin if origin in (typing.Union, types.UnionType):
            # Of the types in a map, their order is of no use. The values of a text stand behind all types.
            *texts, last = map(type_text, inner)
            first, colon, values = ", ".join(texts).partition(":")
            return f"{first} or {last}{colon}{values}"
        case origin if origin in (list, tuple):
            if origin is list or inner[-1] is ...:
                return f"array of {type_text(inner[0])}"
            return f"[{', '.join(map(type_text, inner))}]"
        case origin if origin is dict:
            return f"map of str to {type_text(inner[1])}"
    if annotation is msgspec.Raw:
        return type_text(RAW)
    if is_struct(annotation):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _PLAIN[annotation] + (f" ≥ {bounds.ge:g}" if bounds else "")


def default_text(field: Field) -> str:
    """The value of a field that an array of an earlier version lacks; empty for a field that every version has."""
    if field.default is msgspec.NODEFAULT:
        return ""
    if isinstance(field.default, msgspec.Raw):
        return "[]"
    if isinstance(field.default, msgspec.Struct):
        return "its defaults"
    if field.default == b"":
        return "empty"
    return msgspec.json.encode(field.default).decode().replace("null", "nil")


def packed_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema (draft 7) of a struct as MessagePack libraries decode it: an array where it is packed as one."""
    fields = fields_of(struct)
    described = {"title": struct.__name__, "description": summary_of(struct)}
    required = sum(field.default is msgspec.NODEFAULT for field in fields)
    if not struct.__struct_config__.array_like:
        names = [field.name for field in fields]
        properties = {field.name: _field_schema(field) for field in fields}
        return {**described, "type": "object", "properties": properties, "required": names[:required]}
    tag = tag_of(struct)
    first = [{"title": "tag", "const": tag}] if tag else []
    items = [*first, *map(_field_schema, fields)]
    return {**described, "type": "array", "items": items, "minItems": len(first) + required}


def _field_schema(field: Field) -> dict[str, Any]:
    meaning = f"{field.meaning} ({field.unit})" if field.unit else field.meaning
    described = {"title": field.name, "description": meaning}
    schema = _schema(field.type)
    # Beside a reference other keywords have no effect.
    return {**described, "allOf": [schema]} if "$ref" in schema else {**described, **schema}


def _schema(annotation: Any) -> dict[str, Any]:
    annotation, bounds = _unbounded(annotation)
    inner = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case typing.Literal:
            return {"type": "string", "enum": list(inner)}
        case origin if origin in (typing.Union, types.UnionType):
            return {"anyOf": [_schema(part) for part in inner]}
        case origin if origin in (list, tuple):
            if origin is list or inner[-1] is ...:
                return {"type": "array", "items": _schema(inner[0])}
            return {"type": "array", "items": [_schema(part) for part in inner], "minItems": len(inner)}
        case origin if origin is dict:
            return {"type": "object", "additionalProperties": _schema(inner[1])}
    if annotation is msgspec.Raw:
        return _schema(RAW)
    if is_struct(annotation):
        return {"$ref": f"#/components/schemas/{packed_name(annotation)}"}
    if annotation is bytes:
        return {"type": "string", "format": "binary"}
    return {"type": _JSON[annotation]} | ({"minimum": bounds.ge} if bounds else {})


def packed_name(struct: type[msgspec.Struct]) -> str:
    """The name of a struct's schema: several have the same names in JSON."""
    return f"Packed{struct.__name__}" if struct.__struct_config__.array_like else struct.__name__


def _unbounded(annotation: Any) -> tuple[Any, msgspec.Meta | None]:
    """(the type, its bounds)"""
    if typing.get_origin(annotation) is typing.Annotated:
        kind, bounds = typing.get_args(annotation)
        return kind, bounds
    return annotation, None
