"""What `council models` says: every model that is on offer, and what of it the tier can use."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from council.catalogue import Catalogue
from producers.source import Offer
from schemas.choice import check_size, gigabytes
from schemas.errors import Refused
from schemas.tiers import TierPolicy

_STATES = {"loaded": "loaded", "loading": "loading", "absent": "not loaded", "unmanaged": ""}


def models_report(found: Catalogue) -> dict[str, Any]:
    """The models in the council's order of preference; sizes in bytes, null where nobody tells them."""
    return {"models": [_described(offer) for offer in found.offers.values()], "troubles": found.troubles}


def print_models(console: Console, found: Catalogue, tier: TierPolicy) -> None:
    table = Table("model", "server", "size", "state", "can", "note")
    for offer in found.offers.values():
        facts = offer.facts
        table.add_row(
            facts.model,
            facts.server,
            gigabytes(facts.size_bytes) if facts.size_bytes else "",
            _STATES[facts.residency],
            ", ".join(offer.capabilities),
            _note(offer, tier),
        )
    console.print(table)
    console.print(
        f"{tier.name} tier: {tier.max_parallel_models} models answer at once, {tier.max_loaded_models} in memory, each "
        f"of up to {tier.max_model_size_gb:g} GB.",
        highlight=False,
    )


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
        notes.append(f"over the {tier.max_model_size_gb:g} GB of the {tier.name} tier")
    return "; ".join(notes) or offer.details
