"""The models that the processes of a council serve, its named members and its named councils, from process records."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from schemas.errors import NoAggregator
from schemas.models import ModelFacts, facts_in
from schemas.processes import ProcessRecord
from schemas.sessions import MemberSpec, NamedCouncil


def served_models(records: Sequence[ProcessRecord]) -> list[ModelFacts]:
    """The models that producers serve, each once: first in the council's order of preference, then by the age of their
    producers. A producer that is draining serves nothing new.

    Of several producers of a model, one that has it in memory counts, else the oldest one.
    """
    served: dict[str, ModelFacts] = {}
    for record in records:
        if record.role == "producer" and not record.is_draining:
            facts = facts_in(record.detail)
            if facts.model and (facts.model not in served or facts.residency == "loaded"):
                served[facts.model] = facts
    preferred = [
        model for record in records if record.role == "council" for model in council_models(record) if model in served
    ]
    return [served[model] for model in dict.fromkeys([*preferred, *served])]


class Failure(msgspec.Struct, frozen=True):
    """The last answer of a model that failed: when (Unix time in milliseconds), and why, as a sentence with its
    server's address and the first line of the server's answer."""

    model: str
    server: str
    failed_ms: int
    reason: str


def last_failures(records: Sequence[ProcessRecord]) -> dict[str, Failure]:
    """By model, its last failure; models without one are left out."""
    found: dict[str, Failure] = {}
    for record in records:
        detail = record.detail
        reason, failed_ms, model = detail.get("failure"), detail.get("failed_ms"), str(detail.get("model", ""))
        if record.role != "producer" or not isinstance(reason, str) or not isinstance(failed_ms, int) or not reason:
            continue
        if model not in found or found[model].failed_ms < failed_ms:
            found[model] = Failure(model, str(detail.get("server", "")), failed_ms, reason)
    return found


def require_aggregator(records: Sequence[ProcessRecord]) -> None:
    """Raises NoAggregator where no aggregator is ready: a new session would have no frames."""
    if not any(record.role == "aggregator" and record.ready for record in records):
        raise NoAggregator("No aggregator runs: start one with `council up` or `python -m aggregator`.")


def council_models(council: ProcessRecord) -> list[str]:
    """The models of a council, from its own record, in its order of preference."""
    return [model for model in str(council.detail.get("models", "")).split(",") if model]


def named_members(records: Sequence[ProcessRecord]) -> list[MemberSpec]:
    """The council's named members, which answer a request that names no member. Empty where it has none, or where roles
    run without a council."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("members", "[]")), type=list[MemberSpec])
    return []


def named_councils(records: Sequence[ProcessRecord]) -> list[NamedCouncil]:
    """The councils of the settings, which a request may name. Empty as named_members() is."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("councils", "[]")), type=list[NamedCouncil])
    return []
