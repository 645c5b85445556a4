"""The query of an address: only what is known, once, and numbers that are some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.errors import Refused
from schemas.rules.choice import shortened

# Longer numbers are no places in an answer, no frames, and no numbers in a browser.
_MOST_DIGITS = 15
# Who may ask is checked before: what is asked for does not depend on it.
_TOKEN = "token"


def known_parameters(query: Mapping[str, str], names: Sequence[str]) -> None:
    """Raises Refused for a parameter that is none of these, or comes twice. The token is everywhere."""
    given = [name for name, _ in query.items() if name != _TOKEN]
    for name in given:
        if name not in names:
            offered = f"the parameters are {', '.join(names)}" if names else "there are none"
            raise Refused("bad_request", f"There is no parameter {shortened(name)!r}: {offered}.")
        if given.count(name) > 1:
            raise Refused("bad_request", f"The parameter {name!r} is given twice: give it once.")


def whole_number(name: str, written: str, what: str) -> int:
    """The number that is written. Raises Refused `bad_<name>`; `what` says what it counts."""
    if not (written.isascii() and written.isdigit() and len(written) <= _MOST_DIGITS):
        raise Refused(
            f"bad_{name}",
            f"{name} is {shortened(written)!r}: give {what}, a whole number from 0 to {10**_MOST_DIGITS - 1}.",
        )
    return int(written)
