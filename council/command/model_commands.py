"""Commands for models: listing and fetching them."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop
from rich.console import Console

from council.command.model_report import models_report, print_models
from council.command.options import ConfigOption, JsonOption, TierOption, new_app, show
from council.models.catalogue import find_models
from council.models.store import MODELS
from council.running.up import say
from council.settings.schema import load_settings

app = new_app()


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, as_json: JsonOption = False, tier: TierOption = None, config: ConfigOption = None
) -> None:
    """List the models of all servers, and the built-in ones."""
    if context.invoked_subcommand:
        return
    settings = load_settings(config, {"tier": tier})
    found = uvloop.run(find_models(settings))
    for trouble in () if as_json else found.troubles:
        say(trouble)
    show(models_report(found), lambda: print_models(Console(), found, settings.tier_policy), as_json=as_json)


@app.command()
def get(name: Annotated[str, typer.Argument(help=f"One of: {', '.join(MODELS)}.")]) -> None:
    """Fetch a model into your cache folder, unless it is there."""
    from council.command.model_get import get_model  # no other command needs it

    get_model(name, say)
