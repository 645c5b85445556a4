"""The token: whoever has it may use this council. Without one everybody may who reaches it, and only this machine does.

    Authorization: Bearer TOKEN     programs
    …?token=TOKEN                   sockets of pages elsewhere, which can send no header
    cookie                          this page, after POST /sign-in or GET /?token=TOKEN. It holds no token, but a digest
                                    of it, so that no other server on this host (cookies know no ports) learns it

Every comparison takes the same time, whatever is compared: of digests, which are all of one length.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
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
from consumers.web.door.reading import read_body
from schemas.errors import Refused

# At 94 characters 105 bits: what nobody guesses.
SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 512
_COOKIE_LIFE_S = 30 * 86_400
_HOW = "send it as 'Authorization: Bearer TOKEN', or open / in a browser"
_MAKE_ONE = "COUNCIL_TOKEN=$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"
_STYLE = re.compile(r"<style>(.*?)</style>", re.S)
SIGN_IN = "/sign-in"
# A form of one field, read before anybody has shown a token: strangers must not hold connections with it.
_SIGN_IN_S = 2.0
_MOST_SIGNING_IN = 32


def checked_token(token: str) -> str:
    """The token as it may be. Raises Refused, without saying what was given."""
    is_plain = all("!" <= char <= "~" for char in token)
    if not SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not is_plain:
        raise Refused(
            "bad_token",
            f"The token must have {SHORTEST_TOKEN} to {_LONGEST_TOKEN} letters, digits and signs of ASCII, and no "
            f"spaces; make one with {_MAKE_ONE}.",
        )
    return token


def require_token(listening: socket.socket, token: str | None) -> None:
    """Raises Refused where others than this machine reach the socket, and nothing keeps them out."""
    address = listening.getsockname()[0]
    if token is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise Refused(
            "no_token",
            f"On {address} others could use this council: set a token, as with {_MAKE_ONE}, or leave --host out.",
        )


class Access:
    """The check of the token, and the page that asks a person for it."""

    def __init__(self, token: str, port: int) -> None:
        self._digest = _digest(token)
        # Another council on this host has its own.
        self._cookie = f"council-{port}"
        self._pass = hmac.new(token.encode(), b"a cookie of the council", hashlib.sha256).hexdigest()
        self._wrong = Buckets(WRONG_TOKENS)
        # How many bodies of strangers are being read.
        self._reading = 0
        self._page = (files("consumers.web") / "sign-in.html").read_text()
        style = _STYLE.search(self._page)
        assert style is not None, "the page has a style of its own: all other files are behind the token"
        self._style = "sha256-" + base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()

    def routes(self) -> list[web.RouteDef]:
        return [web.post(SIGN_IN, self._sign_in)]

    @property
    def middleware(self) -> Middleware:
        """Lets nobody pass without the token."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path == SIGN_IN and request.method == hdrs.METH_POST:
                return await handler(request)
            given = _given(request)
            if given is None and self._has_cookie(request) and _is_of_this_page(request):
                return await handler(request)
            if given is None:
                return self._ask(request, "no_token", f"This council asks for its token: {_HOW}.")
            if not self._is_right(request, given):
                return self._ask(request, "wrong_token", f"This is not the council's token: {_HOW}.")
            if request.path == "/" and hdrs.AUTHORIZATION not in request.headers:
                # Not in the address any more, where it would be seen and kept.
                return self._let_in()
            return await handler(request)

        return check

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        """What the page sends."""
        if self._reading >= _MOST_SIGNING_IN:
            raise TooMany("too_many_requests", "Too many sign in just now: wait a little.", 1.0)
        self._reading += 1
        try:
            given = _typed(await read_body(request, _SIGN_IN_S))
        finally:
            self._reading -= 1
        if not self._is_right(request, given):
            return self._ask(request, "wrong_token", "This is not the council's token.")
        return self._let_in()

    def _is_right(self, request: web.Request, given: str) -> bool:
        """Raises TooMany for an address that has tried too often: then the right one is not let in either, else one
        could go on guessing."""
        address, now_s = address_of(request), time.monotonic()
        if self._wrong.left(address, now_s) < 1.0:
            wait_s = self._wrong.take(address, now_s)
            raise TooMany("too_many_tokens", "Too many wrong tokens came from this address: wait a little.", wait_s)
        if hmac.compare_digest(_digest(given), self._digest):
            return True
        self._wrong.take(address, now_s)
        return False

    def _has_cookie(self, request: web.Request) -> bool:
        given = request.cookies.get(self._cookie, "")
        return hmac.compare_digest(_digest(given), _digest(self._pass))

    def _let_in(self) -> web.Response:
        response = web.Response(status=303, headers={hdrs.LOCATION: "/", hdrs.CACHE_CONTROL: "no-store"})
        # Lax: who follows a link to this page from another is signed in; other pages' requests carry no cookie.
        response.set_cookie(self._cookie, self._pass, max_age=_COOKIE_LIFE_S, httponly=True, samesite="Lax", path="/")
        return response

    def _ask(self, request: web.Request, code: str, sentence: str) -> web.Response:
        is_page = request.path in ("/", SIGN_IN) and "text/html" in request.headers.get(hdrs.ACCEPT, "")
        if not is_page:
            response = error_response(401, code, sentence)
        else:
            said = "That is not this council's token." if code == "wrong_token" else ""
            page = self._page.replace("<!-- said -->", said)
            response = web.Response(text=page, status=401, content_type="text/html", charset="utf-8")
            # Without a referrer a browser says `Origin: null` when the form is sent.
            response.headers["Referrer-Policy"] = "same-origin"
            response.headers["Content-Security-Policy"] = (
                f"default-src 'none'; style-src '{self._style}'; base-uri 'none'; form-action 'self'; "
                "frame-ancestors 'none'"
            )
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="council"'
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        return response


def _given(request: web.Request) -> str | None:
    """The token that came with the request, if one did."""
    kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    tokens = request.query.getall("token", [])
    return tokens[0] if len(tokens) == 1 else None


def _is_of_this_page(request: web.Request) -> bool:
    """Pages of other origins, those that were named too, show the token themselves: browsers send a cookie to every
    port of a host."""
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or is_same_origin(origin, request.headers.get(hdrs.HOST, ""))


def _typed(body: bytes) -> str:
    """The token in a form; empty where there is none."""
    try:
        return parse_qs(body.decode("ascii", "replace"), max_num_fields=4).get("token", [""])[0].strip()
    except ValueError:
        return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
