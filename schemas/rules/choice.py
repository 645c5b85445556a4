"""The choice of members: the written ones or the first ones, within the tier; and which of them must wait."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from schemas.errors import Refused
from schemas.models import IN_PROCESS, ModelFacts
from schemas.rules.members import resolved_spec
from schemas.rules.tiers import GB, TierPolicy
from schemas.sessions import MemberSpec

# The most characters of a name that a message repeats.
MOST_REPEATED_CHARS = 100


class ChosenMember(msgspec.Struct, frozen=True):
    """A member that is chosen, and the facts about its model."""

    spec: MemberSpec
    facts: ModelFacts

    @property
    def name(self) -> str:
        return self.spec.display_name


def chosen_members(
    written: Iterable[str | MemberSpec],
    available: Mapping[str, ModelFacts],
    named: Sequence[MemberSpec],
    tier: TierPolicy,
    *,
    allow_remote: bool,
) -> list[ChosenMember]:
    """The members that are written: of a session, or of a council.

    Raises Refused for a name that is unknown or used twice, a model that is over the tier's size, two names of one
    model, and a remote model that is not allowed.
    """
    chosen = members_of(written, available, named)
    models = unique_models(chosen)
    for facts in models:
        check_size(facts, tier)
    check_twins(models)
    _check_remote(models, tier, allowed=allow_remote)
    return chosen


def fitting_members(
    candidates: Iterable[MemberSpec], available: Mapping[str, ModelFacts], tier: TierPolicy
) -> tuple[list[ChosenMember], dict[str, Refused]]:
    """(the candidates that may be members together where no member is written, the refusal of each model that may
    not). A remote model is in neither: it must be written."""
    chosen: list[ChosenMember] = []
    refused: dict[str, Refused] = {}
    for spec in candidates:
        facts = available[spec.model]
        if facts.remote:
            continue
        try:
            check_size(facts, tier)
            check_twins(unique_models([*chosen, ChosenMember(spec, facts)]))
        except Refused as refusal:
            refused[facts.model] = refusal
        else:
            chosen.append(ChosenMember(spec, facts))
    return chosen, refused


def members_of(
    written: Iterable[str | MemberSpec], available: Mapping[str, ModelFacts], named: Sequence[MemberSpec]
) -> list[ChosenMember]:
    """Each member that is written, with its model among those `available`. Raises Refused for a model that is unknown
    and a name that is used twice."""
    chosen: list[ChosenMember] = []
    for one in written:
        spec = resolved_spec(one, available, named)
        facts = available.get(full_name(spec.model, available))
        if facts is None:
            raise unknown_model(spec.model, [*available, *(own.name for own in named)])
        if any(other.name == (spec.name or facts.model) for other in chosen):
            raise _used_twice(spec, facts)
        chosen.append(ChosenMember(msgspec.structs.replace(spec, model=facts.model), facts))
    return chosen


def _used_twice(spec: MemberSpec, facts: ModelFacts) -> Refused:
    if spec.name:
        return Refused(
            "duplicate_member", f"Two members are called {spec.name!r}: give each a name of its own.", status=409
        )
    return Refused(
        "duplicate_model",
        f"The model {facts.model!r} is named twice: name it once, or give each member a name of its own, such as "
        f"calm={facts.model}.",
        status=409,
    )


def unique_models(members: Iterable[ChosenMember]) -> list[ModelFacts]:
    """The members' models, each once, in order."""
    return list({member.facts.model: member.facts for member in members}.values())


def unknown_model(model: str, available: Iterable[str]) -> Refused:
    """The refusal of an unknown name, with the most similar known one."""
    names = list(dict.fromkeys(available))
    near = difflib.get_close_matches(model[:MOST_REPEATED_CHARS].lower(), [name.lower() for name in names], 1)
    meant = next((name for name in names if near and name.lower() == near[0]), None)
    hint = f" Did you mean {meant!r}?" if meant else ""
    if model.endswith(".gguf") and not model.startswith("gguf:"):
        hint = f" A GGUF file is named as {shortened('gguf:' + model)!r}."
    offered = ", ".join(names) or "none is served"
    return Refused(
        "unknown_model", f"There is no model {shortened(model)!r} here; available: {offered}.{hint}", status=404
    )


def full_name(model: str, available: Collection[str]) -> str:
    """The full name of a model: Ollama's `llama3` is `llama3:latest`."""
    return model if model in available else f"{model}:latest" if f"{model}:latest" in available else model


def shortened(text: str) -> str:
    """The user's text, short enough to be repeated in a message."""
    return text if len(text) <= MOST_REPEATED_CHARS else f"{text[:MOST_REPEATED_CHARS]}…"


def check_size(facts: ModelFacts, tier: TierPolicy) -> None:
    """Raises Refused for a model that is too large for the tier, unless the council does not load it (unmanaged)."""
    if facts.residency == "unmanaged":
        return
    if facts.size_bytes > tier.max_model_size_gb * GB:
        raise Refused(
            "model_too_large",
            f"The model {facts.model!r} has {gigabytes(facts.size_bytes)} and the {tier.name} tier takes models of up "
            f"to {tier.max_model_size_gb:g} GB: choose a smaller model or a higher tier, "
            f"or raise tiers.{tier.name}.max_model_size_gb.",
            status=409,
        )
    memory_gb = tier.ram_budget_gb + (0.0 if facts.server == IN_PROCESS else tier.vram_budget_gb)
    if facts.size_bytes > memory_gb * GB:
        raise Refused(
            "model_too_large",
            f"The model {facts.model!r} has {gigabytes(facts.size_bytes)} and the {tier.name} tier has {memory_gb:g} "
            f"GB of memory for models: raise tiers.{tier.name}.ram_budget_gb, or choose a smaller model.",
            status=409,
        )


def check_twins(chosen: Sequence[ModelFacts]) -> None:
    """Raises Refused for two names of one model at one server: they replace each other in its memory."""
    seen: dict[tuple[str, str], ModelFacts] = {}
    for facts in chosen:
        if not facts.digest:
            continue
        twin = seen.setdefault((facts.server, facts.digest), facts)
        if twin is not facts:
            raise Refused(
                "same_model",
                f"{twin.model!r} and {facts.model!r} are two names of one model, and {facts.server} keeps only one of "
                "them in memory: name one of the two.",
                status=409,
            )


def check_remote_tier(facts: ModelFacts, tier: TierPolicy, *, allowed: bool) -> None:
    """Raises Refused unless the tier is hybrid and the user has allowed it."""
    if tier.name != "hybrid":
        raise Refused(
            "remote_model",
            f"The model {facts.model!r} is remote, at {facts.server}: only the hybrid tier may have a remote member "
            "(--tier hybrid --allow-remote). If that server is in your own network, set remote = false for it.",
            status=409,
        )
    if not allowed:
        raise Refused(
            "remote_not_allowed",
            f"The model {facts.model!r} is remote: the prompt would leave this machine for {facts.server}. "
            "Allow it with --allow-remote, or allow_remote in a request. If that server is in your own network, set "
            "remote = false for it.",
            status=409,
        )


class Crowding(msgspec.Struct, frozen=True):
    """The members that cannot answer at the same time as those before them: their indexes, and a sentence for each
    memory and each server that is too small, with the setting to change."""

    warnings: tuple[str, ...]
    queued: frozenset[int]


def crowding(running: Sequence[ChosenMember], tier: TierPolicy) -> Crowding:
    """The members for which there is not enough memory, or no slot of their model."""
    models = unique_models(running)
    found = [*_crowded_servers(models), *_crowded_budgets(models, tier)]
    warnings = [warning for warning, _ in found]
    waiting = {facts.model for _, names in found for facts in names}
    queued = {index for index, member in enumerate(running) if member.facts.model in waiting}
    for facts in models:
        indexes = [index for index, member in enumerate(running) if member.facts is facts]
        late = indexes[facts.slots :]
        if late:
            names = ", ".join(running[index].name for index in late)
            answers = f"answers {facts.slots} {'request' if facts.slots == 1 else 'requests'} at once"
            change = f"; {facts.slots_setting}" if facts.slots_setting else ""
            warnings.append(
                f"{facts.model} {answers} and {len(indexes)} members ask it: {names} {_waits(late)} until another has "
                f"answered{change}."
            )
            queued.update(late)
    return Crowding(tuple(warnings), frozenset(queued))


def _crowded_servers(models: Sequence[ModelFacts]) -> list[tuple[str, list[ModelFacts]]]:
    """(the sentence, the models that wait) for each server that keeps fewer models in memory than the session needs."""
    found: list[tuple[str, list[ModelFacts]]] = []
    for server in dict.fromkeys(facts.server for facts in models):
        there = [facts for facts in models if facts.server == server]
        most = min((facts.max_loaded for facts in there if facts.max_loaded), default=len(there))
        if len(there) <= most:
            continue
        names = ", ".join(facts.model for facts in there[most:])
        kept = f"{most} {'model' if most == 1 else 'models'} in memory"
        if there[0].residency == "unmanaged":
            warning = (
                f"{server} has {kept} and this session asks for "
                f"{len(there)} of its models: load them there before ({names}), or one may take another's place."
            )
            found.append((warning, []))
            continue
        setting = there[0].max_loaded_setting
        change = f"; set {setting}={len(there)} for it and start it again" if setting else ""
        warning = (
            f"{server} keeps {kept} and this session has {len(there)} of them: {names} "
            f"{_waits(there[most:])} until another has answered{change}."
        )
        found.append((warning, there[most:]))
    return found


def gigabytes(size_bytes: int) -> str:
    """A size in text, in units of 10^9 bytes as model servers count."""
    return f"{size_bytes / GB:.1f} GB" if size_bytes >= GB / 10 else f"{size_bytes / 10**6:.1f} MB"


def _crowded_budgets(models: Sequence[ModelFacts], tier: TierPolicy) -> list[tuple[str, list[ModelFacts]]]:
    """As _crowded_servers, for the tier's memory. Whether a server loads a model into VRAM or RAM is not known before:
    the two are counted together."""
    managed = [facts for facts in models if facts.residency != "unmanaged"]
    here = [facts for facts in managed if facts.server == IN_PROCESS]
    ram, both = tier.ram_budget_gb, tier.ram_budget_gb + tier.vram_budget_gb
    for group, budget_gb, setting in ((here, ram, "ram_budget_gb"), (managed, both, "vram_budget_gb or ram_budget_gb")):
        total, over = 0, []
        for facts in group:
            total += facts.size_bytes
            if total > budget_gb * GB:
                over.append(facts)
        if over:
            names = ", ".join(facts.model for facts in over)
            warning = (
                f"The members need {gigabytes(total)} and the {tier.name} tier has {budget_gb:g} GB for them: {names} "
                f"{_waits(over)} until another has answered; raise tiers.{tier.name}.{setting}, or choose smaller ones."
            )
            return [(warning, over)]
    return []


def _waits(members: Sequence[object]) -> str:
    return "waits" if len(members) == 1 else "wait"


def _check_remote(chosen: Sequence[ModelFacts], tier: TierPolicy, *, allowed: bool) -> None:
    remote = [facts for facts in chosen if facts.remote]
    for facts in remote:
        check_remote_tier(facts, tier, allowed=allowed)
    if len(remote) > 1:
        names = " and ".join(repr(facts.model) for facts in remote)
        raise Refused("many_remote", f"{names} are remote: name one remote member at most.", status=409)
