"""The models that this machine can use: from the configured servers and Ollama, GGUF files, the model in the box, and
the n-gram council.

council.toml [servers.*] --ask--+
Ollama, where it is      --ask--+--> Catalogue: name -> Offer --> council_of --> CouncilModels
gguf:PATH, as named      -------+
the model in the box     -------+
the n-gram council       -------+
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

import msgspec

from council.models.store import stored_path
from council.settings.own_address import Listening, own_address, own_address_trouble
from council.settings.schema import Server, Settings
from producers.backend import BackendFailed, ServerAway
from producers.ngram.backend import NGRAM_MODELS
from producers.source import ModelSource, Offer, gguf_source
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.rules.members import member_spec
from schemas.sessions import MemberSpec, SessionRequest

OLLAMA = "ollama"
# The model in the box: a small real model, whose file is in the user's cache folder.
BOX = "smollm2"
# The longest that a command waits for an Ollama: three seconds for its list, two for what each model can do.
_ANSWER_S = 6.0


class Catalogue(msgspec.Struct, frozen=True):
    """The models by their names in the council, in order of preference, and a sentence for each server that is away."""

    offers: dict[str, Offer]
    troubles: tuple[str, ...] = ()
    # Why the default Ollama does not answer: shown only where a request names an unknown model.
    absence: str = ""
    # Why the model in the box cannot be used; empty where it can.
    box: str = ""

    def explained(self, refusal: Refused) -> Refused:
        """The refusal of an unknown model, with the possible causes."""
        box = self.box if repr(BOX) in str(refusal) else ""
        causes = [*self.troubles, self.absence, box] if refusal.code == "unknown_model" else []
        return Refused(refusal.code, " ".join([str(refusal), *filter(None, causes)]), status=refusal.status)

    @property
    def facts(self) -> list[ModelFacts]:
        return [offer.facts for offer in self.offers.values()]


def configured_models(settings: Settings) -> Catalogue:
    """The models that are known without a request to a server: those of the settings, and the built-in ones."""
    offers = [(name, offer) for name, server in settings.servers.items() for offer in _unasked(server)]
    return Catalogue(_named([*offers, *_box_offers()[0], *_ngram_offers()]))


async def find_models(
    settings: Settings, models: Sequence[str | MemberSpec] = (), own: Listening | None = None
) -> Catalogue:
    """All models. Every server is asked at once. `models` may name GGUF files; `own` is where this council listens, if
    it does. Raises Refused for an invalid file.

    For a server that is away the models of its settings are listed, with its trouble; the default Ollama is left out,
    and so are the models of a council that is this one, or that is not allowed.
    """
    names, own = list(settings.servers), own or own_address(settings)
    asked = [_offers_of(name, settings.servers[name], own) for name in names]
    found, (of_ollama, trouble, absence) = await asyncio.gather(asyncio.gather(*asked), _offers_of_ollama(settings))
    offers = [(name, offer) for name, (offered, _) in zip(names, found, strict=True) for offer in offered]
    offers += [(OLLAMA, offer) for offer in of_ollama]
    of_councils = [member for council in settings.named_councils for member in council.members]
    named = [*models, *(settings.models or ()), *settings.member_specs, *of_councils]
    troubles = [sentence for sentence in (*(sentence for _, sentence in found), trouble) if sentence]
    in_box, box = _box_offers()
    offered = _named([*_gguf_offers(named), *offers, *in_box, *_ngram_offers()])
    return Catalogue(offered, tuple(troubles), absence, box)


def canonical_member(written: str | MemberSpec) -> str | MemberSpec:
    """The member, with its model's name in the council: a GGUF file's name without its folder. Raises Refused for an
    invalid description."""
    if isinstance(written, str) and "gguf:" in written:
        written = member_spec(written)
    if isinstance(written, str) or not written.model.startswith("gguf:"):
        return written
    return msgspec.structs.replace(written, model=canonical_name(written.model))


def canonical_name(model: str) -> str:
    """The model's name in the council."""
    return gguf_source(model.removeprefix("gguf:"))[0] if model.startswith("gguf:") else model


def canonical_request(request: SessionRequest) -> SessionRequest:
    """The request with the models' names in the council."""
    return msgspec.structs.replace(
        request,
        models=tuple(map(canonical_member, request.models)),
        weights={canonical_name(name): weight for name, weight in request.weights.items()},
        options={canonical_name(name): values for name, values in request.options.items()},
    )


def require_key(source: ModelSource) -> None:
    """Raises Refused, with the variable's name, where the source needs an API key that is not set."""
    if source.key_env:
        from producers.servers.api_key import ApiKey

        ApiKey(source.key_env)


def _named(offers: Sequence[tuple[str, Offer]]) -> dict[str, Offer]:
    """The offers by their models' names. Where two servers have a model of one name, each server's name precedes it."""
    names = [offer.facts.model for _, offer in offers]
    named: dict[str, Offer] = {}
    for server, offer in offers:
        own = offer.facts.model
        if not own.isprintable():
            continue  # a name with a line break, for example, cannot be in a table
        name = f"{server}/{own}" if server and names.count(own) > 1 else own
        if name in named:
            advice = "two files have that name: rename one" if name.startswith("gguf:") else "name it once"
            raise Refused("duplicate_model", f"The model {name!r} exists twice: {advice}.")
        named[name] = msgspec.structs.replace(
            offer, facts=msgspec.structs.replace(offer.facts, model=name, model_there=own)
        )
    return named


async def _offers_of(name: str, server: Server, own: Listening | None) -> tuple[list[Offer], str]:
    """(the models of a configured server, its trouble or an empty text)."""
    from producers.openai.offers import CouncilRefused, openai_offers

    try:
        if loop := await own_address_trouble(server, own):
            raise CouncilRefused(loop)
        if server.api == "ollama":
            async with asyncio.timeout(_ANSWER_S):
                return await _ollama_offers_of(name, server), ""
        return list(await openai_offers(name, server.source(""), tuple(server.models))), ""
    except CouncilRefused as refusal:
        return [], _sentence(f"The server {name!r}: {refusal}")
    except (BackendFailed, TimeoutError) as failure:
        trouble = str(failure) or f"{server.address} does not answer within {_ANSWER_S:g} s"
        offers = [
            msgspec.structs.replace(one, facts=msgspec.structs.replace(one.facts, trouble=trouble))
            for one in _unasked(server)
        ]
        return offers, _sentence(f"The server {name!r}: {trouble}")


def _unasked(server: Server) -> list[Offer]:
    """The server's models of the settings, under its own names, with the facts that are known without a request."""
    models: Iterable[str] = server.models
    if server.api == "ollama" and server.models:
        from producers.ollama.server import canonical_name

        models = dict.fromkeys(canonical_name(model) for model in server.models)
    return [Offer(ModelFacts(model, server.address, remote=server.is_remote), server.source(model)) for model in models]


def _sentence(words: str) -> str:
    return words if words.endswith(("?", ".")) else f"{words}."


async def _ollama_offers_of(server_name: str, server: Server) -> list[Offer]:
    """The server's models, or those of them in the settings; a missing one has a trouble. Raises BackendFailed."""
    from producers.ollama.offers import ListTooSlow, ollama_offers
    from producers.ollama.server import canonical_name

    try:
        offered = {offer.facts.model: offer for offer in await ollama_offers(server.address, server.source(""))}
    except ListTooSlow as slow:
        if server.models:
            return _unasked(server)
        raise BackendFailed(f"{slow}: name those to use under models in [servers.{server_name}]") from slow
    if not server.models:
        return list(offered.values())
    missing = "{} is not there: ollama pull {}"
    return [
        offered.get(name)
        or Offer(ModelFacts(name, server.address, trouble=missing.format(name, name)), server.source(name))
        for name in dict.fromkeys(canonical_name(model) for model in server.models)
    ]


async def _offers_of_ollama(settings: Settings) -> tuple[list[Offer], str, str]:
    """(the models of the default Ollama, its trouble, that it is away); one or two of the three are empty."""
    if not settings.ollama:
        return [], "", ""
    from producers.ollama.offers import DEFAULTS, ListTooSlow, ollama_offers, ollama_url
    from producers.servers.address import is_remote

    url = ollama_url(os.environ)
    source = msgspec.structs.replace(DEFAULTS, remote=is_remote(url))
    if any(server.address == url for server in settings.servers.values()):
        return [], "", ""
    try:
        async with asyncio.timeout(_ANSWER_S):
            return list(await ollama_offers(url, source)), "", ""
    except ServerAway as away:
        return [], "", _sentence(str(away))
    except ListTooSlow as slow:
        return [], f"{slow}: add it to council.toml as a server, with the models to use under models.", ""
    except BackendFailed as failure:
        return [], _sentence(str(failure)), ""
    except TimeoutError:
        return [], f"Ollama at {url} does not answer within {_ANSWER_S:g} s.", ""


def _gguf_offers(written: Iterable[str | MemberSpec]) -> list[tuple[str, Offer]]:
    """The models of the GGUF files among these. Raises Refused for an invalid file, or where llama.cpp is missing."""
    specs = [member_spec(one) if isinstance(one, str) and "gguf:" in one else one for one in written]
    models = [spec.model for spec in specs if isinstance(spec, MemberSpec) and spec.model.startswith("gguf:")]
    return [("", _file_offer(*gguf_source(model.removeprefix("gguf:")))) for model in dict.fromkeys(models)]


def _file_offer(name: str, source: ModelSource) -> Offer:
    """Raises Refused for a file that is not a model, and where llama.cpp is not installed."""
    from producers.llama.backend import DEFAULT_SLOTS, require_llama
    from producers.llama.file import gguf_facts

    require_llama(name)
    file = gguf_facts(source.path)
    facts = ModelFacts(
        name,
        size_bytes=file.size_bytes,
        digest=file.digest,
        pauses=True,
        residency="absent",
        slots=DEFAULT_SLOTS,
        continues="yes",
    )
    return Offer(facts, source, file.capabilities, file.details)


def _box_offers() -> tuple[list[tuple[str, Offer]], str]:
    """(the model in the box, if its file exists and llama.cpp is installed; else why it cannot be used)."""
    path = stored_path(BOX)
    if path is None:
        return [], f"`council models get {BOX}` fetches {BOX}."
    try:
        return [("", _file_offer(BOX, ModelSource("gguf", BOX, path=str(path))))], ""
    except Refused as refusal:
        return [], str(refusal)


def _ngram_offers() -> list[tuple[str, Offer]]:
    facts = [ModelFacts(name, continues="yes") for name in NGRAM_MODELS]
    return [("", Offer(known, ModelSource("ngram", known.model), ("completion",))) for known in facts]
