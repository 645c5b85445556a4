"""Session files for tests: golden sessions in a library, under the names that a recorder gives them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec

from aggregator.core.replay import replayed
from recordings.folder import recording_name
from schemas.entries import decode_entry, encode_entry
from schemas.frames import Frame
from schemas.keys import entry_ms
from schemas.sessions import Opening
from tests.golden import golden
from tests.support.golden_recordings import record_stream

# Three members, two of them the same; 2.3 s.
SHORT = "twins"


@functools.cache
def golden_stream(name: str = SHORT) -> tuple[list[tuple[str, bytes]], list[Frame]]:
    """(its entries, its frames)."""
    entries = golden(name).entries
    return entries, [closed.frame for closed in replayed(entries)]


def write_recording(
    folder: Path, golden_name: str = SHORT, *, text: bool = True, entries: int | None = None, **opening: Any
) -> Path:
    """The file of a golden session in the folder; with other things said in its opening, and with its first `entries`
    alone."""
    (opened, raw), *rest = golden_stream(golden_name)[0][:entries]
    changed = decode_entry(raw)
    assert isinstance(changed, Opening)
    changed = msgspec.structs.replace(changed, **opening)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / recording_name(changed.session, changed.prompt, entry_ms(opened))
    return record_stream(path, [(opened, encode_entry(changed)), *rest], text=text)
