"""The output of `council recordings`, and its work on the library."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from council.recording.keep import size_for_a_person
from council.settings.schema import Settings
from recordings.folder import KeptRecording, Library
from recordings.opening import check_importable
from recordings.parts import part_of
from recordings.plain import plain, short
from schemas.errors import Refused
from schemas.grid import FRAME_RATE_HZ
from schemas.sessions import WITHOUT_TEXT

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_CHARS = 16
_QUESTION_CHARS = 100


def recording_path(written: str, settings: Settings) -> Path:
    """The path of the file or of the recording with this name or session in the library."""
    path = Path(written)
    library = settings.library
    if not path.exists() and library is not None and path.name == written:
        try:
            return library.path(written)
        except Refused:
            names = [name for name in library.names() if name.startswith(written) or f"_{written}." in name]
            if len(names) == 1:
                return library.path(names[0])
    return path


def recordings_report(found: Sequence[KeptRecording]) -> list[dict[str, Any]]:
    """Each recording as an object, for JSON."""
    return [
        {
            "name": one.name,
            "session": one.about.session if one.about else None,
            "prompt": one.about.prompt if one.about else None,
            "names": list(one.about.names) if one.about else [],
            "opened_ms": one.about.opened_ms if one.about else None,
            "duration_s": _seconds(one),
            "frames": one.summary.frames if one.summary else None,
            "mean_agreement": one.summary.mean_agreement if one.summary else None,
            "size_bytes": one.size_bytes,
            "starred": one.starred,
            "problem": one.problem or None,
        }
        for one in found
    ]


def _seconds(one: KeptRecording) -> float | None:
    return round((one.summary.last_window + 1) / FRAME_RATE_HZ, 3) if one.summary else None


def print_recordings(console: Console, found: Sequence[KeptRecording], library: Library) -> None:
    """Prints three lines for each recording: its question, its facts and its name."""
    if not found:
        advice = "`council keep SESSION` or `council up --record all` makes one."
        console.print(Text(f"There is no recording in {library.folder}: {advice}"), soft_wrap=True)
        return
    for one in found:
        star = "★ " if one.starred else ""
        if one.about is None or one.summary is None:
            console.print(Text(f"{star}{plain(one.problem)}", style="red"), soft_wrap=True)
        else:
            question = short(one.about.prompt or WITHOUT_TEXT, _QUESTION_CHARS)
            console.print(Text(f"{star}{question}", style="bold"), soft_wrap=True)
            opened = datetime.datetime.fromtimestamp(one.about.opened_ms / 1000).strftime("%Y-%m-%d %H:%M")
            agreement = one.summary.mean_agreement
            facts = [
                opened, f"{_seconds(one):.1f} s", plain(", ".join(one.about.names)), size_for_a_person(one.size_bytes),
                f"agreement {agreement:.2f} {sparkline(one.summary.agreement)}" if agreement is not None else "",
            ]  # fmt: skip
            console.print(Text("  " + " · ".join(filter(None, facts))), soft_wrap=True)
        # In full, so that it can be copied.
        console.print(Text(f"  {plain(one.name)}", style="dim"), soft_wrap=True)


def sparkline(values: Sequence[float | None]) -> str:
    """A line of blocks for values from 0 to 1; a space for values that were not measured."""
    size = max(1, -(-len(values) // _SPARK_CHARS))
    shown = [None if value is None else min(1.0, max(0.0, value)) for value in values]
    parts = [[value for value in shown[at : at + size] if value is not None] for at in range(0, len(shown), size)]
    means = [sum(part) / len(part) if part else None for part in parts]
    return "".join(" " if mean is None else _SPARKS[min(7, int(mean * 8))] for mean in means)


def delete_recording(library: Library, name: str, *, is_sure: bool) -> None:
    """Deletes a recording after confirmation. Raises Refused."""
    library.path(name)
    if not is_sure:
        if not sys.stdin.isatty():
            raise Refused("not_sure", f"{name!r} is not deleted without confirmation: use --yes.")
        print(f"council: Delete {name!r}? It cannot be recovered. [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return
    library.delete(name)


def import_recording(library: Library, file: Path) -> str:
    """Checks a recording and copies it into the library; returns its name there. Raises Refused, Malformed, Unavailable
    where it cannot be written."""
    check_importable(file)
    library.make()
    name = library.free_name(file.name)
    with part_of(library.folder / name, is_private=True) as part:
        shutil.copyfile(file, part)
    return name
