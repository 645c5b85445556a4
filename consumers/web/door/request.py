"""Parts of a request: its query parameters, its body, and the addresses of its connection."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence

from aiohttp import hdrs, web

from schemas.errors import Refused
from schemas.rules.choice import shortened

# Longer numbers are no byte positions, no windows, and not exact in a browser.
_MOST_DIGITS = 15
MOST_NUMBER = 10**_MOST_DIGITS - 1
# Every route accepts the token, which was checked before.
_TOKEN = "token"
# A body of 64 KiB over a slow line takes a second or two.
_BODY_S = 10.0


def known_parameters(query: Mapping[str, str], names: Sequence[str]) -> None:
    """Raises Refused for a parameter that is not in `names`, or is given twice. Every route accepts the token."""
    given = [name for name, _ in query.items() if name != _TOKEN]
    for name in given:
        if name not in names:
            known = f"known parameters: {', '.join(names)}" if names else "this address has no parameters"
            raise Refused("bad_request", f"Unknown parameter {shortened(name)!r}; {known}.")
        if given.count(name) > 1:
            raise Refused("bad_request", f"The parameter {name!r} is given twice: give it once.")


def whole_number(query: Mapping[str, str], name: str, meaning: str) -> int | None:
    """The number in a parameter; None without that parameter. Raises Refused `bad_<name>`; its message names the number
    by `meaning`, such as "a window's index"."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise Refused(
            f"bad_{name}",
            f"{name} is {shortened(text)!r}: give {meaning}, a whole number from 0 to {MOST_NUMBER}.",
        )
    return int(text)


async def read_body(request: web.Request, most_s: float = _BODY_S) -> bytes:
    """The whole body. Raises Refused if it is compressed or takes too long, and aiohttp's own error if it is too
    large."""
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Refused("unsupported_media_type", "Send the body without compression.", status=415)
    try:
        async with asyncio.timeout(most_s):
            return await request.read()
    except TimeoutError:
        raise Refused(
            "body_too_slow", f"The body was not complete after {most_s:g} s: send it without pauses.", status=408
        ) from None


def plain_address(address: str) -> str:
    """The IPv4 address of an IPv4-mapped IPv6 address; any other text as it is."""
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return address if mapped is None else str(mapped)
