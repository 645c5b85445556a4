"""The councils of the settings: a request that names one gets its members, and its values where it has none."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from schemas.errors import Refused
from schemas.sessions import NamedCouncil, SessionRequest

# The fields of a request that a council may set, besides its members with their weights and options.
COUNCIL_VALUES = ("sync", "weighting", "system", "max_tokens", "temperature", "seed")
_USUAL = SessionRequest(prompt="")


def with_named_council(
    request: SessionRequest, councils: Sequence[NamedCouncil], given: Collection[str] = ()
) -> SessionRequest:
    """The request, where it names one of the councils: as with_council() returns it; any other request unchanged.
    Raises Refused where it names a council beside other members."""
    found = next((council for council in councils if council.name in request.models), None)
    if found is None:
        return request
    if len(request.models) > 1:
        raise Refused("bad_member", f"{found.name!r} is a council, which cannot be a member: name it alone.")
    return with_council(request, found, given)


def with_council(request: SessionRequest, council: NamedCouncil, given: Collection[str] = ()) -> SessionRequest:
    """The request for the members of the council.

    Values of the request outweigh those of the council: weights and options name by name; a field of COUNCIL_VALUES
    where it differs from its default, or is among the names `given` and not None. A member's own option outweighs the
    request's temperature, seed and max_tokens, as it does in every session.
    """

    def value(name: str) -> object:
        asked, own = getattr(request, name), getattr(council, name)
        is_given = asked != getattr(_USUAL, name) or (name in given and asked is not None)
        return asked if own is None or is_given else own

    named = [*council.options, *request.options]
    return msgspec.structs.replace(
        request,
        models=council.members,
        weights=council.weights | request.weights,
        options={name: council.options.get(name, {}) | request.options.get(name, {}) for name in named},
        **{name: value(name) for name in COUNCIL_VALUES},
    )


def names_of(council: NamedCouncil) -> list[str]:
    """The display names of its members."""
    return [member if isinstance(member, str) else member.display_name for member in council.members]
