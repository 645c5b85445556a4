"""`council recordings`: the library of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from council.command.library_report import (
    delete_recording,
    import_recording,
    print_recordings,
    recordings_report,
)
from council.command.options import ConfigOption, FolderOption, JsonOption, new_app, show
from council.recording.keep import library_of
from council.running.up import say
from council.settings.schema import load_settings

NameArgument = Annotated[str, typer.Argument(help="The recording's name, as `council recordings` shows it.")]

app = new_app()


@app.callback(invoke_without_command=True)
def recordings(
    context: typer.Context,
    words: Annotated[str, typer.Option(help="Only recordings with these words in question, members or name.")] = "",
    recordings: FolderOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the recordings in the library, newest first."""
    settings = load_settings(config, {"recordings": recordings})
    context.obj = settings
    if context.invoked_subcommand:
        return
    found = [one for one in library_of(settings).listed() if one.matches(words)]
    show(recordings_report(found), lambda: print_recordings(Console(), found, library_of(settings)), as_json=as_json)


@app.command()
def star(context: typer.Context, name: NameArgument) -> None:
    """Protect a recording from deletion when the library is full."""
    library_of(context.obj).star(name, is_starred=True)


@app.command()
def unstar(context: typer.Context, name: NameArgument) -> None:
    """Remove the star from a recording."""
    library_of(context.obj).star(name, is_starred=False)


@app.command()
def delete(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a recording, after confirmation."""
    delete_recording(library_of(context.obj), name, is_sure=yes)


@app.command(name="import")
def import_file(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="The recording to copy into the library.")]
) -> None:
    """Check a recording and copy it into the library."""
    say(f"Imported as {import_recording(library_of(context.obj), file)}.")


@app.command()
def path(context: typer.Context, name: NameArgument) -> None:
    """Print the path of a recording."""
    print(library_of(context.obj).path(name))
