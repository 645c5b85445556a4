"""Admission: checks a request completely, before anything is started, and makes the session's opening."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import get_args
from zlib import crc32

import msgspec

from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.rules.choice import ChosenMember, chosen_members, crowding, fitting_members, full_name, shortened
from schemas.rules.continuing import able_members, check_consensus, is_able, same_drafts
from schemas.rules.councils import with_named_council
from schemas.rules.members import check_option
from schemas.rules.texts import check_size_of, check_texts
from schemas.rules.tiers import TIERS, TierPolicy, ladder_below
from schemas.sessions import (
    ENTRY_VERSION,
    LARGEST_OPTION,
    MAX_MIXTURE,
    MEMBER_OPTIONS,
    Limits,
    Member,
    MemberSpec,
    NamedCouncil,
    Opening,
    Sampling,
    SessionRequest,
    Sync,
    Weighting,
)

_WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
# The default first, as the refusal of another one lists them.
_SYNCS: tuple[Sync, ...] = ("step", "free", "consensus")


class Admission(msgspec.Struct, frozen=True):
    """An opening that may be written, and a sentence for each part of the request that it leaves out."""

    opening: Opening
    warnings: tuple[str, ...]


def admit(
    request: SessionRequest,
    session: str,
    served: Sequence[ModelFacts],
    tier: TierPolicy,
    limits: Limits,
    *,
    known: Sequence[ModelFacts] = (),
    tiers: Mapping[str, TierPolicy] = TIERS,
    named: Sequence[MemberSpec] = (),
    councils: Sequence[NamedCouncil] = (),
    given: Collection[str] = (),
    may_leave_out: bool = True,
) -> Admission:
    """The opening of `session`. `served` are the models in order of preference. Where the request names no member,
    those of the council are chosen, which are `named`, or else the first models. Where it names one of the `councils`,
    it is for the members of that one; `given` are the names of the fields that the client has sent (with_council()).

    A request may also name a model that is only `known`: its member is dropped if no producer serves it. `tiers` are
    all tiers, which the session may fall down. Without `may_leave_out` a request is refused that names more members
    than the tier runs at once.

    Raises Refused (with a code) for a prompt, turn, prefix, member, weight, weighting, sync or number that is not
    valid, for a mixture without a consensus, and where too few members continue a text that the session requires them
    to continue.
    """
    request = with_named_council(request, councils, given)
    check_texts(request)
    sampling = Sampling(request.max_tokens, request.temperature, _seed(request, session))
    _check_sampling(sampling)
    try:
        chosen = _requested_members(request, served, known, tier, named)
    except Refused as refusal:
        if refusal.code != "unknown_model" or not councils:
            raise
        names = ", ".join(council.name for council in councils)
        raise Refused(refusal.code, f"{refusal} Councils: {names}.", status=refusal.status) from None
    able, unable = able_members(request, chosen)
    running, left_out = able[: tier.max_parallel_models], able[tier.max_parallel_models :]
    if left_out and request.models and not may_leave_out:
        raise Refused(
            "too_many_models",
            f"models has {len(able)} members, and the {tier.name} tier runs {tier.max_parallel_models} at once: name "
            "fewer, or choose a higher tier.",
            status=409,
        )
    check_consensus(request, running, tier)
    _check_mixture(request)
    weights = _checked_weights(request, chosen, running)
    samplings = _own_samplings(request, chosen, sampling)
    crowd = crowding(running, tier)
    opening = Opening(
        version=ENTRY_VERSION,
        session=session,
        prompt=request.prompt,
        members=tuple(
            Member(
                member.facts.model, weights[member.name], member.facts.remote, samplings.get(member.name),
                member.spec.name, member.spec.system, index in crowd.queued,
            )
            for index, member in enumerate(running)
        ),
        system=request.system,
        sampling=sampling,
        sync=checked_sync(request.sync),
        tier=tier.name,
        profile=tier.profile,
        limits=limits,
        history=request.history,
        ladder=ladder_below(tier, tiers),
        weighting=checked_weighting(request.weighting),
        prefix=request.prefix,
        parent=request.parent,
        mixture=request.mixture,
    )  # fmt: skip
    for member in chosen:
        if member.spec.system is not None:
            check_size_of(f"system text of {member.name!r}", member.spec.system)
    left_out_names = [member.name for member in left_out]
    return Admission(
        opening, (*unable, *_left_out_warning(tier, left_out_names), *same_drafts(request, running), *crowd.warnings)
    )


def _requested_members(
    request: SessionRequest,
    served: Sequence[ModelFacts],
    known: Sequence[ModelFacts],
    tier: TierPolicy,
    named: Sequence[MemberSpec],
) -> list[ChosenMember]:
    """The members that the request names. Where it names none: the first of the council's own, `named`, or else of the
    served models, as many as the tier runs. Raises Refused."""
    if request.models:
        available = {facts.model: facts for facts in [*known, *served]}
        return chosen_members(request.models, available, named, tier, allow_remote=request.allow_remote)
    available = {facts.model: facts for facts in served}
    own = [spec for spec in named if spec.model in available]
    fitting, refused = fitting_members(own or map(MemberSpec, available), available, tier)
    if not fitting:
        no_models = Refused("no_models", "No model is served: start the council with `council up`.", status=409)
        raise next(iter(refused.values()), no_models)
    first = fitting[: tier.max_parallel_models]
    # Where one of the first cannot continue a text, the next one that can takes its place.
    able = [member for member in fitting if is_able(request, member)][: tier.max_parallel_models]
    return [member for member in fitting if member in first or member in able]


def _seed(request: SessionRequest, session: str) -> int | None:
    """The request's seed. Where the council draws its words and the request has none, one that is drawn with the
    session's random id, so that the draws follow from the opening."""
    if request.seed is None and request.sync == "consensus" and request.temperature > 0.0:
        return crc32(session.encode())
    return request.seed


def _left_out_warning(tier: TierPolicy, left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    names = ", ".join(left_out)
    return (f"The {tier.name} tier runs {tier.max_parallel_models} models at once; left out: {names}.",)


def _check_sampling(sampling: Sampling, of: str = "") -> None:
    for option in MEMBER_OPTIONS:
        value = getattr(sampling, option)
        if value is not None:
            check_option(option, value, of)


def _check_mixture(request: SessionRequest) -> None:
    if not 0 <= request.mixture <= MAX_MIXTURE:
        raise Refused("bad_mixture", f"mixture is {request.mixture}: give a whole number from 0 to {MAX_MIXTURE}.")
    if request.mixture and request.sync != "consensus":
        raise Refused(
            "bad_mixture",
            f"mixture is {request.mixture}, but only a consensus has one: set sync to consensus, or mixture to 0.",
        )


def _own_samplings(request: SessionRequest, members: Sequence[ChosenMember], usual: Sampling) -> dict[str, Sampling]:
    """The sampling of each member that has options of its own, by its name. Options of the request replace those of a
    member's description."""
    own = {member.name: dict(member.spec.options) for member in members}
    for named, options in request.options.items():
        name = full_name(named, own)
        if name not in own:
            raise Refused(
                "unknown_option",
                f"There are options for the unknown member {shortened(named)!r}; members: {', '.join(own)}.",
                status=404,
            )
        for option, number in options.items():
            if option not in MEMBER_OPTIONS:
                raise Refused(
                    "unknown_option",
                    f"{name!r} has an unknown option {shortened(option)!r}; "
                    f"known options: {', '.join(MEMBER_OPTIONS)}.",
                )
            is_exact = abs(number) <= LARGEST_OPTION
            if option != "temperature" and not (is_exact and float(number).is_integer()):
                shown = shortened(str(number))
                raise Refused(f"bad_{option}", f"{option} of {name!r} is {shown}: give a whole number.")
            own[name][option] = number
    samplings = {}
    for name, values in own.items():
        if values:
            whole = {option: value if option == "temperature" else int(value) for option, value in values.items()}
            samplings[name] = msgspec.structs.replace(usual, **whole)
            _check_sampling(samplings[name], f" of {name!r}")
    return samplings


def checked_weighting(name: str) -> Weighting:
    """The weighting with this name. Raises Refused for an unknown name."""
    for weighting in _WEIGHTINGS:
        if name == weighting:
            return weighting
    raise Refused("bad_weighting", f"weighting is {shortened(str(name))!r}: give {' or '.join(_WEIGHTINGS)}.")


def checked_sync(name: str) -> Sync:
    """The sync with this name. Raises Refused for an unknown name."""
    for sync in _SYNCS:
        if name == sync:
            return sync
    raise Refused("bad_sync", f"sync is {shortened(str(name))!r}: give {', '.join(_SYNCS[:-1])} or {_SYNCS[-1]}.")


def _checked_weights(
    request: SessionRequest, members: Sequence[ChosenMember], running: Sequence[ChosenMember]
) -> dict[str, float]:
    names = [member.name for member in members]
    given = {full_name(name, names): weight for name, weight in request.weights.items()}
    for name, weight in given.items():
        if name not in names:
            raise Refused(
                "unknown_weight",
                f"There is a weight for the unknown member {shortened(name)!r}; members: {', '.join(names)}.",
                status=404,
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise Refused("bad_weight", f"The weight of {name!r} is {weight}: give a finite number, 0 or more.")
    weights = {member.name: float(given.get(member.name, 1.0)) for member in running}
    if not any(weights.values()):
        raise Refused("zero_weights", "All weights are 0: give at least one member a weight above 0.", status=409)
    if not math.isfinite(sum(weights.values())):
        raise Refused(
            "bad_weight", "The sum of the weights is too large for a number: give smaller weights.", status=409
        )
    return weights
