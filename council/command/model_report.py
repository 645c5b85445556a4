"""What `council models` says: every model that is on offer, and what of it the tier can use."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from council.models.catalogue import Catalogue
from producers.source import Offer
from schemas.errors import Refused
from schemas.rules.choice import check_size, gigabytes
from schemas.rules.tiers import TierPolicy

_STATES = {"loaded": "loaded", "loading": "loading", "absent": "not loaded", "unmanaged": ""}


def models_report(found: Catalogue) -> dict[str, Any]:
    """The models in the council's order of preference; sizes in bytes, null where nobody tells them."""
    return {"models": [_described(offer) for offer in found.offers.values()], "troubles": found.troubles}


def print_models(console: Console, found: Catalogue, tier: TierPolicy) -> None:
    """A table for each server, and what the tier can use of it all."""
    offers = list(found.offers.values())
    for server in dict.fromkeys(offer.facts.server for offer in offers):
        table = Table("model", "size", "state", "can", "note", title=server, title_justify="left")
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
    return facts.model, size, _STATES[facts.residency], ", ".join(offer.capabilities), _note(offer, tier)


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
        "details": offer.details or None,
        "trouble": facts.trouble or None,
    }


def _note(offer: Offer, tier: TierPolicy) -> str:
    """What is in the way of using it."""
    notes = [offer.facts.trouble] if offer.facts.trouble else []
    if offer.facts.remote:
        notes.append("remote: hybrid tier and --allow-remote only")
    try:
        check_size(offer.facts, tier)
    except Refused:
        notes.append(f"over the {tier.largest_model_gb:g} GB of the {tier.name} tier")
    return "; ".join(notes) or offer.details
