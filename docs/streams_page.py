"""`python docs/streams_page.py`: writes the tables in docs/streams.md, from the structs and the list of keys.

The page is written by hand except for what is between `<!-- NAME: made by docs/streams_page.py -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec
from stream_list import KEYS, STATE
from wire_structs import DOCS, Field, default_text, fields_of, summary_of, tag_of, type_text, with_inner

from schemas.control import Play, Playback, Progress, Stop
from schemas.entries import Alive, Beat, Cancel, Claim, Failed, Finished, Loading, Starved, Steered, Token, Waiting
from schemas.frames import FRAME_VERSION, Frame
from schemas.processes import RECORD_VERSION, ProcessRecord
from schemas.sessions import ENTRY_VERSION, Opening

PAGE = DOCS / "streams.md"
_PART = re.compile(r"(?<=<!-- )(\w+)(: made by docs/streams_page\.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
_VERSIONS = {"FRAME_VERSION": FRAME_VERSION, "ENTRY_VERSION": ENTRY_VERSION, "RECORD_VERSION": RECORD_VERSION}
# Units that the type, or the meaning, contains already.
_NO_UNIT = ("", "text", "see below", "list", "index", "count", "indexes", "counts, this window")


def text() -> str:
    """The page with its tables made anew."""
    parts = {
        "keys": _keys(),
        "state": _state(is_public=True),
        "internal_state": _state(is_public=False),
        "versions": ", ".join(f"`{name}` is {number}" for name, number in _VERSIONS.items()) + ".\n",
        "frames": _structs(with_inner(Frame)),
        "opening": _structs(with_inner(Opening)),
        "entries": _structs([Token, Finished, Steered, Claim, Waiting, Loading, Alive, Starved, Failed, Cancel, Beat]),
        "orders": _structs([Stop, Play]),
        "progress": _structs(with_inner(Progress, Playback)),
        "records": _structs([ProcessRecord]),
    }
    # The programs on the page check the version.
    page = re.sub(r"(FRAME_VERSION(?:, \(url, session\))? = )\d+", rf"\g<1>{FRAME_VERSION}", PAGE.read_text())
    if unused := parts.keys() - {found[1] for found in _PART.finditer(page)}:
        raise LookupError(f"docs/streams.md has no part {', '.join(sorted(unused))}")
    return _PART.sub(lambda found: f"{found[1]}{found[2]}\n{parts[found[1]]}\n", page)


def _keys() -> str:
    rows = [
        (f"`{key.name}`", key.kind, "public" if key.is_public else "internal", key.content,
         ", ".join(f"`{field}`" for field in key.fields), key.ids, key.kept)
        for key in KEYS
    ]  # fmt: skip
    return _table(("key", "type", "for", "content", "fields of an entry", "ids of entries", "kept"), rows)


def _state(*, is_public: bool) -> str:
    rows = [(f"`{name}`", text) for name, (text, public) in STATE.items() if public == is_public]
    return _table(("field", "content"), rows)


def _structs(structs: Iterable[type[msgspec.Struct]]) -> str:
    return "\n".join(map(_struct, structs))


def _struct(struct: type[msgspec.Struct]) -> str:
    """The heading, the tag, the summary and the fields of a struct."""
    tag, fields = tag_of(struct), fields_of(struct)
    about = f"Tag `{tag}`. " if tag else ""
    heading = f"#### {struct.__name__}\n\n{about}{_on_page(summary_of(struct))}\n"
    if not fields:
        return heading
    if not struct.__struct_config__.array_like:
        named = [(f"`{field.name}`", _type(field), _on_page(field.meaning)) for field in fields]
        return f"{heading}\n{_table(('key', 'type, unit', 'meaning'), named)}"
    rows = [
        (str(field.position), field.name, _type(field), default_text(field), _on_page(field.meaning))
        for field in fields
    ]
    return f"{heading}\n{_table(('at', 'field', 'type, unit', 'default', 'meaning'), rows)}"


def _type(field: Field) -> str:
    shown = type_text(field.type)
    unit = re.sub(r"(, or null| or null|, null)$", "", field.unit)
    if unit in _NO_UNIT or shown.startswith("bool") or ":" in shown:
        return shown
    return f"{shown}: {unit}"


def _on_page(text: str) -> str:
    """A text of a docstring or of docs/frames.md, in words of MessagePack, with links from this page."""
    text = re.sub(r"\b(?:None|null)\b", "nil", text).replace("](#", "](frames.md#")
    return re.sub(r"\b[A-Z]+_VERSION\b", lambda found: f"{_VERSIONS[found[0]]} (`{found[0]}`)", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n" for cells in (header, *rows)]
    return "".join([lines[0], "|---" * len(header) + "|\n", *lines[1:]])


if __name__ == "__main__":
    PAGE.write_text(text())
