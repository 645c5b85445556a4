"""The `council` command: all groups of commands, and how they fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from council.command import (
    file_commands,
    model_commands,
    recording_commands,
    running_commands,
    session_commands,
    what_if_command,
)
from council.command.options import new_app
from council.running.up import say
from schemas.errors import CouncilError, Refused
from transport.redis.address import contains_secret

app = new_app(
    help="The Local Council: several language models on this machine answer one prompt, and you watch what happens "
    "between them.",
    no_args_is_help=True,
)
for group in (running_commands, session_commands, what_if_command, file_commands):
    app.add_typer(group.app)
app.add_typer(model_commands.app, name="models")
app.add_typer(recording_commands.app, name="recordings")


def run() -> None:
    """Runs the command. Each failure is one sentence and an exit code: 2 if it was refused, else 1."""
    try:
        _refuse_misplaced_url(sys.argv[1:])
        app()
    except Refused as error:
        say(str(error))
        sys.exit(2)
    except CouncilError as error:
        say(str(error))
        sys.exit(1)


def _refuse_misplaced_url(arguments: Sequence[str]) -> None:
    """Raises Refused for a Redis URL with a login in the place of another argument: an error would quote it."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, _, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        if contains_secret(value) and flag != "--redis-url":
            raise Refused(
                "misplaced_url",
                "A Redis URL is in the place of another argument: write it behind --redis-url, or set REDIS_URL, which "
                "other users of this machine cannot see.",
            )
