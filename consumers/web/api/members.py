"""Finds the member of a session that a request names by index, display name, or id in the protocol."""

from __future__ import annotations

from schemas.errors import Refused
from schemas.events import protocol_model_ids
from schemas.rules.choice import shortened
from schemas.sessions import Opening


def member_index(name: str | None, opening: Opening) -> int:
    """The member's index; without a name, that of the only member. Raises Refused for an unknown name, and for several
    members without a name."""
    known = ", ".join(f"{index} {display_name}" for index, display_name in enumerate(opening.names))
    if name is None:
        if len(opening.names) > 1:
            raise Refused(
                "no_member", f"The member is missing: give its index or its name; members: {known}.", status=409
            )
        return 0
    for names in (tuple(map(str, range(len(opening.names)))), opening.names, protocol_model_ids(opening.names)):
        if name in names:
            return names.index(name)
    raise Refused(
        "unknown_member", f"{shortened(name)!r} is not a member of this session; members: {known}.", status=404
    )
