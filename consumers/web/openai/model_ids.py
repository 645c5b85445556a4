"""The ids of /v1/models, and the members that they name.

council              all members; their answers one below the other
council:consensus    all members; one answer, written together
council:NAME         a council of the settings
council:MEMBER       one member: a member of the settings, or a model
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consumers.web.openai.parameters import Asked
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.processes import ProcessRecord
from schemas.rules.choice import shortened
from schemas.rules.councils import with_council
from schemas.rules.served import named_councils, named_members, served_models
from schemas.sessions import SessionRequest

COUNCIL = "council"
_PREFIX = f"{COUNCIL}:"
CONSENSUS = f"{_PREFIX}consensus"
# A council that has such a model as a member is a loop: producers recognise it by this.
OWNER = "local-council"
# The refusal of an unknown model names some ids.
_MOST_NAMED = 12


def model_ids(records: Sequence[ProcessRecord]) -> list[str]:
    """The ids of all models, those of the whole council first."""
    members = [member.display_name for member in named_members(records)]
    models = [facts.model for facts in served_models(records)]
    councils = [council.name for council in named_councils(records)]
    return [COUNCIL, CONSENSUS, *(f"{_PREFIX}{name}" for name in dict.fromkeys([*councils, *members, *models]))]


def requests_for(asked: Asked, records: Sequence[ProcessRecord]) -> list[SessionRequest]:
    """The session requests of the choices, with the members that the model's id names. Raises Refused for an unknown
    id."""
    return [_request_for(asked, request, records) for request in asked.requests]


def _request_for(asked: Asked, request: SessionRequest, records: Sequence[ProcessRecord]) -> SessionRequest:
    name = asked.model.removeprefix(_PREFIX)
    if name == CONSENSUS.removeprefix(_PREFIX):
        return _with_mixture(msgspec.structs.replace(request, sync="consensus"), asked)
    if name == COUNCIL:
        return request
    if council := next((council for council in named_councils(records) if council.name == name), None):
        return _with_mixture(with_council(request, council, asked.given), asked)
    members = {member.display_name: member for member in named_members(records)}
    if name in members:
        # What the client sets itself outweighs the member's own option.
        own = {option: getattr(request, option) for option in members[name].options if option in asked.given}
        return msgspec.structs.replace(request, models=(name,), options={name: own} if own else {})
    if not _is_served(name, served_models(records)):
        raise unknown_id(asked.model, records)
    return msgspec.structs.replace(request, models=(name,))


def _with_mixture(request: SessionRequest, asked: Asked) -> SessionRequest:
    """The request, with the mixture where the client requests logprobs of one answer of all members."""
    if request.sync != "consensus" or asked.logprobs is None:
        return request
    # The share of the text itself is beside the alternatives: it needs one of them at least.
    return msgspec.structs.replace(request, mixture=max(1, asked.logprobs))


def _is_served(name: str, served: Sequence[ModelFacts]) -> bool:
    # Ollama's `llama3` is `llama3:latest`.
    return any(facts.model in (name, f"{name}:latest") for facts in served)


def unknown_id(model: str, records: Sequence[ProcessRecord]) -> Refused:
    """The refusal of an unknown model."""
    ids = model_ids(records)
    shown = ", ".join(ids[:_MOST_NAMED])
    more = f" and {len(ids) - _MOST_NAMED} more (GET /v1/models)" if len(ids) > _MOST_NAMED else ""
    return Refused(
        "model_not_found", f"There is no model {shortened(model)!r} here; available: {shown}{more}.", status=404
    )
