"""Which member of a session a person means: by its index, its model's name, or its id in the protocol."""

from __future__ import annotations

from schemas.errors import Refused
from schemas.events import protocol_model_ids
from schemas.rules.choice import shortened
from schemas.sessions import Opening


def member_index(written: str | None, opening: Opening) -> int:
    """The member's index. Raises Refused where it is none, or where none of several is named."""
    models = opening.names
    offered = ", ".join(f"{index} {model}" for index, model in enumerate(models))
    if written is None:
        if len(models) > 1:
            raise Refused("no_member", f"Say which member, by its index or its name; members: {offered}.")
        return 0
    for names in (tuple(map(str, range(len(models)))), models, protocol_model_ids(models)):
        if written in names:
            return names.index(written)
    raise Refused("unknown_member", f"There is no member {shortened(written)!r} in this session; members: {offered}.")
