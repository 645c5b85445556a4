"""The limits of a session: the defaults, and what the user has changed of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.errors import Refused
from schemas.sessions import LONGEST_MS, Limits


def limits_with(overrides: Mapping[str, int]) -> Limits:
    """The default limits with some of them changed. Raises Refused for an unknown name, or a number that is out of
    range."""
    for name, value in overrides.items():
        if name not in Limits.__struct_fields__:
            raise Refused(
                "unknown_limit", f"Unknown limit {name!r}; known limits: {', '.join(Limits.__struct_fields__)}."
            )
        if not isinstance(value, int) or not 1 <= value <= LONGEST_MS:
            raise Refused("bad_limit", f"The limit {name} is {value!r}: give a whole number from 1 to {LONGEST_MS}.")
    return msgspec.structs.replace(Limits(), **overrides)
