"""From a request to an opening: everything that can be wrong with a request is found here, before anything is
started."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import msgspec

from schemas.errors import Refused
from schemas.sessions import (
    ENTRY_VERSION,
    MAX_PROMPT_BYTES,
    MAX_TOKENS_LIMIT,
    Limits,
    Member,
    Opening,
    Sampling,
    SessionRequest,
)
from schemas.tiers import TierPolicy


class Admission(msgspec.Struct, frozen=True):
    """An opening that may be written, and a sentence for whatever of the request it leaves out."""

    opening: Opening
    warnings: tuple[str, ...]


def admit(
    request: SessionRequest,
    session: str,
    served: Sequence[str],
    tier: TierPolicy,
    limits: Limits,
    known: Collection[str] = (),
) -> Admission:
    """The opening of `session`. `served` are the models in order of preference; the first ones run where none is named.

    A model that is only `known` may be named as well: it is a member, and drops if nobody serves it.

    Raises Refused (with a code) for a prompt, model, weight or number that cannot be.
    """
    _check_text(request)
    _check_numbers(request)
    models = _chosen_models(request, served, known, tier)
    running, left_out = models[: tier.max_parallel_models], models[tier.max_parallel_models :]
    weights = _checked_weights(request, models, running)
    opening = Opening(
        version=ENTRY_VERSION,
        session=session,
        prompt=request.prompt,
        members=tuple(Member(model, weights[model]) for model in running),
        system=request.system,
        sampling=Sampling(request.max_tokens, request.temperature, request.seed),
        tier=tier.name,
        profile=tier.profile,
        limits=limits,
    )
    return Admission(opening, _left_out_warning(tier, left_out))


def _left_out_warning(tier: TierPolicy, left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    names = ", ".join(left_out)
    return (f"The {tier.name} tier runs {tier.max_parallel_models} models at once; left out: {names}.",)


def _check_text(request: SessionRequest) -> None:
    if not request.prompt.strip():
        raise Refused("empty_prompt", "The prompt is empty: write what the council should answer.")
    for name, text in (("prompt", request.prompt), ("system text", request.system)):
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise Refused(f"bad_{name[:6]}", f"The {name} holds characters that are not valid Unicode.") from None
        if size > MAX_PROMPT_BYTES:
            raise Refused(
                "prompt_too_long",
                f"The {name} has {size} bytes and the limit is {MAX_PROMPT_BYTES}: shorten it.",
                status=413,
            )


def _check_numbers(request: SessionRequest) -> None:
    if not 1 <= request.max_tokens <= MAX_TOKENS_LIMIT:
        raise Refused(
            "bad_max_tokens", f"max_tokens is {request.max_tokens}: give a number from 1 to {MAX_TOKENS_LIMIT}."
        )
    if not (math.isfinite(request.temperature) and 0.0 <= request.temperature <= 2.0):
        raise Refused("bad_temperature", f"temperature is {request.temperature}: give a number from 0 to 2.")
    if request.seed is not None and not 0 <= request.seed < 2**32:
        raise Refused("bad_seed", f"seed is {request.seed}: give a whole number from 0 to 4294967295.")


def _chosen_models(
    request: SessionRequest, served: Sequence[str], known: Collection[str], tier: TierPolicy
) -> list[str]:
    if not request.models:
        if not served:
            raise Refused("no_models", "No model is served: start the council with `council up`.", status=409)
        return list(served[: tier.max_parallel_models])
    available = dict.fromkeys([*served, *known])
    for index, model in enumerate(request.models):
        if model not in available:
            offered = ", ".join(available) or "none is served"
            raise Refused("unknown_model", f"There is no model {model!r} here; available: {offered}.")
        if model in request.models[:index]:
            raise Refused("duplicate_model", f"The model {model!r} is named twice: name each model once.")
    return list(request.models)


def _checked_weights(request: SessionRequest, models: list[str], running: list[str]) -> dict[str, float]:
    for model, weight in request.weights.items():
        if model not in models:
            raise Refused(
                "unknown_weight", f"There is a weight for {model!r}, which is no member; members: {', '.join(models)}."
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise Refused("bad_weight", f"The weight of {model!r} is {weight}: give a finite number, 0 or more.")
    weights = {model: float(request.weights.get(model, 1.0)) for model in running}
    if not any(weights.values()):
        raise Refused("zero_weights", "All weights are 0: give at least one member a weight above 0.")
    if not math.isfinite(sum(weights.values())):
        raise Refused("bad_weight", "The weights add up to more than a number can hold: give smaller ones.")
    return weights
