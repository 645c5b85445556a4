"""What the processes of a council serve, by their records: models, and members that have names."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from schemas.models import ModelFacts, facts_in
from schemas.processes import ProcessRecord
from schemas.sessions import MemberSpec


def served_models(records: Sequence[ProcessRecord]) -> list[ModelFacts]:
    """What producers serve, each model once: first in the order in which a council prefers them, then as they came.

    Of several producers of a model the one counts that has it in memory, else the one that came first.
    """
    served: dict[str, ModelFacts] = {}
    for record in records:
        if record.role == "producer":
            facts = facts_in(record.detail)
            if facts.model and (facts.model not in served or facts.residency == "loaded"):
                served[facts.model] = facts
    preferred = [
        model for record in records if record.role == "council" for model in council_models(record) if model in served
    ]
    return [served[model] for model in dict.fromkeys([*preferred, *served])]


def council_models(council: ProcessRecord) -> list[str]:
    """The models that a council serves, by its own record, in the order in which it prefers them."""
    return [model for model in str(council.detail.get("models", "")).split(",") if model]


def named_members(records: Sequence[ProcessRecord]) -> list[MemberSpec]:
    """The members that the council has by name: those that answer where a request names none; empty where the council
    has none, or its roles run alone."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("members", "[]")), type=list[MemberSpec])
    return []
