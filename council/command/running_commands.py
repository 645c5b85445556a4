"""Commands for a whole council: starting one, looking at the one that runs, and checking the machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from consumers.web.door.access import require_token
from consumers.web.door.listening import bind, bind_from
from consumers.web.door.origins import NULL
from council.command import reports
from council.command.arguments import members
from council.command.options import (
    AllowRemoteOption,
    ConfigOption,
    FolderOption,
    JsonOption,
    ModelsOption,
    NoTextOption,
    RedisOption,
    TierOption,
    at_council,
    new_app,
    show,
)
from council.doctor.doctor import examine, is_fit, print_findings
from council.models.catalogue import find_models
from council.models.membership import council_of
from council.recording.plan import recording_plan
from council.running.meeting import running_council
from council.running.supervisor import CouncilPlan
from council.running.up import become_supervisor, say
from council.settings.own_address import Listening
from council.settings.schema import load_settings
from schemas.errors import Refused
from transport.redis.server_check import check_server
from transport.rights import RECORDER_RIGHTS, check_rights

app = new_app()


@app.command()
def up(
    tier: TierOption = None,
    models: ModelsOption = None,
    host: Annotated[str | None, typer.Option(help="The page's address; default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The page's port; default: 8145 or the next free one; 0 for any free one.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="The secret that clients must send; required on any host but loopback. Better set COUNCIL_TOKEN: "
            "other users can see flags in the list of processes."
        ),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", help="A Redis that runs; default: a private one is started.")
    ] = None,
    allow_remote: AllowRemoteOption = False,
    record: Annotated[str | None, typer.Option(help="The sessions to record: off, asked (default) or all.")] = None,
    recordings: FolderOption = None,
    no_text: NoTextOption = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
    config: ConfigOption = None,
) -> None:
    """Run a council until Ctrl-C.

    It has a process for each model, and one each for the aggregator, DECIPHER, the recordings and the page.
    """
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
        "allow_remote": allow_remote or None,
    }
    settings = load_settings(config, flags)
    policy = settings.tier_policy
    # Before the servers are asked: one of them may be at this address.
    listening = (bind if settings.is_port_chosen else bind_from)(settings.host, settings.port)
    own = Listening(settings.host, listening.getsockname()[1])
    council = council_of(settings, uvloop.run(find_models(settings, own=own)), policy)
    if settings.redis_url:
        check_rights(settings.redis_url, () if settings.record == "off" else RECORDER_RIGHTS)
        check_server(settings.redis_url)
    require_token(listening, settings.token)
    plan = CouncilPlan(
        council.models, policy, settings.tier_policies, settings.limits, settings.redis_url,
        settings.ngram_tokens_per_s, settings.drain_s, is_warmed=True, host=settings.host, token=settings.token,
        origins=settings.origins, members=council.members, councils=council.councils,
        recording=recording_plan(settings, say),
    )  # fmt: skip
    for warning in council.warnings:
        say(warning)
    if NULL in settings.origins and settings.token is None:
        say(
            'origins contains "null" and there is no token: every web page that you open can use this council from a '
            "sandboxed frame; set a token."
        )
    if settings.port not in (0, port := listening.getsockname()[1]):
        say(f"Port {settings.port} is in use; the page listens on port {port}.")
    if settings.redis_url is None and uvloop.run(running_council()):
        say("Another council of yours runs on this machine; commands without --redis-url now use this one.")
    become_supervisor(plan, listening, _own_command(), opens_page=not no_open)


def _own_command() -> str:
    """How a person can call this command here: it may not be on PATH, or be `python -m council`."""
    if shutil.which("council"):
        return "council"
    if Path(sys.argv[0]).name != "__main__.py":
        return os.path.relpath(sys.argv[0])
    python = Path(sys.executable).name
    return f"{python if shutil.which(python) == sys.executable else os.path.relpath(sys.executable)} -m council"


@app.command()
def status(as_json: JsonOption = False, redis_url: RedisOption = None, config: ConfigOption = None) -> None:
    """Show the processes, the open sessions and the memory."""
    found = at_council(redis_url, config, reports.status_report)
    show(found, lambda: reports.print_status(Console(), found), as_json=as_json)


@app.command()
def doctor(as_json: JsonOption = False, tier: TierOption = None, config: ConfigOption = None) -> None:
    """Check what a council needs on this machine.

    The exit code is 1 if something that is needed is missing.
    """
    settings = load_settings(config, {"tier": tier})
    findings = uvloop.run(examine(settings))
    show(findings, lambda: print_findings(Console(), findings), as_json=as_json)
    raise typer.Exit(0 if is_fit(findings) else 1)


@app.command()
def check(
    server: Annotated[str, typer.Argument(help="A server of the settings, by name, `ollama`, or a URL.")],
    model: Annotated[str | None, typer.Option(help="The model to ask; default: the first one.")] = None,
    api: Annotated[str | None, typer.Option(help="For a URL: openai or ollama; default: by the URL.")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="For a URL: the environment variable that contains the API key.")
    ] = None,
    as_json: JsonOption = False,
    allow_remote: AllowRemoteOption = False,
    config: ConfigOption = None,
) -> None:
    """Send a model server one real request of two tokens, and show what comes back.

    The exit code is 1 if the server gives no answer.
    """
    from council.command.trial_report import print_trial
    from council.doctor.server_trial import server_named, try_server

    if api not in (None, "openai", "ollama"):
        raise Refused("bad_api", f"--api is {api!r}: give openai or ollama.")
    settings = load_settings(config, {"allow_remote": allow_remote or None})
    name, found = server_named(server, settings, api, key_env)
    trial = uvloop.run(try_server(name, found, settings, model))
    show(trial, lambda: print_trial(Console(), trial), as_json=as_json)
    raise typer.Exit(1 if trial.failure else 0)
