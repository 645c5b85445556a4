"""`council what-if`: a branch of a session or of a recording, shown as `council ask` shows one, and its effect."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from council.command.arguments import members, named_weights
from council.command.asking import EXIT_CANCELLED, ask, close_quietly
from council.command.library_report import recording_path
from council.command.options import (
    AllowRemoteOption,
    ConfigOption,
    FolderOption,
    JsonOption,
    ModelsOption,
    NoTextOption,
    RedisOption,
    TierOption,
    new_app,
)
from council.ensemble import TurboEnsemble
from council.ensemble_session import EnsembleSession
from council.recording.keep import RecordingOrder, require_new_file
from council.settings.schema import Settings, load_settings
from recordings.contents import SUFFIX
from recordings.plain import plain
from schemas.errors import Refused, SessionGone
from schemas.rules.admission import checked_sync
from schemas.rules.arguments import RequestChanges
from schemas.rules.effect import Effect

app = new_app()


@app.command(name="what-if")
def what_if(
    session: Annotated[
        str, typer.Argument(help="A session's id, or a recording: a file, or its name or session in the library.")
    ],
    say: Annotated[str, typer.Option(help="The text to put there.")],
    at: Annotated[int | None, typer.Option(help="A byte of the answer; the text before it stays as it is.")] = None,
    word: Annotated[
        int | None, typer.Option(help="The number of a word of the answer, from 1; the text is put in its place.")
    ] = None,
    member: Annotated[
        str | None,
        typer.Option(help="The answer's member, by index or name; default: the first whose answer has that place."),
    ] = None,
    models: ModelsOption = None,
    weights: Annotated[str | None, typer.Option(help="The members' weights, as NAME=NUMBER,NAME=NUMBER.")] = None,
    sync: Annotated[str | None, typer.Option(help="As of ask; default: as in the session.")] = None,
    tier: TierOption = None,
    max_tokens: Annotated[int | None, typer.Option(help="Default: as in the session.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: as in the session.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default: as in the session.")] = None,
    allow_remote: AllowRemoteOption = False,
    record: Annotated[Path | None, typer.Option("--record", help="Record the branch into this new file.")] = None,
    no_text: NoTextOption = False,
    recordings: FolderOption = None,
    as_json: JsonOption = False,
    redis_url: RedisOption = None,
    config: ConfigOption = None,
) -> None:
    """Put another word into an answer, and let all members continue from there.

    The session stays as it is. At the end the effect is shown: how far it reaches in each answer.
    """
    settings = load_settings(
        config, {"redis_url": redis_url, "recordings": recordings, "allow_remote": allow_remote or None}
    )
    changes: RequestChanges = {"allow_remote": allow_remote}
    if models is not None:
        changes["models"] = members(models) or ()
    if weights is not None:
        changes["weights"] = named_weights(weights)
    if sync is not None:
        changes["sync"] = checked_sync(sync)
    if max_tokens is not None:
        changes["max_tokens"] = max_tokens
    if seed is not None:
        changes["seed"] = seed
    if temperature is not None:
        changes["temperature"] = temperature
    if record is not None:
        require_new_file(record)
    recording = None if record is None else RecordingOrder(record, text=settings.record_text and not no_text)

    async def run() -> int:
        async with TurboEnsemble(tier, settings=settings) as ensemble:
            put = functools.partial(ensemble.what_if, say=say, at=at, word=word, member=member, **changes)
            opening = asyncio.create_task(_opened(put, session, settings))
            code = await ask(ensemble, opening, as_json=as_json, record=recording)
            # It is closed where the reader of the lines has closed its end.
            if code != EXIT_CANCELLED and not sys.stdout.closed:
                branch = opening.result()
                _print_effect(branch, await branch.effect(), as_json=as_json)
            return code

    raise typer.Exit(uvloop.run(run()))


async def _opened(
    put: Callable[[str | Path], Coroutine[Any, Any, EnsembleSession]], written: str, settings: Settings
) -> EnsembleSession:
    """The branch of the session or recording that is meant. Raises CouncilError."""
    kept = recording_path(written, settings)
    if _is_recording(written):
        return await put(kept)
    try:
        return await put(written)
    except (SessionGone, Refused) as error:
        # A session that has expired may have been recorded, and a recording needs no council that runs.
        is_not_here = isinstance(error, SessionGone) or error.code == "no_council"
        if not (is_not_here and kept.exists()):
            raise
    return await put(kept)


def _is_recording(written: str) -> bool:
    """False where it may be the id of a session."""
    return os.path.lexists(written) or os.path.basename(written) != written or written.endswith(SUFFIX)


def _print_effect(branch: EnsembleSession, effects: Mapping[str, Effect], *, as_json: bool) -> None:
    """Prints the effect: as one line of JSON, or as a table; as a table on standard error where the standard output is
    the council's text alone."""
    is_one_text = branch.opening.sync == "consensus"
    if as_json or not (is_one_text or sys.stdout.isatty()):
        assert branch.opening.parent is not None
        line = {
            "session": branch.session,
            "parent": msgspec.structs.asdict(branch.opening.parent),
            "effect": [{"member": name, **msgspec.structs.asdict(effect)} for name, effect in effects.items()],
        }
        try:
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            close_quietly(sys.stdout)
        return
    Console(stderr=is_one_text).print(effect_table(effects))


def effect_table(effects: Mapping[str, Effect]) -> Table:
    """A line for each member: where its answers part, how far that reaches, and how both end."""
    table = Table("member", "parted at", "another text", "together again", "last words", box=None, pad_edge=False)
    for name, effect in effects.items():
        again = effect.together_again
        before, after = effect.last_words
        table.add_row(
            Text(plain(name)),
            "never" if effect.byte is None else f"byte {effect.byte}",
            f"{effect.reach_words} {'word' if effect.reach_words == 1 else 'words'}, {effect.reach_bytes} bytes",
            "" if effect.byte is None else "no" if again is None else f"at byte {again[1]}",
            Text(plain(f"{before} → {after}") if effect.last_words_differ else "the same"),
        )
    return table
