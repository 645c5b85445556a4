"""Which members a session has that requires them to continue a text they have not written: a what-if branch, or a
consensus."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import Refused
from schemas.rules.choice import ChosenMember, unique_models
from schemas.rules.tiers import TierPolicy
from schemas.sessions import SessionRequest


def is_able(request: SessionRequest, member: ChosenMember) -> bool:
    """False for a member of which it is known that the session would be without it. One whose model was never tried is
    able: it is dropped, with the reason, if its model cannot continue."""
    must_continue = bool(request.prefix) or request.sync == "consensus"
    return not (must_continue and member.facts.continues == "no")


def able_members(request: SessionRequest, chosen: Sequence[ChosenMember]) -> tuple[list[ChosenMember], tuple[str, ...]]:
    """(those that are able, a sentence for each other one). Raises Refused where none is able."""
    able = [member for member in chosen if is_able(request, member)]
    if not able:
        names = ", ".join(facts.model for facts in unique_models(chosen))
        kind = "what-if" if request.prefix else "consensus"
        raise Refused(
            "cannot_continue",
            f"A {kind} session requires models that continue a text, and these cannot: {names}; name others.",
            status=409,
        )
    return able, tuple(
        f"{member.name} is left out: its model {member.facts.model!r} cannot continue a text."
        for member in chosen
        if member not in able
    )


def same_drafts(request: SessionRequest, running: Sequence[ChosenMember]) -> tuple[str, ...]:
    """A sentence for each group of members that write the same draft: members of a consensus write greedily, so only
    the model and the system text make a difference."""
    if request.sync != "consensus":
        return ()
    groups: dict[tuple[str, str | None], list[str]] = {}
    for member in running:
        groups.setdefault((member.facts.model, member.spec.system), []).append(member.name)
    return tuple(
        f"{' and '.join(names)} write the same draft, because members of a consensus write greedily: give them "
        "different models or system texts, or keep one of them."
        for names in groups.values()
        if len(names) > 1
    )


def check_consensus(request: SessionRequest, running: Sequence[ChosenMember], tier: TierPolicy) -> None:
    """Raises Refused for a consensus session with fewer than two members."""
    if request.sync != "consensus" or len(running) >= 2:
        return
    advice = "name another one whose model can continue a text"
    if tier.max_parallel_models < 2:
        advice = f"the {tier.name} tier runs one model at once, so choose a higher one"
    raise Refused(
        "too_few_members",
        f"A consensus session requires two members, and this one would have {running[0].name} alone: {advice}.",
        status=409,
    )
