"""The `council` command: all groups of commands, and how they fail."""

from __future__ import annotations

import sys

from council.command import (
    file_commands,
    model_commands,
    recording_commands,
    running_commands,
    session_commands,
)
from council.command.options import new_app
from council.running.up import say
from schemas.errors import CouncilError, Refused

app = new_app(
    help="The Local Council: several language models on this machine answer one prompt, and you watch what happens "
    "between them.",
    no_args_is_help=True,
)
for group in (running_commands, session_commands, file_commands):
    app.add_typer(group.app)
app.add_typer(model_commands.app, name="models")
app.add_typer(recording_commands.app, name="recordings")


def run() -> None:
    """Runs the command. Each failure is one sentence and an exit code: 2 if it was refused, else 1."""
    try:
        app()
    except Refused as error:
        say(str(error))
        sys.exit(2)
    except CouncilError as error:
        say(str(error))
        sys.exit(1)
