"""Which models become members: who was named or who comes first, what the tier carries, and who gets in whose way."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from schemas.errors import Refused
from schemas.models import IN_PROCESS, ModelFacts
from schemas.sessions import SessionRequest
from schemas.tiers import GB, TierPolicy

# Longer names are no names.
MOST_REPEATED_CHARS = 100


def chosen_models(
    request: SessionRequest, served: Sequence[ModelFacts], known: Sequence[ModelFacts], tier: TierPolicy
) -> list[ModelFacts]:
    """The models that are asked for, all of them, or those that come first where none is named.

    A model that is only `known` may be named as well. Raises Refused for a name that is unknown or named twice, a
    model that is over the tier's size, two names of one model, and a remote model that nobody allowed.
    """
    if not request.models:
        return _first_models(served, tier)
    available = {facts.model: facts for facts in [*known, *served]}
    chosen: list[ModelFacts] = []
    for model in request.models:
        facts = available.get(full_name(model, available))
        if facts is None:
            raise unknown_model(model, [facts.model for facts in [*served, *known]])
        if facts in chosen:
            raise Refused("duplicate_model", f"The model {model!r} is named twice: name each model once.")
        chosen.append(facts)
    for facts in chosen:
        check_size(facts, tier)
    check_twins(chosen)
    _check_remote(chosen, tier, allowed=request.allow_remote)
    return chosen


def unknown_model(model: str, available: Iterable[str]) -> Refused:
    """The refusal of a name that nobody knows, with the one that was perhaps meant."""
    names = list(dict.fromkeys(available))
    near = difflib.get_close_matches(model[:MOST_REPEATED_CHARS].lower(), [name.lower() for name in names], 1)
    meant = next((name for name in names if near and name.lower() == near[0]), None)
    hint = f" Did you mean {meant!r}?" if meant else ""
    if model.endswith(".gguf") and not model.startswith("gguf:"):
        hint = f" A GGUF file is named as {shortened('gguf:' + model)!r}."
    offered = ", ".join(names) or "none is served"
    return Refused("unknown_model", f"There is no model {shortened(model)!r} here; available: {offered}.{hint}")


def full_name(model: str, available: Collection[str]) -> str:
    """The name of a model as it is known: Ollama's `llama3` is `llama3:latest`."""
    return model if model in available else f"{model}:latest" if f"{model}:latest" in available else model


def shortened(text: str) -> str:
    """What a person wrote, as an error sentence may repeat it."""
    return text if len(text) <= MOST_REPEATED_CHARS else f"{text[:MOST_REPEATED_CHARS]}…"


def check_size(facts: ModelFacts, tier: TierPolicy) -> None:
    """Raises Refused for a model that is larger than the tier carries, where its memory is ours to manage."""
    if facts.residency == "unmanaged":
        return
    if facts.size_bytes > tier.max_model_size_gb * GB:
        raise Refused(
            "model_too_large",
            f"The model {facts.model!r} has {gigabytes(facts.size_bytes)} and the {tier.name} tier takes models of up "
            f"to {tier.max_model_size_gb:g} GB: choose a smaller model or a higher tier, "
            f"or raise tiers.{tier.name}.max_model_size_gb.",
        )
    memory_gb = tier.ram_budget_gb + (0.0 if facts.server == IN_PROCESS else tier.vram_budget_gb)
    if facts.size_bytes > memory_gb * GB:
        raise Refused(
            "model_too_large",
            f"The model {facts.model!r} has {gigabytes(facts.size_bytes)} and the {tier.name} tier has {memory_gb:g} "
            f"GB of memory for models: raise tiers.{tier.name}.ram_budget_gb, or choose a smaller model.",
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
            )


def check_remote_tier(facts: ModelFacts, tier: TierPolicy, *, allowed: bool) -> None:
    """Raises Refused unless the tier is hybrid and the person has allowed it."""
    if tier.name != "hybrid":
        raise Refused(
            "remote_model",
            f"The model {facts.model!r} is remote, at {facts.server}: only the hybrid tier may have a remote member "
            "(--tier hybrid --allow-remote).",
        )
    if not allowed:
        raise Refused(
            "remote_not_allowed",
            f"The model {facts.model!r} is remote: the prompt would leave this machine for {facts.server}. "
            "Allow it with --allow-remote, or allow_remote in a request.",
        )


def togetherness_warnings(running: Sequence[ModelFacts], tier: TierPolicy) -> list[str]:
    """A sentence for each memory that cannot hold its members all at once, with the setting to change."""
    warnings = []
    managed = [facts for facts in running if facts.residency != "unmanaged"]
    for server in dict.fromkeys(facts.server for facts in running):
        there = [facts for facts in running if facts.server == server]
        most = min((facts.max_loaded for facts in there if facts.max_loaded), default=len(there))
        if len(there) > most:
            names = ", ".join(facts.model for facts in there[most:])
            if there[0] not in managed:
                warnings.append(
                    f"{server} has {most} {'model' if most == 1 else 'models'} in memory and this session asks for "
                    f"{len(there)} of its models: load them there before ({names}), or one may take another's place."
                )
                continue
            setting = there[0].max_loaded_setting
            change = f"; set {setting}={len(there)} for it and start it again" if setting else ""
            warnings.append(
                f"{server} keeps {most} models in memory and this session has {len(there)} of them: {names} "
                f"{_waits(there[most:])} until another has answered{change}."
            )
    return warnings + _budget_warnings(managed, tier)


def gigabytes(size_bytes: int) -> str:
    """A size for a person, in units of 10^9 bytes as model servers count."""
    return f"{size_bytes / GB:.1f} GB" if size_bytes >= GB / 10 else f"{size_bytes / 10**6:.1f} MB"


def _budget_warnings(managed: Sequence[ModelFacts], tier: TierPolicy) -> list[str]:
    """Whether a server puts its models into VRAM or RAM shows when they are loaded: before, the two count together."""
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
            return [
                f"The members need {gigabytes(total)} and the {tier.name} tier has {budget_gb:g} GB for them: {names} "
                f"{_waits(over)} until another has answered; raise tiers.{tier.name}.{setting}, or choose smaller ones."
            ]
    return []


def _waits(models: Sequence[ModelFacts]) -> str:
    return "waits" if len(models) == 1 else "wait"


def _first_models(served: Sequence[ModelFacts], tier: TierPolicy) -> list[ModelFacts]:
    """The first that fit the tier, of one model each; a remote one is never chosen for anybody."""
    chosen: list[ModelFacts] = []
    refusal: Refused | None = None
    for facts in served:
        if facts.remote or len(chosen) == tier.max_parallel_models:
            continue
        try:
            check_size(facts, tier)
            check_twins([*chosen, facts])
            chosen.append(facts)
        except Refused as error:
            refusal = refusal or error
    if chosen:
        return chosen
    raise refusal or Refused("no_models", "No model is served: start the council with `council up`.", status=409)


def _check_remote(chosen: Sequence[ModelFacts], tier: TierPolicy, *, allowed: bool) -> None:
    remote = [facts for facts in chosen if facts.remote]
    for facts in remote:
        check_remote_tier(facts, tier, allowed=allowed)
    if len(remote) > 1:
        names = " and ".join(repr(facts.model) for facts in remote)
        raise Refused("many_remote", f"{names} are remote: a session may have one remote member.")
