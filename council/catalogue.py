"""Which models this machine can use: what the configured servers and Ollama offer, GGUF files, the n-gram council.

council.toml [servers.*] --ask--+
Ollama, where it is      --ask--+--> Catalogue: name -> Offer --> models_to_serve --> name -> ModelSource
gguf:PATH, as named      -------+
the n-gram council       -------+
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

import msgspec

from council.settings import Server, Settings
from producers.backend import BackendFailed
from producers.ngram.backend import NGRAM_MODELS
from producers.source import ModelSource, Offer, gguf_source
from schemas.choice import check_remote_tier, check_size, check_twins, full_name, gigabytes, unknown_model
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.tiers import TierPolicy

OLLAMA = "ollama"
# Whoever types a command waits no longer for a server that accepts and then says nothing.
_PATIENCE_S = 3.0
# A process for each, of some 50 MB; nobody asks more models than that in an hour.
MOST_SERVED = 16


class Catalogue(msgspec.Struct, frozen=True):
    """Every model by its name in the council, in order of preference, and a sentence for each server that is away."""

    offers: dict[str, Offer]
    troubles: tuple[str, ...] = ()
    # Of an Ollama that nobody has named, and that is not there: that is no trouble, unless one of its models is asked.
    absence: str = ""

    def explained(self, refusal: Refused) -> Refused:
        """The refusal of an unknown model, with what may be the cause."""
        causes = [*self.troubles, self.absence] if refusal.code == "unknown_model" else []
        return Refused(refusal.code, " ".join([str(refusal), *filter(None, causes)]), status=refusal.status)

    @property
    def facts(self) -> list[ModelFacts]:
        return [offer.facts for offer in self.offers.values()]


def configured_models(settings: Settings) -> Catalogue:
    """What can be said without asking any server: the models that the settings name, and the n-gram council."""
    offers = [(name, offer) for name, server in settings.servers.items() for offer in _unasked(server)]
    return Catalogue(_named([*offers, *_ngram_offers()]))


async def find_models(settings: Settings, models: Sequence[str] = ()) -> Catalogue:
    """What there is, asked of every server at once. `models` may name GGUF files. Raises Refused for one that is none.

    A server that is away offers the models that its settings name, with the trouble; Ollama, which nobody has named,
    is then simply not there.
    """
    names = list(settings.servers)
    asked = [_offers_of(name, settings.servers[name]) for name in names]
    *found, (of_ollama, absence) = await asyncio.gather(*asked, _offers_of_ollama(settings))
    offers = [(name, offer) for name, (offered, _) in zip(names, found, strict=True) for offer in offered]
    offers += [(OLLAMA, offer) for offer in of_ollama]
    named = [*models, *(settings.models or ())]
    troubles = [trouble for _, trouble in found if trouble]
    if absence and not absence.endswith("?"):
        troubles.append(absence)  # it is there, and something is wrong with it
        absence = ""
    return Catalogue(_named([*_gguf_offers(named), *offers, *_ngram_offers()]), tuple(troubles), absence)


def canonical_names(models: Iterable[str]) -> tuple[str, ...]:
    """The models' names in the council: a GGUF file is named by its file, whatever its path."""
    return tuple(
        gguf_source(model.removeprefix("gguf:"))[0] if model.startswith("gguf:") else model for model in models
    )


def models_to_serve(
    settings: Settings, found: Catalogue, tier: TierPolicy
) -> tuple[dict[str, ModelSource], tuple[str, ...]]:
    """(the models that a council starts with their sources, a sentence for whatever is left out). Raises Refused."""
    warnings = list(found.troubles)
    if settings.models is None:
        chosen, left_out = _default_models(found, tier)
        warnings += left_out
    else:
        chosen = _named_models(settings, found, tier)
    for offer in chosen:
        require_key(offer.source)
    served, rest = chosen[:MOST_SERVED], chosen[MOST_SERVED:]
    if rest:
        names = ", ".join(offer.facts.model for offer in rest)
        warnings.append(f"A council serves {MOST_SERVED} models; left out: {names}.")
    return {offer.facts.model: offer.source for offer in served}, tuple(warnings)


def require_key(source: ModelSource) -> None:
    """Raises Refused, with the variable's name, where the source needs an API key and there is none."""
    if source.key_env:
        from producers.api_key import ApiKey

        ApiKey(source.key_env)


def _named_models(settings: Settings, found: Catalogue, tier: TierPolicy) -> list[Offer]:
    names = [full_name(model, found.offers) for model in canonical_names(settings.models or ())]
    if not names:
        raise Refused("no_models", "No model is named: leave --models out to use the default ones.")
    for index, model in enumerate(names):
        if model not in found.offers:
            raise found.explained(unknown_model(model, found.offers))
        if model in names[:index]:
            raise Refused("duplicate_model", f"The model {model!r} is named twice: name each model once.")
    chosen = [found.offers[model] for model in names]
    for offer in chosen:
        _check_writes_text(offer)
        check_size(offer.facts, tier)
        if offer.facts.remote:
            check_remote_tier(offer.facts, tier, allowed=settings.allow_remote)
    check_twins([offer.facts for offer in chosen])
    if sum(offer.facts.remote for offer in chosen) > 1:
        raise Refused("many_remote", "More than one of these models is remote: a council may have one remote member.")
    return chosen


def _default_models(found: Catalogue, tier: TierPolicy) -> tuple[list[Offer], list[str]]:
    """What comes first and fits, as many as the tier keeps loaded; the n-gram council where there is nothing else."""
    fitting: list[Offer] = []
    too_large: list[str] = []
    for offer in sorted(found.offers.values(), key=lambda offer: offer.facts.residency != "loaded"):
        if offer.source.api == "ngram" or offer.facts.remote or not _writes_text(offer):
            continue
        try:
            check_size(offer.facts, tier)
        except Refused:
            too_large.append(f"{offer.facts.model} ({gigabytes(offer.facts.size_bytes)})")
            continue
        try:
            check_twins([one.facts for one in [*fitting, offer]])
        except Refused:
            continue  # another name of one that is there already
        fitting.append(offer)
    left_out = []
    if too_large:
        left_out.append(
            f"Left out, since the {tier.name} tier takes models of up to {tier.largest_model_gb:g} GB: "
            f"{', '.join(too_large)}."
        )
    if not fitting:
        ngrams = [offer for offer in found.offers.values() if offer.source.api == "ngram"]
        return ngrams[: tier.max_parallel_models], left_out
    return fitting[: tier.max_loaded_models], left_out


def _writes_text(offer: Offer) -> bool:
    return not offer.capabilities or "completion" in offer.capabilities


def _check_writes_text(offer: Offer) -> None:
    if not _writes_text(offer):
        what = ", ".join(offer.capabilities)
        raise Refused("no_text", f"The model {offer.facts.model!r} writes no text (it does {what}): name another one.")


def _named(offers: Sequence[tuple[str, Offer]]) -> dict[str, Offer]:
    """Each model under its own name; where two servers have one of that name, both carry their server's in front."""
    names = [offer.facts.model for _, offer in offers]
    named: dict[str, Offer] = {}
    for server, offer in offers:
        own = offer.facts.model
        if not own.isprintable():
            continue  # no line, no key and no protocol can carry it
        name = f"{server}/{own}" if server and names.count(own) > 1 else own
        if name in named:
            why = "two files have that name: rename one" if name.startswith("gguf:") else "name it once"
            raise Refused("duplicate_model", f"The model {name!r} exists twice: {why}.")
        named[name] = msgspec.structs.replace(
            offer, facts=msgspec.structs.replace(offer.facts, model=name, model_there=own)
        )
    return named


async def _offers_of(name: str, server: Server) -> tuple[list[Offer], str]:
    """(what a configured server offers, the trouble with it)."""
    try:
        if server.api == "ollama":
            async with asyncio.timeout(_PATIENCE_S):
                return await _ollama_offers_of(server), ""
        from producers.openai_offers import openai_offers

        return list(await openai_offers(name, server.source(""), tuple(server.models))), ""
    except (BackendFailed, TimeoutError) as failure:
        trouble = str(failure) or f"{server.address} does not answer within {_PATIENCE_S:g} s"
        told = [
            msgspec.structs.replace(one, facts=msgspec.structs.replace(one.facts, trouble=trouble))
            for one in _unasked(server)
        ]
        return told, _sentence(f"The server {name!r}: {trouble}")


def _unasked(server: Server) -> list[Offer]:
    """The models of a server that the settings name, under the names that it knows, with what is known unasked."""
    models: Iterable[str] = server.models
    if server.api == "ollama" and server.models:
        from producers.ollama_server import canonical_name

        models = dict.fromkeys(canonical_name(model) for model in server.models)
    return [Offer(ModelFacts(model, server.address, remote=server.is_remote), server.source(model)) for model in models]


def _sentence(words: str) -> str:
    return words if words.endswith(("?", ".")) else f"{words}."


async def _ollama_offers_of(server: Server) -> list[Offer]:
    """Its models, or those of them that are named; one that is named and not there has its trouble. Raises
    BackendFailed."""
    from producers.ollama_offers import ollama_offers
    from producers.ollama_server import canonical_name

    offered = {offer.facts.model: offer for offer in await ollama_offers(server.address, server.source(""))}
    if not server.models:
        return list(offered.values())
    missing = "{} is not there: ollama pull {}"
    return [
        offered.get(name)
        or Offer(ModelFacts(name, server.address, trouble=missing.format(name, name)), server.source(name))
        for name in dict.fromkeys(canonical_name(model) for model in server.models)
    ]


async def _offers_of_ollama(settings: Settings) -> tuple[list[Offer], str]:
    """The Ollama that nobody has configured, where one answers."""
    if not settings.ollama:
        return [], ""
    from producers.address import is_remote
    from producers.ollama_offers import DEFAULTS, ollama_offers, ollama_url

    url = ollama_url(os.environ)
    source = msgspec.structs.replace(DEFAULTS, remote=is_remote(url))
    if any(server.address == url for server in settings.servers.values()):
        return [], ""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return list(await ollama_offers(url, source)), ""
    except BackendFailed as failure:
        return [], _sentence(str(failure))
    except TimeoutError:
        return [], f"Ollama at {url} does not answer within {_PATIENCE_S:g} s."


def _gguf_offers(models: Iterable[str]) -> list[tuple[str, Offer]]:
    """The models of the GGUF files among these. Raises Refused for one that is none, or that nothing here can load."""
    from producers.llama.backend import require_llama
    from producers.llama.header import gguf_facts

    offers = []
    for path in dict.fromkeys(model.removeprefix("gguf:") for model in models if model.startswith("gguf:")):
        name, source = gguf_source(path)
        require_llama(name)
        file = gguf_facts(source.path)
        facts = ModelFacts(name, size_bytes=file.size_bytes, digest=file.digest, pauses=True, residency="absent")
        offers.append(("", Offer(facts, source, file.capabilities, file.details)))
    return offers


def _ngram_offers() -> list[tuple[str, Offer]]:
    return [("", Offer(ModelFacts(name), ModelSource("ngram", name), ("completion",))) for name in NGRAM_MODELS]
