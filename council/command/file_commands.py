"""The commands that work on recordings, as typer has them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from recordings.plain import plain, shown_value
from schemas.errors import Unavailable

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A recording: a file, or its name or session in the library.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    for command in (verify, inspect, diff, recover, export, plot):
        app.command()(command)


def path_of(name: str) -> Path:
    """The file of this path, or the recording of this name in the library."""
    path = Path(name)
    if os.path.lexists(path) or path.name != name:
        return path
    from council.command.library_report import recording_path
    from council.settings.schema import load_settings

    return recording_path(name, load_settings(None, {}))


def verify(
    file: FileArgument,
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="What measured numbers may differ by, for a file of another machine.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute every frame of a recording again from its entries, and compare."""
    from council.command.progress import progress_of
    from council.command.verify_report import verify_lines
    from council.recording.verify import verified

    path = path_of(file)
    with _failures(), progress_of(path, "verifying") as progress:
        verdict = verified(path, tolerance, progress)
    _show(msgspec.to_builtins(verdict), verify_lines(verdict, path), as_json=as_json)
    raise typer.Exit(0 if verdict.is_right else 1)


def inspect(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show what a recording contains."""
    from council.command.progress import progress_of
    from council.recording.inspect import inspected, told

    path = path_of(file)
    with _failures(), progress_of(path, "reading") as progress:
        found = inspected(path, progress)
    _show({"file": plain(str(path)), **found}, told(found, path), as_json=as_json)


def diff(one: FileArgument, other: FileArgument, as_json: JsonOption = False) -> None:
    """Find the first window and field in which two recordings differ."""
    from recordings.difference import first_frame_difference, opening_differences
    from recordings.reading import RecordingReader

    left, right = path_of(one), path_of(other)
    with _failures():
        with RecordingReader(left) as mine, RecordingReader(right) as theirs:
            opening = opening_differences(mine.about, theirs.about)
            is_silent = mine.about.text != theirs.about.text
        first = first_frame_difference(left, right)
    lines = [f"opening, {found.field}: {shown_value(found.one)} and {shown_value(found.other)}" for found in opening]
    if first:
        lines.append(f"window {first.window}, {first.field}: {shown_value(first.one)} and {shown_value(first.other)}")
    else:
        lines.append("Every frame is the same." if opening else "The recordings are the same.")
    if is_silent:
        lines.append("One of the two was recorded without text: texts are not compared.")
    shown = {"same": not (opening or first), "opening": opening, "first": first, "text_compared": not is_silent}
    _show(msgspec.to_builtins(shown), lines, as_json=as_json)
    raise typer.Exit(1 if opening or first else 0)


def recover(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--output", "-o", help="The new file.")],
) -> None:
    """Make a sound recording of what is sound in a cut or damaged one, and verify it."""
    from council.command.progress import progress_of
    from council.recording.recover import recovered, told

    path = path_of(file)
    with _failures(), progress_of(path, "recovering") as progress:
        result = recovered(path, out, progress)
    _show(None, told(result, path, out), as_json=False)


def export(
    file: FileArgument,
    format_name: Annotated[str, typer.Option("--format", help="jsonl, csv, parquet or otlp.")],
    what: Annotated[str, typer.Option(help="tokens or frames.")] = "tokens",
    out: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: the standard output.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it is there.")] = False,
) -> None:
    """Write the tokens or the frames of a recording for other tools."""
    from council.command.progress import progress_of
    from council.recording.export import checked
    from council.recording.export import export as exported

    path = path_of(file)
    with _failures():
        checked(format_name, what, out)
        with progress_of(path, "exporting") if out else contextlib.nullcontext() as progress:
            exported(path, format_name, what, out, force=force, progress=progress)


def plot(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--output", "-o", help="The picture: a file that ends in .png or .svg.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it is there.")] = False,
) -> None:
    """Draw energies, diversity, divergence and interference of a recording over time."""
    from council.command.progress import progress_of
    from council.recording.plot import plotted

    path = path_of(file)
    with _failures(), progress_of(path, "reading") as progress:
        plotted(path, out, force=force, progress=progress)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What the system refuses is said in a sentence; a reader of the output that has gone is no failure."""
    try:
        yield
    except BrokenPipeError:
        _leave_quietly()
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise Unavailable(f"The system reports: {error.strerror or error}{where}.") from None


def _show(value: Any, lines: list[str], *, as_json: bool) -> None:
    with _failures():
        if as_json:
            text = msgspec.json.encode(value).decode()
            print(plain(text) if sys.stdout.isatty() else text)
        else:
            # Names and texts in a file must not steer the terminal.
            print("\n".join(map(plain, lines)))
        sys.stdout.flush()


def _leave_quietly() -> None:
    """Ends the command without a word: standard output leads nowhere from here on, so that Python's last flush of it
    does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)
