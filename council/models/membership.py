"""The models that a council starts, and its members: those that are named, or the defaults of this machine.

Catalogue --> --models and [members.*] --> council_of --> CouncilModels: sources, members, what is left out
              or the defaults
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from council.models.catalogue import BOX, Catalogue, canonical_member, require_key
from council.settings.schema import Settings
from producers.llama.threads import threads_for, usable_cpus
from producers.source import ModelSource, Offer
from runtime.memory import read_memory
from schemas.errors import Refused
from schemas.rules.choice import ChosenMember, chosen_members, fitting_members, gigabytes
from schemas.rules.tiers import TierPolicy
from schemas.sessions import MemberSpec

# Each is a process of some 50 MB.
MOST_SERVED = 16
# The council of a machine without model servers: one model at three temperatures. The answers begin with the same words
# and then differ.
BOX_MEMBERS = (
    MemberSpec(BOX, f"{BOX}-cold", temperature=0.0),
    MemberSpec(BOX, f"{BOX}-warm", temperature=0.4),
    MemberSpec(BOX, f"{BOX}-hot", temperature=0.8),
)


class CouncilModels(msgspec.Struct, frozen=True):
    """The models of a council with their sources; the members that answer where a request names none (empty: one member
    for each model); a sentence for each model that is left out."""

    models: dict[str, ModelSource]
    members: tuple[MemberSpec, ...] = ()
    warnings: tuple[str, ...] = ()


def council_of(settings: Settings, found: Catalogue, tier: TierPolicy) -> CouncilModels:
    """The models and the members of a council. Raises Refused."""
    warnings = list(found.troubles)
    if settings.models is None and not settings.members:
        members, left_out = _default_members(found, tier)
        warnings += left_out
    else:
        members = _named_members(settings, found, tier)
    offers = {member.facts.model: found.offers[member.facts.model] for member in members}
    for offer in offers.values():
        require_key(offer.source)
    served, rest = list(offers)[:MOST_SERVED], list(offers)[MOST_SERVED:]
    if rest:
        warnings.append(f"A council serves {MOST_SERVED} models; left out: {', '.join(rest)}.")
    specs = [member.spec for member in members if member.facts.model in served]
    sources = sources_for({model: offers[model].source for model in served}, specs)
    own = tuple(specs) if any(spec != MemberSpec(spec.model) for spec in specs) else ()
    return CouncilModels(sources, own, tuple(warnings))


def sources_for(sources: Mapping[str, ModelSource], members: Sequence[MemberSpec]) -> dict[str, ModelSource]:
    """The sources with the slots and threads for these members: a GGUF file has a slot for each of its members, and the
    files share the cores."""
    files = sum(source.api == "gguf" for source in sources.values())
    fitted = dict(sources)
    for model, source in sources.items():
        if source.api == "gguf":
            from producers.llama.backend import DEFAULT_SLOTS

            slots = max(DEFAULT_SLOTS, sum(member.model == model for member in members))
            threads = source.threads or threads_for(usable_cpus(), files)
            fitted[model] = msgspec.structs.replace(source, parallel=source.parallel or slots, threads=threads)
    return fitted


def _named_members(settings: Settings, found: Catalogue, tier: TierPolicy) -> list[ChosenMember]:
    own = [canonical_member(spec) for spec in settings.member_specs]
    named = [spec for spec in own if isinstance(spec, MemberSpec)]
    written = named if settings.models is None else [canonical_member(one) for one in settings.models]
    if not written:
        raise Refused("no_models", "No model is named: leave --models out to use the default ones.")
    available = {facts.model: facts for facts in found.facts}
    try:
        members = chosen_members(written, available, named, tier, allow_remote=settings.allow_remote)
    except Refused as refusal:
        raise found.explained(refusal) from None
    for member in members:
        _check_writes_text(found.offers[member.facts.model])
    return members


def _default_members(found: Catalogue, tier: TierPolicy) -> tuple[list[ChosenMember], list[str]]:
    """(one member of each of the first models that fit, as many as the tier keeps loaded; a sentence for each model
    that is left out). Without models of servers: members of the model in the box; where it cannot run, the n-gram
    council."""
    available = {facts.model: facts for facts in found.facts}
    candidates = [
        MemberSpec(model)
        for model, offer in found.offers.items()
        if offer.writes_text and offer.source.api != "ngram" and model != BOX
    ]
    candidates.sort(key=lambda spec: available[spec.model].residency != "loaded")
    fitting, refused = fitting_members(candidates, available, tier)
    left_out = []
    too_large = [
        f"{model} ({gigabytes(available[model].size_bytes)})"
        for model, refusal in refused.items()
        if refusal.code == "model_too_large"
    ]
    if too_large:
        left_out.append(
            f"Left out, since the {tier.name} tier takes models of up to {tier.largest_model_gb:g} GB: "
            f"{', '.join(too_large)}."
        )
    if fitting:
        return fitting[: tier.max_loaded_models], left_out
    if BOX in found.offers:
        offer = found.offers[BOX]
        lack = _lack_of_memory(offer, len(BOX_MEMBERS))
        if not lack:
            return [ChosenMember(spec, offer.facts) for spec in BOX_MEMBERS[: tier.max_parallel_models]], left_out
        left_out.append(f"{lack}: the n-gram council, a demonstration, answers.")
    else:
        left_out.append(f"No language model was found: the n-gram council, a demonstration, answers. {found.box}")
    ngrams = [offer.facts for offer in found.offers.values() if offer.source.api == "ngram"]
    return [ChosenMember(MemberSpec(f.model), f) for f in ngrams[: tier.max_parallel_models]], left_out


def _lack_of_memory(offer: Offer, slots: int) -> str:
    """Why the model cannot be loaded with this number of slots; empty where it can."""
    from producers.llama.file import gguf_facts
    from producers.llama.footprint import plan_for

    plan = plan_for(gguf_facts(offer.source.path), slots, read_memory().available_bytes, 0)
    if plan.fits:
        return ""
    needs, free = gigabytes(plan.footprint.needed_bytes), gigabytes(plan.free_bytes)
    return f"{offer.facts.model} needs {needs} of memory and {free} are free"


def _check_writes_text(offer: Offer) -> None:
    if not offer.writes_text:
        what = ", ".join(offer.capabilities)
        raise Refused("no_text", f"The model {offer.facts.model!r} writes no text (it does: {what}): name another one.")
