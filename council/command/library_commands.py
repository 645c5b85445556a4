"""Commands about recordings that need a council: keeping a session, the library, replaying a recording."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop
from rich.console import Console

from council.command.library_report import (
    delete_recording,
    import_recording,
    library_of,
    print_recordings,
    recording_path,
    recordings_report,
)
from council.command.replaying import ReplayOrder, parse_rate, parse_seconds, replay_file
from council.ensemble import TurboEnsemble
from council.recording.keep import record_into, require_new_file, size_for_a_person
from council.running.meeting import require_council
from council.running.up import say
from council.settings.schema import Settings, load_settings
from recordings.folder import recording_name
from schemas.errors import Refused
from schemas.keys import entry_ms
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, read_opening

RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="The council's Redis; default: the one on this machine.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A settings file; default: council.toml or council.yaml here.")
]
FolderOption = Annotated[
    str | None, typer.Option("--recordings", help="The folder of the recordings; default: in your data folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
NameArgument = Annotated[str, typer.Argument(help="A recording's name, as `council recordings` shows it.")]
_library = typer.Typer(rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(keep)
    app.command()(replay)
    app.add_typer(_library, name="recordings")


def keep(
    session: Annotated[str, typer.Argument(help="The session's id, as `council sessions` shows it.")],
    file: Annotated[Path | None, typer.Argument(help="A new file; default: in the library.")] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Record numbers alone: no prompt, no answers.")] = False,
    recordings: FolderOption = None,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Record a session that Redis still keeps, from its beginning; one that runs, to its end."""
    settings = load_settings(config, {"redis_url": redis_url, "recordings": recordings})
    text = settings.record_text and not no_text
    if file is not None:
        require_new_file(file)

    async def run() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        pipe = AsyncPipe(await require_council(settings.redis_url))
        try:
            path = file or await _library_path(pipe, session, settings, text=text)
            if (await find_session(pipe, session)).status == "open":
                say("The session is running: it is recorded until it ends. Ctrl-C keeps what there is until then.")
            summary = await record_into(pipe, session, path, text=text, stopping=stopping)
            say(f"Recorded {summary.frames} frames into {path} ({size_for_a_person(path.stat().st_size)}).")
        finally:
            await pipe.close()

    uvloop.run(run())


async def _library_path(pipe: AsyncPipe, session: str, settings: Settings, *, text: bool) -> Path:
    library = library_of(settings)
    library.make()
    state = await find_session(pipe, session)
    opening = await read_opening(pipe, state)
    if state.clock_ms is not None:
        raise Refused("is_replay", f"The session {session!r} is a replay: its recording is there already.")
    return library.folder / recording_name(session, opening.prompt if text else "", entry_ms(state.opened))


def replay(
    file: Annotated[str, typer.Argument(help="A recording: a file, or a name of the library.")],
    rate: Annotated[str, typer.Option(help="0.25 to 64 times the recorded pace, or max: as fast as possible.")] = "1",
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until Ctrl-C.")] = False,
    from_s: Annotated[str | None, typer.Option("--from", help="Begin so many seconds after the opening.")] = None,
    to_s: Annotated[str | None, typer.Option("--to", help="End so many seconds after the opening.")] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Begin paused.")] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Show the recorded frames as they are, without computing them again.")
    ] = False,
    recordings: FolderOption = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Replay a recording as a session, for every frontend. Space pauses; arrows seek, and step while it is paused;
    up and down change the rate; digits go to a tenth of the session."""
    settings = load_settings(config, {"redis_url": redis_url, "recordings": recordings})
    order = ReplayOrder(
        recording_path(file, settings), parse_rate(rate), parse_seconds("--from", from_s),
        None if to_s is None else parse_seconds("--to", to_s), pause, frames, loop,
    )  # fmt: skip

    async def run() -> int:
        async with TurboEnsemble(settings=settings) as ensemble:
            return await replay_file(ensemble, order, as_json=as_json or not sys.stdout.isatty())

    raise typer.Exit(uvloop.run(run()))


@_library.callback(invoke_without_command=True)
def recordings(
    context: typer.Context,
    words: Annotated[str, typer.Option(help="Only those with these words in question, members or name.")] = "",
    recordings: FolderOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the recordings in the library, the newest first."""
    settings = load_settings(config, {"recordings": recordings})
    context.obj = settings
    if context.invoked_subcommand:
        return
    found = [one for one in library_of(settings).listed() if one.matches(words)]
    if as_json:
        print(msgspec.json.encode(recordings_report(found)).decode())
    else:
        print_recordings(Console(), found, library_of(settings))


@_library.command()
def star(context: typer.Context, name: NameArgument) -> None:
    """Keep a recording, however full the library becomes."""
    library_of(context.obj).star(name, is_starred=True)


@_library.command()
def unstar(context: typer.Context, name: NameArgument) -> None:
    """Take the star away."""
    library_of(context.obj).star(name, is_starred=False)


@_library.command()
def delete(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a recording, once you have said yes."""
    delete_recording(library_of(context.obj), name, is_sure=yes)


@_library.command(name="import")
def import_file(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="A recording to copy into the library.")]
) -> None:
    """Copy a recording into the library, once it is known to be whole."""
    say(f"Imported as {import_recording(library_of(context.obj), file)}.")


@_library.command()
def path(context: typer.Context, name: NameArgument) -> None:
    """Print where a recording is."""
    print(library_of(context.obj).path(name))
