"""Who may talk to the server: pages of its own, and programs on this machine.

A browser takes any page's requests to loopback. Two checks keep other pages out: the Host must be ours (else a foreign
name was pointed at this address: DNS rebinding), and what changes something or reads frames must be asked by no page of
another Origin.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from schemas.errors import Refused

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def guard(bound_host: str) -> Middleware:
    """Refuses requests under a foreign name, and those of foreign pages. `bound_host` is as a person gave it."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST, "")
        if not is_own_host(host, (bound_host, _address_of(request))):
            raise Refused(
                "forbidden_host", f"This server is not {host!r}: use the address that it was started with.", status=403
            )
        origin = request.headers.get(hdrs.ORIGIN)
        is_exposed = request.method not in _SAFE_METHODS or hdrs.UPGRADE in request.headers
        if origin is not None and is_exposed and not is_same_origin(origin, host):
            raise Refused("forbidden_origin", f"Pages of {origin!r} may not do this.", status=403)
        return await handler(request)

    return check


def is_own_host(host: str, own_names: tuple[str, ...]) -> bool:
    """True where a Host header names loopback or one of `own_names`, whatever its port."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    if not name:
        return False
    if name == "localhost" or name in (own.lower() for own in own_names):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_same_origin(origin: str, host: str) -> bool:
    """True where an Origin header is a page that came from this very host and port."""
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()


def _address_of(request: web.Request) -> str:
    """The address that the connection came in at: what a wildcard binding is called from outside."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return str(name[0]) if isinstance(name, tuple) else ""


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """For every response, whatever made it."""
    response.headers.update(_HEADERS)
