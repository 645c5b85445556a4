"""The `council` command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import uvloop
from rich.console import Console

from consumers.web.api.members import member_index
from consumers.web.door.access import require_token
from consumers.web.door.listening import bind, bind_from
from council.command import reports
from council.command.arguments import chat_to_answer, member_options, members, named_weights
from council.command.asking import ask as ask_council
from council.command.file_commands import register
from council.command.library_commands import register as register_recording
from council.command.model_report import models_report, print_models
from council.doctor.doctor import examine, is_fit, print_findings
from council.ensemble import TurboEnsemble
from council.models.catalogue import find_models
from council.models.membership import council_of
from council.models.store import MODELS
from council.recording.keep import RecordingOrder, require_new_file
from council.recording.plan import recording_plan
from council.running.meeting import require_council, running_council
from council.running.supervisor import CouncilPlan
from council.running.up import become_supervisor, say
from council.settings.schema import load_settings
from schemas.errors import CouncilError, Refused
from schemas.rules.admission import checked_sync, checked_weighting
from schemas.sessions import SessionRequest
from transport.redis.connection import AsyncPipe
from transport.redis.server_check import check_server
from transport.sessions import cancel_session, find_session, read_opening

app = typer.Typer(
    help="The Local Council: several language models on this machine answer one prompt, and you watch what happens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(rich_markup_mode=None)
app.add_typer(models_app, name="models")
register(app)

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
        help="Members, separated by commas: each a model, or NAME=MODEL:temperature=0,seed=7,max_tokens=100,"
        'system="…", so that one model can be several members; in a shell, put single quotes around all of it.'
    ),
]
AllowRemoteOption = Annotated[
    bool, typer.Option("--allow-remote", help="Prompts may go to a remote member (hybrid tier); else they stay here.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]


@app.command()
def up(
    tier: TierOption = None,
    models: ModelsOption = None,
    host: Annotated[str | None, typer.Option(help="Where the page listens; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The page's port; default 8145 or the next free one, 0 for any.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="What clients must know; needed on any host but loopback. Better as COUNCIL_TOKEN: a flag is "
            "in the list of processes."
        ),
    ] = None,
    redis_url: RedisOption = None,
    allow_remote: AllowRemoteOption = False,
    record: Annotated[
        str | None, typer.Option(help="Which sessions are recorded: off, asked (the default), or all.")
    ] = None,
    recordings: Annotated[
        str | None, typer.Option(help="The folder of the recordings; default: in your data folder.")
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Recordings contain numbers alone: no prompt, no answers.")
    ] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
    config: ConfigOption = None,
) -> None:
    """Run a council until Ctrl-C: a process for each model, an aggregator, DECIPHER and the page."""
    flags = {
        "tier": tier,
        "models": members(models),
        "host": host,
        "port": port,
        "token": token,
        "redis_url": redis_url,
        "record": record,
        "recordings": recordings,
        "record_text": False if no_text else None,
    }
    settings = load_settings(config, flags | ({"allow_remote": True} if allow_remote else {}))
    policy = settings.tier_policy
    council = council_of(settings, uvloop.run(find_models(settings)), policy)
    if settings.redis_url:
        check_server(settings.redis_url)
    listening = (bind if settings.is_port_chosen else bind_from)(settings.host, settings.port)
    require_token(listening, settings.token)
    plan = CouncilPlan(
        council.models, policy, settings.tier_policies, settings.limits, settings.redis_url,
        settings.ngram_tokens_per_s, is_warmed=True, host=settings.host, token=settings.token,
        origins=settings.origins, members=council.members, recording=recording_plan(settings, say),
    )  # fmt: skip
    for warning in council.warnings:
        say(warning)
    if settings.port not in (0, port := listening.getsockname()[1]):
        say(f"Port {settings.port} is in use; the page listens on port {port}.")
    if settings.redis_url is None and uvloop.run(running_council()):
        say("Another council of yours runs on this machine; from now on, commands without --redis-url use this one.")
    become_supervisor(plan, listening, _own_command(), opens_page=not no_open)


def _own_command() -> str:
    """How this command is called from here: it may not be on the PATH, nor a command at all (`python -m council`)."""
    if shutil.which("council"):
        return "council"
    if Path(sys.argv[0]).name != "__main__.py":
        return os.path.relpath(sys.argv[0])
    python = Path(sys.executable).name
    return f"{python if shutil.which(python) == sys.executable else os.path.relpath(sys.executable)} -m council"


@app.command()
def ask(
    prompt: Annotated[
        str | None, typer.Argument(help="What the council shall answer; - reads it from the standard input.")
    ] = None,
    models: ModelsOption = None,
    weights: Annotated[str | None, typer.Option(help="Confidence weights, as name=w,name=w.")] = None,
    weighting: Annotated[
        str, typer.Option(help="fixed; or certainty: each weight times how sure its member is just now.")
    ] = "fixed",
    sync: Annotated[
        str, typer.Option(help="step: text is shown as far as the slowest member has come; or free: as it comes.")
    ] = "step",
    tier: TierOption = None,
    system: Annotated[str, typer.Option(help="A system text for every member.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of each member, 1 to 8192.")] = 512,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same answers, where a server can do that.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 to 2.")] = 0.7,
    model_option: Annotated[
        list[str] | None,
        typer.Option(help="One member's own, as NAME:temperature=0.2,seed=7,max_tokens=100; may be given again."),
    ] = None,
    session_file: Annotated[
        Path | None, typer.Option(help="A chat as JSON messages; the prompt, if there is one, is its next turn.")
    ] = None,
    allow_remote: AllowRemoteOption = False,
    record: Annotated[Path | None, typer.Option("--record", help="Record the session into this new file.")] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Record numbers alone: no prompt, no answers.")] = False,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the council that runs on this machine, or a private one for this call."""
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
    settings = load_settings(config, {"redis_url": redis_url} | ({"allow_remote": True} if allow_remote else {}))
    if record is not None:
        require_new_file(record)
    recording = None if record is None else RecordingOrder(record, text=settings.record_text and not no_text)

    async def run() -> int:
        async with TurboEnsemble(tier, settings=settings) as ensemble:
            return await ask_council(ensemble, request, as_json=as_json or not sys.stdout.isatty(), record=recording)

    raise typer.Exit(uvloop.run(run()))


@app.command()
def stop(
    session: Annotated[str, typer.Argument(help="The session's id, as `council sessions` shows it.")],
    member: Annotated[
        str | None, typer.Option(help="Stop this one alone, by its index or its model's name; the others go on.")
    ] = None,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Stop a session, or one of its members; what they have said stays."""

    async def run(pipe: AsyncPipe) -> bool:
        if member is None:
            return await cancel_session(pipe, session)
        opening = await read_opening(pipe, await find_session(pipe, session))
        return await cancel_session(pipe, session, members=(member_index(member, opening),))

    stopped = _at_council(redis_url, config, run)
    who = f"Session {session}" if member is None else f"Member {member} of session {session}"
    say(f"{who} is stopped." if stopped else f"Session {session} had ended before.")


@app.command()
def sessions(as_json: JsonOption = False, redis_url: RedisOption = None, config: ConfigOption = None) -> None:
    """List the sessions that are kept."""
    found = _at_council(redis_url, config, reports.sessions_report)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        reports.print_sessions(Console(), found)


@app.command()
def status(as_json: JsonOption = False, redis_url: RedisOption = None, config: ConfigOption = None) -> None:
    """Show processes, open sessions, cursors and lag, and memory."""
    found = _at_council(redis_url, config, reports.status_report)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        reports.print_status(Console(), found)


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: JsonOption = False,
    tier: TierOption = None,
    config: ConfigOption = None,
) -> None:
    """List what every model server on hand offers, and the models that need none."""
    if context.invoked_subcommand:
        return
    settings = load_settings(config, {"tier": tier})
    found = uvloop.run(find_models(settings))
    if as_json:
        print(msgspec.json.encode(models_report(found)).decode())
    else:
        for trouble in found.troubles:
            say(trouble)
        print_models(Console(), found, settings.tier_policy)


@models_app.command()
def get(name: Annotated[str, typer.Argument(help=f"One of: {', '.join(MODELS)}.")]) -> None:
    """Fetch a model into your cache folder, where it is not there yet."""
    from council.command.model_get import get_model  # only here: no other command needs it

    get_model(name, say)


@app.command()
def doctor(as_json: JsonOption = False, tier: TierOption = None, config: ConfigOption = None) -> None:
    """Look for what a council needs: what is there, what is missing, and what to do."""
    settings = load_settings(config, {"tier": tier})
    findings = uvloop.run(examine(settings))
    if as_json:
        print(msgspec.json.encode(findings).decode())
    else:
        print_findings(Console(), findings)
    raise typer.Exit(0 if is_fit(findings) else 1)


register_recording(app)


def _at_council(redis_url: str | None, config: Path | None, work: Callable[[AsyncPipe], Coroutine[Any, Any, T]]) -> T:
    """Does the work at the council that runs. Raises Refused where there is none."""
    settings = load_settings(config, {"redis_url": redis_url})

    async def run() -> T:
        pipe = AsyncPipe(await require_council(settings.redis_url))
        try:
            return await work(pipe)
        finally:
            await pipe.close()

    return uvloop.run(run())


def run() -> None:
    """Runs the command: every failure is one sentence and an exit code (2: refused, 1: failed)."""
    try:
        app()
    except Refused as error:
        say(str(error))
        sys.exit(2)
    except CouncilError as error:
        say(str(error))
        sys.exit(1)
