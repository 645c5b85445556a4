"""Commands for recordings as files: verifying, comparing, recovering and exporting them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from council.command.options import ForceOption, JsonOption, new_app
from recordings.plain import plain, shown_value
from schemas.errors import Unavailable

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A recording: a file, or its name or session in the library.")
]
app = new_app()


def path_of(name: str) -> Path:
    """The path of this file, or of the recording of this name in the library."""
    path = Path(name)
    if os.path.lexists(path) or path.name != name:
        return path
    from council.command.library_report import recording_path
    from council.settings.schema import load_settings

    return recording_path(name, load_settings(None, {}))


@app.command()
def verify(
    file: FileArgument,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="The largest difference of measured numbers that counts as equal (other machines)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute all frames of a recording again, and compare.

    The exit code is 1 if a frame differs.
    """
    from council.command.progress import progress_of
    from council.command.verify_report import verify_lines
    from council.recording.verify import verified

    path = path_of(file)
    with _failures(), progress_of(path, "verifying") as progress:
        verdict = verified(path, tolerance, progress)
    _show(msgspec.to_builtins(verdict), verify_lines(verdict, path), as_json=as_json)
    raise typer.Exit(0 if verdict.is_right else 1)


@app.command()
def inspect(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show what a recording contains."""
    from council.command.progress import progress_of
    from council.recording.inspect import inspect_lines, inspected

    path = path_of(file)
    with _failures(), progress_of(path, "reading") as progress:
        found = inspected(path, progress)
    _show({"file": plain(str(path)), **found}, inspect_lines(found, path), as_json=as_json)


@app.command()
def diff(one: FileArgument, other: FileArgument, as_json: JsonOption = False) -> None:
    """Find the first difference between two recordings.

    The exit code is 1 if they differ.
    """
    from recordings.difference import first_frame_difference, opening_differences
    from recordings.reading import RecordingReader

    left, right = path_of(one), path_of(other)
    with _failures():
        with RecordingReader(left) as mine, RecordingReader(right) as theirs:
            opening = opening_differences(mine.about, theirs.about)
            is_without_text = mine.about.text != theirs.about.text
        first = first_frame_difference(left, right)
    lines = [f"opening, {found.field}: {shown_value(found.one)} and {shown_value(found.other)}" for found in opening]
    if first:
        lines.append(f"window {first.window}, {first.field}: {shown_value(first.one)} and {shown_value(first.other)}")
    else:
        lines.append("All frames are equal." if opening else "The recordings are equal.")
    if is_without_text:
        lines.append("One of the two was recorded without text; texts were not compared.")
    shown = {"same": not (opening or first), "opening": opening, "first": first, "text_compared": not is_without_text}
    _show(msgspec.to_builtins(shown), lines, as_json=as_json)
    raise typer.Exit(1 if opening or first else 0)


@app.command()
def recover(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--output", "-o", help="The new file.")],
) -> None:
    """Save the undamaged part of a recording as a new one.

    The new recording is verified.
    """
    from council.command.progress import progress_of
    from council.recording.recover import recover_lines, recovered

    path = path_of(file)
    with _failures(), progress_of(path, "recovering") as progress:
        result = recovered(path, out, progress)
    _show(None, recover_lines(result, path, out), as_json=False)


@app.command()
def export(
    file: FileArgument,
    format_name: Annotated[str, typer.Option("--format", help="jsonl, csv, parquet or otlp.")],
    what: Annotated[str, typer.Option(help="tokens or frames.")] = "tokens",
    out: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: standard output.")] = None,
    force: ForceOption = False,
) -> None:
    """Write a recording's tokens or frames for other tools."""
    from council.command.progress import progress_of
    from council.recording.export import checked
    from council.recording.export import export as exported

    path = path_of(file)
    with _failures():
        checked(format_name, what, out)
        with progress_of(path, "exporting") if out else contextlib.nullcontext() as progress:
            exported(path, format_name, what, out, force=force, progress=progress)


@app.command()
def plot(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--output", "-o", help="The picture: a file whose name ends in .png or .svg.")],
    force: ForceOption = False,
) -> None:
    """Draw a recording's numbers over time.

    They are the energies, diversity, divergence and interference.
    """
    from council.command.progress import progress_of
    from council.recording.plot import plotted

    path = path_of(file)
    with _failures(), progress_of(path, "reading") as progress:
        plotted(path, out, force=force, progress=progress)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """An error of the system becomes Unavailable. Where the reader of the output has gone, the command ends without an
    error."""
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
            # Names and texts in a file may contain control characters, which the terminal would obey.
            print("\n".join(map(plain, lines)))
        sys.stdout.flush()


def _leave_quietly() -> None:
    """Ends the command without a message. Python's last flush of standard output goes to /dev/null, and cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)
