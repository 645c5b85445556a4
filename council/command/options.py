"""The flags and arguments that several commands share, and the connection to the council that they name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import uvloop

from council.running.meeting import require_council
from council.settings.schema import load_settings
from transport.redis.connection import AsyncPipe

T = TypeVar("T")

RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="The council's Redis; default: the one on this machine.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A settings file; default: council.toml or council.yaml here.")
]
TierOption = Annotated[str | None, typer.Option(help="low, mid, high or hybrid; default: by this machine's memory.")]
ModelsOption = Annotated[
    str | None,
    typer.Option(
        help="Members, separated by commas: MODEL, or NAME=MODEL:OPTION=VALUE,… with the options temperature, seed, "
        "max_tokens and system. One model can be several members. In a shell, put all of it in single quotes."
    ),
]
AllowRemoteOption = Annotated[
    bool, typer.Option("--allow-remote", help="Allow prompts to go to a remote member (hybrid tier).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
FolderOption = Annotated[
    str | None, typer.Option("--recordings", help="The folder of the recordings; default: in your data folder.")
]
NoTextOption = Annotated[
    bool, typer.Option("--no-text", help="Record numbers only: without the prompt and the answers.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's id, as `council sessions` shows it.")]


def new_app(**options: Any) -> typer.Typer:
    """A group of commands. Their help is plain text, and their errors are left to the caller."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False, **options)


def show(value: Any, print_text: Callable[[], None], *, as_json: bool) -> None:
    """Writes the value as JSON, or calls `print_text`."""
    if as_json:
        print(msgspec.json.encode(value).decode())
    else:
        print_text()


def at_council(redis_url: str | None, config: Path | None, work: Callable[[AsyncPipe], Coroutine[Any, Any, T]]) -> T:
    """What `work` returns, with a connection to the council that runs. Raises Refused where none runs."""
    settings = load_settings(config, {"redis_url": redis_url})

    async def run() -> T:
        pipe = AsyncPipe(await require_council(settings.redis_url))
        try:
            return await work(pipe)
        finally:
            await pipe.close()

    return uvloop.run(run())
