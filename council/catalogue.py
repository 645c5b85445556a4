"""Which models this machine can serve, and by what."""

from __future__ import annotations

from council.settings import Settings
from producers.ngram.backend import NGRAM_MODELS
from schemas.errors import Refused
from schemas.tiers import TierPolicy


def catalogue(settings: Settings) -> dict[str, str | None]:
    """Each model with its server's URL (None: it runs inside its producer), in order of preference. Raises Refused.

    What is configured comes first; the n-gram council is always there.
    """
    found: dict[str, str | None] = {}
    for name, server in settings.servers.items():
        for model in server.models:
            if model in found or model in NGRAM_MODELS:
                raise Refused("duplicate_model", f"The model {model!r} of server {name!r} exists twice: name it once.")
            found[model] = str(server.url)
    return found | dict.fromkeys(NGRAM_MODELS)


def models_to_serve(settings: Settings, tier: TierPolicy) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """(the models that a council starts with their servers, a sentence for whatever is left out). Raises Refused."""
    known = catalogue(settings)
    if settings.models is None:
        configured = [model for model, url in known.items() if url]
        chosen = (configured or list(known))[: tier.max_parallel_models]
        return {model: known[model] for model in chosen}, ()
    for index, model in enumerate(settings.models):
        if model not in known:
            raise Refused("unknown_model", f"There is no model {model!r} here; available: {', '.join(known)}.")
        if model in settings.models[:index]:
            raise Refused("duplicate_model", f"The model {model!r} is named twice: name each model once.")
    if not settings.models:
        raise Refused("no_models", "No model is named: leave --models out to use the default ones.")
    served, left_out = settings.models[: tier.max_loaded_models], settings.models[tier.max_loaded_models :]
    warnings = (
        (f"The {tier.name} tier serves {tier.max_loaded_models} models; left out: {', '.join(left_out)}.",)
        if left_out
        else ()
    )
    return {model: known[model] for model in served}, warnings
