"""The output of `council models`: every model, and whether the tier can use it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from council.models.catalogue import Catalogue
from producers.source import Offer
from schemas.errors import Refused
from schemas.models import IN_PROCESS
from schemas.rules.choice import check_size, gigabytes
from schemas.rules.tiers import TierPolicy

_STATES = {"loaded": "loaded", "loading": "loading", "absent": "not loaded", "unmanaged": ""}


def models_report(found: Catalogue) -> dict[str, Any]:
    """The models in the council's order of preference; sizes in bytes, null where unknown."""
    return {"models": [_described(offer) for offer in found.offers.values()], "troubles": found.troubles}


def print_models(console: Console, found: Catalogue, tier: TierPolicy) -> None:
    """Prints a table for each server, and the limits of the tier."""
    offers = list(found.offers.values())
    for server in dict.fromkeys(offer.facts.server for offer in offers):
        title = "built in" if server == IN_PROCESS else server
        table = Table("model", "size", "state", "can", "continues", "note", title=title, title_justify="left")
        table.columns[0].no_wrap = True
        for offer in offers:
            if offer.facts.server == server:
                table.add_row(*_row(offer, tier))
        console.print(table)
    console.print(
        f"{tier.name} tier: {tier.max_parallel_models} models answer at once, {tier.max_loaded_models} in memory, each "
        f"of up to {tier.largest_model_gb:g} GB.",
        highlight=False,
    )


def _row(offer: Offer, tier: TierPolicy) -> tuple[str, ...]:
    facts = offer.facts
    size = gigabytes(facts.size_bytes) if facts.size_bytes else ""
    continues = facts.continues if offer.writes_text else ""
    return facts.model, size, _STATES[facts.residency], ", ".join(offer.capabilities), continues, _note(offer, tier)


def _described(offer: Offer) -> dict[str, Any]:
    facts = offer.facts
    return {
        "model": facts.model,
        "server": facts.server,
        "api": offer.source.api,
        "size_bytes": facts.size_bytes or None,
        "loaded": None if facts.residency == "unmanaged" else facts.residency == "loaded",
        "remote": facts.remote,
        "capabilities": offer.capabilities,
        "continues": facts.continues,
        "details": offer.details or None,
        "trouble": facts.trouble or None,
    }


def _note(offer: Offer, tier: TierPolicy) -> str:
    """Why the model cannot be used; its details where it can."""
    notes = [offer.facts.trouble] if offer.facts.trouble else []
    if offer.facts.remote:
        notes.append("remote: needs the hybrid tier and --allow-remote")
    try:
        check_size(offer.facts, tier)
    except Refused:
        notes.append(f"larger than the {tier.largest_model_gb:g} GB of the {tier.name} tier")
    return "; ".join(notes) or offer.details
