"""A version rises with each change of what it stands for: otherwise two versions of the council mix without a sentence.

`python -m tests.schemas.test_versions` writes the present state into versions.json, after the version was raised.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.core.checkpoint import CHECKPOINT_VERSION, Checkpoint
from consumers.decipher.composer import STATE_VERSION, ComposerState
from schemas.control import Play, Progress, Stop
from schemas.entries import AnyEntry, decode_opening, encode_entry
from schemas.errors import Malformed, OtherVersion
from schemas.frames import FRAME_VERSION, Frame, decode_frame, encode_frame
from schemas.processes import RECORD_VERSION, ProcessRecord, decode_record, encode_record
from schemas.sessions import ENTRY_VERSION, Opening
from tests.golden import golden_sessions
from tests.golden.digests import digests
from tests.support.frames import made_frame
from tests.support.sessions import opening_of

_FILE = Path(__file__).with_name("versions.json")


def layout(annotation: Any) -> str:
    """The type as text, with the fields, defaults and tags of every struct in it."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        config = annotation.__struct_config__
        fields = ", ".join(
            f"{field.encode_name}: {layout(field.type)}"
            + ("" if field.default is msgspec.NODEFAULT else f" = {_shown(field.default)}")
            for field in msgspec.structs.fields(annotation)
        )
        return f"{config.tag or annotation.__name__}{'[]' if config.array_like else '{}'}({fields})"
    if inner := typing.get_args(annotation):
        origin = typing.get_origin(annotation)
        kind = "union" if origin in (typing.Union, types.UnionType) else origin
        return f"{kind}<{', '.join(map(layout, inner))}>"
    return repr(annotation)


def _shown(default: Any) -> str:
    return bytes(default).hex() if isinstance(default, msgspec.Raw) else repr(default)


def digest(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(layout, parts)).encode()).hexdigest()[:16]


def golden_digest() -> str:
    """The frames and checkpoints that the core computes from the golden token streams."""
    return hashlib.sha256(json.dumps(digests(golden_sessions()), sort_keys=True).encode()).hexdigest()[:16]


def present() -> dict[str, list[Any]]:
    """Each version, and a digest of what it stands for."""
    return {
        "ENTRY_VERSION": [ENTRY_VERSION, digest(AnyEntry, Stop, Play, Progress)],
        "FRAME_VERSION": [FRAME_VERSION, digest(Frame), golden_digest()],
        "CHECKPOINT_VERSION": [CHECKPOINT_VERSION, digest(Checkpoint)],
        "STATE_VERSION": [STATE_VERSION, digest(ComposerState)],
        "RECORD_VERSION": [RECORD_VERSION, digest(ProcessRecord)],
    }


def test_each_version_rises_with_each_change_of_what_it_stands_for() -> None:
    """Where this fails: raise the version by one, unless it rose since the last release, then run this module."""
    assert present() == json.loads(_FILE.read_text())


def test_the_layout_of_a_struct_shows_each_kind_of_change() -> None:
    class Inner(msgspec.Struct, array_like=True):
        a: int

    def outer(*fields: Any, **options: Any) -> str:
        return layout(msgspec.defstruct("Outer", fields, **options))

    inner = tuple[Inner, ...]
    before = outer(("x", inner), ("y", int, 1))
    changed = [
        outer(("x", inner), ("y", int, 2)), outer(("x", inner), ("y", float, 1)), outer(("y", int), ("x", inner)),
        outer(("x", inner), ("y", int, 1), ("z", int, 0)), outer(("x", inner), ("y", int, 1), array_like=True),
        outer(("x", inner), ("y", int, 1), tag="t"), outer(("x", tuple[int, ...]), ("y", int, 1)),
    ]  # fmt: skip
    assert "a: <class 'int'>" in before
    assert before not in changed


@pytest.mark.parametrize("other", [-1, 1, 1_000])
def test_another_version_is_recognised_whatever_its_other_fields_are(other: int) -> None:
    """An earlier or a later one, with the fields of this version, with a field more, or with fields of other types."""
    opening, frame = opening_of("a"), made_frame(0, ())
    entries = msgspec.msgpack.decode(encode_entry(opening))
    packed = msgspec.msgpack.decode(encode_frame(frame))
    for change in (lambda fields: fields, lambda fields: [*fields, {}], lambda fields: [None] * len(fields)):
        found = change(entries[2:])
        with pytest.raises(OtherVersion) as met:
            decode_opening(msgspec.msgpack.encode(["open", ENTRY_VERSION + other, *found]))
        assert met.value.is_older == (other < 0)
        with pytest.raises(OtherVersion, match=f"has version {FRAME_VERSION + other}"):
            decode_frame(msgspec.msgpack.encode([FRAME_VERSION + other, *change(packed[1:])]))


def test_a_process_record_of_another_version_is_recognised() -> None:
    record = ProcessRecord("p", "web", "h", 1, 1, True, 1, 0.0)
    assert decode_record(encode_record(record)) == record
    with pytest.raises(OtherVersion):
        decode_record(encode_record(msgspec.structs.replace(record, version=RECORD_VERSION + 1)))


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc1", msgspec.msgpack.encode(["open", ENTRY_VERSION, None]), msgspec.msgpack.encode(["open"]), b"\x90"],
)
def test_other_bytes_are_malformed_and_of_no_version(raw: bytes) -> None:
    for decode in (decode_opening, decode_frame):
        with pytest.raises(Malformed) as met:
            decode(raw)
        assert not isinstance(met.value, OtherVersion)


def test_an_opening_of_this_version_is_read() -> None:
    opening: Opening = opening_of("a", "b")
    assert decode_opening(encode_entry(opening)) == opening


if __name__ == "__main__":
    _FILE.write_text(json.dumps(present(), indent=2) + "\n")
