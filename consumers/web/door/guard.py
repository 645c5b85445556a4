"""Which pages may use the server: its own, and those of the origins in the setting origins.

A browser sends any page's requests to loopback. Three checks refuse the requests of other pages:
- the Host must be one of this server's names; otherwise a foreign name points at this address (DNS rebinding);
- a request that changes something, or opens a socket, must not have another page's Origin (the first such origins are
  reported, since a page does not learn why its socket was refused);
- a resource that the browser loads for another page is refused (by an image the page could guess tokens, although it
  cannot read it). A link to this page may be followed.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from consumers.web.door.origins import Origins, RefusedOrigins
from consumers.web.door.request import plain_address
from schemas.errors import Refused
from schemas.rules.choice import shortened

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Without versions: they help attackers only.
SERVER = "council"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# What requests of a page of a named origin may contain: these headers, and others that its client asks for, such as
# X-Stainless-OS of OpenAI's. Clients ask for some twenty.
_METHODS = "GET, POST, PUT, DELETE"
_HEADERS = (hdrs.AUTHORIZATION, hdrs.CONTENT_TYPE, "Last-Event-ID")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_HEADERS = 64
_PREFLIGHT_S = "600"
# The header with the warnings of a response whose body has another form.
WARNING = "X-Council-Warning"
# What such a page may read of a response, beside its body, its type and its length.
_EXPOSED = ", ".join((hdrs.RETRY_AFTER, hdrs.CONTENT_DISPOSITION, hdrs.CONTENT_RANGE, hdrs.WWW_AUTHENTICATE, WARNING))
_EVENT_STREAM = "text/event-stream"


class Guard:
    """`bound_host` is the setting host. Pages of `origins` may do what this server's own page may, and their host names
    are accepted as this server's (for a proxy in front of it). Other origins and hosts are noted in `refused`."""

    def __init__(self, bound_host: str, origins: Origins, refused: RefusedOrigins) -> None:
        self._origins, self._refused = origins, refused
        self._names = (bound_host, *origins.host_names)

    @property
    def middleware(self) -> Middleware:
        """Refuses requests to a foreign host name, and requests of foreign pages."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            host = request.headers.get(hdrs.HOST, "")
            if not is_own_host(host, (*self._names, _address_of(request))):
                self._refused.note_host(host)
                raise Refused(
                    "forbidden_host",
                    f"{shortened(host)!r} is not a name of this server: use its address, or add this name to the "
                    "setting origins.",
                    status=403,
                )
            origin = request.headers.get(hdrs.ORIGIN)
            if self._origins.name(origin):
                if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
                    return web.Response(status=204, headers=_preflight(request))
                return await handler(request)
            is_foreign = origin is not None and not is_same_origin(origin, host)
            if origin is not None and is_foreign:
                # Also where the request is answered: without CORS headers the browser refuses it.
                self._refused.note(origin)
            if _is_for_another_page(request):
                raise Refused("forbidden_origin", "Pages of other origins may not load anything from here.", status=403)
            is_exposed = request.method not in _SAFE_METHODS or hdrs.UPGRADE in request.headers
            if origin is not None and is_exposed and is_foreign:
                raise Refused(
                    "forbidden_origin",
                    f"Pages of {shortened(origin)!r} may not use this server: add that origin to the setting origins.",
                    status=403,
                )
            return await handler(request)

        return check

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the security headers to every response."""
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers[hdrs.SERVER] = SERVER
        if response.content_type == _EVENT_STREAM:
            # By default nginx holds a response back until 4 KiB are there: at 60 events a second, 60 to 83 ms.
            response.headers["X-Accel-Buffering"] = "no"
        if not self._origins:
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN, "")
        if self._origins.name(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"


def _preflight(request: web.Request) -> dict[str, str]:
    """The headers of the response to a browser's question whether a page may send a request."""
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").split(",")
    names = [name for text in asked if _HEADER_NAME.fullmatch(name := text.strip())]
    return {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join((*_HEADERS, *names[:_MOST_HEADERS])),
        hdrs.ACCESS_CONTROL_MAX_AGE: _PREFLIGHT_S,
    }


def _is_for_another_page(request: web.Request) -> bool:
    """True where the browser reports that a page of another origin loads this (Fetch Metadata headers); programs do not
    send these headers."""
    is_foreign = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
    is_followed = request.headers.get("Sec-Fetch-Mode") == "navigate"
    return is_foreign and not (is_followed and request.headers.get("Sec-Fetch-Dest") == "document")


def is_own_host(host: str, own_names: tuple[str, ...]) -> bool:
    """True if a Host header names loopback or one of `own_names`; the port does not matter."""
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
    """True if an Origin header has this host and port."""
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()


def _address_of(request: web.Request) -> str:
    """This server's address on the connection: behind a wildcard binding, clients use it as the host name."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return plain_address(str(name[0])) if isinstance(name, tuple) else ""
