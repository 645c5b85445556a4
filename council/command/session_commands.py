"""Commands for sessions: asking, listing, stopping, recording and replaying one."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from consumers.web.api.members import member_index
from council.command import reports
from council.command.arguments import chat_to_answer, member_options, members, named_weights
from council.command.asking import ask as ask_council
from council.command.library_report import recording_path
from council.command.options import (
    AllowRemoteOption,
    ConfigOption,
    FolderOption,
    JsonOption,
    ModelsOption,
    NoTextOption,
    RedisOption,
    SessionArgument,
    TierOption,
    at_council,
    new_app,
    show,
)
from council.command.replaying import ReplayOrder, parse_rate, parse_seconds, replay_file
from council.ensemble import TurboEnsemble
from council.recording.keep import RecordingOrder, library_path, record_into, require_new_file, size_for_a_person
from council.running.up import say
from council.settings.schema import load_settings
from schemas.rules.admission import checked_sync, checked_weighting
from schemas.sessions import SessionRequest
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session, find_session, read_opening

app = new_app()


@app.command()
def ask(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="The question to the council; - reads it from standard input.")
    ] = None,
    models: ModelsOption = None,
    weights: Annotated[str | None, typer.Option(help="The members' weights, as NAME=NUMBER,NAME=NUMBER.")] = None,
    weighting: Annotated[
        str, typer.Option(help="fixed; or certainty: each weight is multiplied by its member's present certainty.")
    ] = "fixed",
    sync: Annotated[
        str,
        typer.Option(
            help="step: show text as far as the slowest member has written; free: as it arrives; consensus: the "
            "members write one answer together, which alone is written to standard output."
        ),
    ] = "step",
    tier: TierOption = None,
    system: Annotated[str, typer.Option(help="A system text for every member.")] = "",
    max_tokens: Annotated[int, typer.Option(help="The most tokens of each member, 1 to 8192.")] = 512,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same answers, if the model's server supports it.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 to 2.")] = 0.7,
    model_option: Annotated[
        list[str] | None,
        typer.Option(help="Options of one member: NAME:temperature=0.2,seed=7,max_tokens=100. May be repeated."),
    ] = None,
    session_file: Annotated[
        Path | None, typer.Option(help="A chat as a JSON list of messages; a prompt is added as its next turn.")
    ] = None,
    allow_remote: AllowRemoteOption = False,
    record: Annotated[Path | None, typer.Option("--record", help="Record the session into this new file.")] = None,
    no_text: NoTextOption = False,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the council on this machine.

    Where none runs, a private one is started for this call.
    """
    chat = chat_to_answer(prompt, session_file, system)
    request = SessionRequest(
        prompt=chat.prompt,
        models=tuple(members(models) or ()),
        weights=named_weights(weights),
        weighting=checked_weighting(weighting),
        sync=checked_sync(sync),
        system=chat.system,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        history=chat.history,
        options=member_options(model_option or []),
        allow_remote=allow_remote,
    )
    # By the name of the source: typer has its own copy of click, whose types it does not export.
    given = [name for name in context.params if "COMMANDLINE" in str(context.get_parameter_source(name))]
    settings = load_settings(config, {"redis_url": redis_url, "allow_remote": allow_remote or None})
    if record is not None:
        require_new_file(record)
    recording = None if record is None else RecordingOrder(record, text=settings.record_text and not no_text)

    async def run() -> int:
        async with TurboEnsemble(tier, settings=settings) as ensemble:
            opening = asyncio.create_task(ensemble.open(request, given))
            return await ask_council(ensemble, opening, as_json=as_json, record=recording)

    raise typer.Exit(uvloop.run(run()))


@app.command()
def stop(
    session: SessionArgument,
    member: Annotated[
        str | None, typer.Option(help="Stop only this member, given by its index or name; the others continue.")
    ] = None,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Stop a session, or one of its members.

    The text that they have written stays.
    """

    async def run(pipe: AsyncPipe) -> bool:
        if member is None:
            return await cancel_session(pipe, session)
        opening = await read_opening(pipe, await find_session(pipe, session))
        return await cancel_session(pipe, session, members=(member_index(member, opening),))

    is_stopped = at_council(redis_url, config, run)
    stopped = f"Session {session}" if member is None else f"Member {member} of session {session}"
    say(f"{stopped} is stopped." if is_stopped else f"Session {session} had ended before.")


@app.command()
def sessions(as_json: JsonOption = False, redis_url: RedisOption = None, config: ConfigOption = None) -> None:
    """List the sessions that Redis has."""
    found = at_council(redis_url, config, reports.sessions_report)
    show(found, lambda: reports.print_sessions(Console(), found), as_json=as_json)


@app.command()
def keep(
    session: SessionArgument,
    file: Annotated[Path | None, typer.Argument(help="A new file; default: in the library.")] = None,
    no_text: NoTextOption = False,
    recordings: FolderOption = None,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Record a session that Redis has into a file.

    A running session is recorded until it ends.
    """
    settings = load_settings(config, {"redis_url": redis_url, "recordings": recordings})
    text = settings.record_text and not no_text
    if file is not None:
        require_new_file(file)

    async def run(pipe: AsyncPipe) -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        path = file or await library_path(pipe, session, settings, text=text)
        if (await find_session(pipe, session)).status == "open":
            say("The session is running: it is recorded until it ends. Ctrl-C ends the recording and keeps it.")
        summary = await record_into(pipe, session, path, text=text, stopping=stopping)
        say(f"Recorded {summary.frames} frames into {path} ({size_for_a_person(path.stat().st_size)}).")

    at_council(redis_url, config, run)


@app.command()
def replay(
    file: Annotated[str, typer.Argument(help="A recording: a file, or its name or session in the library.")],
    rate: Annotated[str, typer.Option(help="0.25 to 64 times the recorded pace; or max: as fast as possible.")] = "1",
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end, until Ctrl-C.")] = False,
    from_s: Annotated[str | None, typer.Option("--from", help="Start this many seconds after the opening.")] = None,
    to_s: Annotated[str | None, typer.Option("--to", help="End this many seconds after the opening.")] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Start paused.")] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Show the recorded frames; do not compute them again.")
    ] = False,
    recordings: FolderOption = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Replay a recording as a session.

    Every frontend can show it. Keys: space pauses; left and right seek by 5 s, or by a window while paused; up and down
    change the rate; a digit seeks to that tenth of the session.
    """
    settings = load_settings(config, {"redis_url": redis_url, "recordings": recordings})
    order = ReplayOrder(
        recording_path(file, settings), parse_rate(rate), parse_seconds("--from", from_s),
        None if to_s is None else parse_seconds("--to", to_s), pause, frames, loop,
    )  # fmt: skip

    async def run() -> int:
        async with TurboEnsemble(settings=settings) as ensemble:
            return await replay_file(ensemble, order, as_json=as_json or not sys.stdout.isatty())

    raise typer.Exit(uvloop.run(run()))
