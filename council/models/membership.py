"""The models that a council starts, and its members: those that are named, or the defaults of this machine.

Catalogue --> --models and [members.*] --> council_of --> CouncilModels: sources, members, councils, what is left out
              or the defaults
              and [councils.*]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from council.models.catalogue import BOX, Catalogue, canonical_member, canonical_name, require_key
from council.settings.schema import Settings
from producers.llama.threads import threads_for, usable_cpus
from producers.source import ModelSource, Offer
from runtime.memory import read_memory
from schemas.errors import Refused
from schemas.rules.choice import ChosenMember, chosen_members, fitting_members, full_name, gigabytes
from schemas.rules.tiers import TierPolicy
from schemas.sessions import MemberSpec, NamedCouncil

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
    for each model); the named councils; a sentence for each model and each named council that is left out."""

    models: dict[str, ModelSource]
    members: tuple[MemberSpec, ...] = ()
    councils: tuple[NamedCouncil, ...] = ()
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
    teams, left_out = _teams(settings, found, tier, specs)
    every = dict.fromkeys([*served, *(spec.model for _, team in teams for spec in team)])
    sources = sources_for({model: found.offers[model].source for model in every}, specs, *(team for _, team in teams))
    # Models of the named councils do not answer a request that names none.
    has_own = len(every) > len(served) or any(spec != MemberSpec(spec.model) for spec in specs)
    councils = tuple(_as_served(council, team, specs) for council, team in teams)
    return CouncilModels(sources, tuple(specs) if has_own else (), councils, (*warnings, *left_out))


def sources_for(sources: Mapping[str, ModelSource], *sessions: Sequence[MemberSpec]) -> dict[str, ModelSource]:
    """The sources with the slots and threads for the members of any one of these sessions: a GGUF file has a slot for
    each of its members, and the files share the cores."""
    files = sum(source.api == "gguf" for source in sources.values())
    fitted = dict(sources)
    for model, source in sources.items():
        if source.api == "gguf":
            from producers.llama.backend import DEFAULT_SLOTS

            slots = max(DEFAULT_SLOTS, *(sum(member.model == model for member in members) for members in sessions))
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


def _teams(
    settings: Settings, found: Catalogue, tier: TierPolicy, specs: Sequence[MemberSpec]
) -> tuple[list[tuple[NamedCouncil, list[MemberSpec]]], list[str]]:
    """(each named council with its members, a sentence for each council that is left out). A council is left out if it
    cannot answer beside the members `specs`, or if a model or one of these has its name: the rest can still be used."""
    own = [member for member in map(canonical_member, settings.member_specs) if isinstance(member, MemberSpec)]
    available = {facts.model: facts for facts in found.facts}
    taken, models = {spec.display_name for spec in specs}, {spec.model for spec in specs}
    teams: list[tuple[NamedCouncil, list[MemberSpec]]] = []
    left_out = []
    for council in settings.named_councils:
        try:
            if council.name in taken or full_name(council.name, available) in available:
                raise Refused("same_name", "A model or a member has its name: rename the council.")
            written = map(canonical_member, council.members)
            members = chosen_members(written, available, own, tier, allow_remote=settings.allow_remote)
            if len(models | {member.facts.model for member in members}) > MOST_SERVED:
                raise Refused("too_many_models", f"A council serves {MOST_SERVED} models: name fewer.")
            for member in members:
                _check_writes_text(found.offers[member.facts.model])
                require_key(found.offers[member.facts.model].source)
        except Refused as refusal:
            left_out.append(f"The council {council.name} is left out: {found.explained(refusal)}")
        else:
            teams.append((council, [member.spec for member in members]))
            models |= {member.facts.model for member in members}
    return teams, left_out


def _as_served(council: NamedCouncil, team: Sequence[MemberSpec], own: Sequence[MemberSpec]) -> NamedCouncil:
    """The council as the processes know it: with the models' names in this council, and with members that are not among
    its `own` in full. A member among them is a name: its system text may be long, and is not repeated."""
    return msgspec.structs.replace(
        council,
        members=tuple(spec.display_name if spec in own else spec for spec in team),
        weights={canonical_name(name): weight for name, weight in council.weights.items()},
        options={canonical_name(name): options for name, options in council.options.items()},
    )


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
