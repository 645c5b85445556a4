"""The token: every client that has it may use this council. A council without a token listens on loopback only.

    Authorization: Bearer TOKEN     programs
    …?token=TOKEN                   sockets of pages of other origins, which cannot send a header
    without                         GET /healthz and /readyz, for probes: yes or no, and no reason
    cookie                          this page, after POST /sign-in or GET /?token=TOKEN. It contains a digest, not the
                                    token: browsers send a cookie to every port of a host

Secrets are compared in constant time, as digests, which all have the same length.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import socket
import time
from importlib.resources import files
from urllib.parse import parse_qs

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from consumers.web.door.errors import error_response
from consumers.web.door.guard import is_same_origin
from consumers.web.door.limits import WRONG_TOKENS, Buckets, TooMany, address_of
from consumers.web.door.request import read_body
from schemas.errors import CouncilError, Refused

# 16 of 94 characters have 105 bits.
SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 512
_COOKIE_LIFE_S = 30 * 86_400
_HOW_TO_SEND = "send it as 'Authorization: Bearer TOKEN', or open / in a browser"
_HOW_TO_CREATE = "COUNCIL_TOKEN=$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"
_STYLE = re.compile(r"<style>(.*?)</style>", re.S)
SIGN_IN = "/sign-in"
_PROBES = ("/healthz", "/readyz")
# A form of one field, read from clients without a token: they must not occupy connections with it.
_SIGN_IN_S = 2.0
_MOST_SIGNING_IN = 32


def checked_token(token: str) -> str:
    """The token, if it is valid. Raises Refused with a message that does not contain the token."""
    is_plain = all("!" <= char <= "~" for char in token)
    if not SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not is_plain:
        raise Refused(
            "bad_token",
            f"The token must have {SHORTEST_TOKEN} to {_LONGEST_TOKEN} ASCII letters, digits and signs, without "
            f"spaces; create one with {_HOW_TO_CREATE}.",
        )
    return token


def token_from_environment() -> str | None:
    """The token in COUNCIL_TOKEN, or in the file of COUNCIL_TOKEN_FILE; None where neither is set. An empty variable
    counts as not set. Raises Refused with a message that does not contain the token."""
    if token := token_from_file():
        return token
    token = os.environ.get("COUNCIL_TOKEN")
    return checked_token(token) if token else None


def token_from_file() -> str | None:
    """The token in the file that COUNCIL_TOKEN_FILE names, without the space around it; None where it is not set.
    Raises Refused, also where COUNCIL_TOKEN is set, too."""
    file = os.environ.get("COUNCIL_TOKEN_FILE")
    if not file:
        return None
    if os.environ.get("COUNCIL_TOKEN"):
        raise Refused("bad_token", "COUNCIL_TOKEN and COUNCIL_TOKEN_FILE are both set: unset one of them.")
    try:
        with open(file, encoding="ascii", errors="replace") as opened:
            # Longer than the longest token with its line end, so that a longer file is refused.
            text = opened.read(2 * _LONGEST_TOKEN)
    except OSError as error:
        raise Refused(
            "bad_token",
            f"COUNCIL_TOKEN_FILE names {file!r}, which cannot be read ({error.strerror}): write the token into it.",
        ) from None
    try:
        return checked_token(text.strip())
    except Refused as error:
        raise Refused(error.code, f"COUNCIL_TOKEN_FILE names {file!r}: {error}") from None


def require_token(listening: socket.socket, token: str | None) -> None:
    """Raises Refused if other machines can reach the socket and there is no token."""
    address = listening.getsockname()[0]
    if token is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise Refused(
            "no_token",
            f"Other machines can reach {address}: set a token, as with {_HOW_TO_CREATE}, or leave --host out.",
        )


class Access:
    """The check of the token, and the sign-in page."""

    def __init__(self, token: str, port: int) -> None:
        self._digest = _digest(token)
        # Another council on this host, at another port, has a cookie of another name.
        self._cookie = f"council-{port}"
        self._cookie_value = hmac.new(token.encode(), b"a cookie of the council", hashlib.sha256).hexdigest()
        self._wrong = Buckets(WRONG_TOKENS)
        # How many bodies of sign-in requests are being read.
        self._reading = 0
        self._page = (files("consumers.web") / "sign-in.html").read_text()
        style = _STYLE.search(self._page)
        assert style is not None, "the page contains its style: all other files require the token"
        self._style = "sha256-" + base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()

    def routes(self) -> list[web.RouteDef]:
        return [web.post(SIGN_IN, self._sign_in)]

    @property
    def middleware(self) -> Middleware:
        """Refuses requests without the token."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path == SIGN_IN and request.method == hdrs.METH_POST:
                return await handler(request)
            token = _token_of(request)
            if token is None and self._has_cookie(request) and _is_of_this_page(request):
                return await handler(request)
            if token is None and request.path in _PROBES and request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
                return await _yes_or_no(request, handler)
            if token is None:
                return self._refuse(request, "no_token", f"This council requires its token: {_HOW_TO_SEND}.")
            if not self._is_right(request, token):
                return self._refuse(request, "wrong_token", f"This is not the council's token: {_HOW_TO_SEND}.")
            if request.path == "/" and hdrs.AUTHORIZATION not in request.headers:
                # Removes the token from the address, which browsers show and store.
                return self._signed_in()
            return await handler(request)

        return check

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        """The sign-in page's form."""
        if self._reading >= _MOST_SIGNING_IN:
            raise TooMany("too_many_requests", "Too many clients sign in at once: try again in a second.", 1.0)
        self._reading += 1
        try:
            token = _form_token(await read_body(request, _SIGN_IN_S))
        finally:
            self._reading -= 1
        if not self._is_right(request, token):
            return self._refuse(request, "wrong_token", "This is not the council's token.")
        return self._signed_in()

    def _is_right(self, request: web.Request, token: str) -> bool:
        """Raises TooMany for an address that has sent too many wrong tokens: the right token is refused then, too, so
        that guessing cannot go on."""
        address, now_s = address_of(request), time.monotonic()
        if self._wrong.left(address, now_s) < 1.0:
            wait_s = self._wrong.take(address, now_s)
            raise TooMany("too_many_tokens", "This address has sent too many wrong tokens: try again later.", wait_s)
        if hmac.compare_digest(_digest(token), self._digest):
            return True
        self._wrong.take(address, now_s)
        return False

    def _has_cookie(self, request: web.Request) -> bool:
        value = request.cookies.get(self._cookie, "")
        return hmac.compare_digest(_digest(value), _digest(self._cookie_value))

    def _signed_in(self) -> web.Response:
        response = web.Response(status=303, headers={hdrs.LOCATION: "/", hdrs.CACHE_CONTROL: "no-store"})
        # Lax: a link on another page opens this page signed in; requests of other pages have no cookie.
        response.set_cookie(
            self._cookie, self._cookie_value, max_age=_COOKIE_LIFE_S, httponly=True, samesite="Lax", path="/"
        )
        return response

    def _refuse(self, request: web.Request, code: str, message: str) -> web.Response:
        is_page = request.path in ("/", SIGN_IN) and "text/html" in request.headers.get(hdrs.ACCEPT, "")
        if not is_page:
            response = error_response(401, code, message, request.path)
        else:
            error = "This is not the council's token." if code == "wrong_token" else ""
            page = self._page.replace("<!-- error -->", error)
            response = web.Response(text=page, status=401, content_type="text/html", charset="utf-8")
            # With no-referrer a browser sends the form with `Origin: null`.
            response.headers["Referrer-Policy"] = "same-origin"
            response.headers["Content-Security-Policy"] = (
                f"default-src 'none'; style-src '{self._style}'; base-uri 'none'; form-action 'self'; "
                "frame-ancestors 'none'"
            )
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="council"'
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        return response


async def _yes_or_no(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A probe's response, without the reason if it is no: that is for clients with the token."""
    try:
        response = await handler(request)
    except CouncilError:
        response = None
    if response is not None and response.status == 200:
        return response
    return error_response(503, "not_ready", "The council is not ready: ask again with its token for the reason.")


def _token_of(request: web.Request) -> str | None:
    """The request's token, if it has one."""
    kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    tokens = request.query.getall("token", [])
    return tokens[0] if len(tokens) == 1 else None


def _is_of_this_page(request: web.Request) -> bool:
    """False for a page of another origin, even one in the setting origins: the cookie does not count for it, since
    browsers send a cookie to every port of a host."""
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or is_same_origin(origin, request.headers.get(hdrs.HOST, ""))


def _form_token(body: bytes) -> str:
    """The token in a form; empty if the form has none."""
    try:
        return parse_qs(body.decode("ascii", "replace"), max_num_fields=4).get("token", [""])[0].strip()
    except ValueError:
        return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
