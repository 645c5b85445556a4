"""Origins of pages: what the setting origins may name, and which pages and hosts were refused.

    http://localhost:5173    this origin
    http://localhost:*       this scheme and host, with any port or without one
    null                     pages whose origin a browser does not name: files, sandboxed frames, data: addresses

A refused page is not told why, so the first refused origins are reported to the person who runs the council. So are the
first names in Host headers that are not names of this server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from runtime.log import Log
from schemas.errors import Refused
from schemas.rules.choice import shortened

NULL = "null"
# How WebKit and Electron write the origin of a page that is a file, where other browsers send null.
_FILE = "file://"
_ANY_PORT = ":*"
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,31})://(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}|\*))?"
)
# Browsers leave these ports out.
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535
# A browser shows no page from addresses of these schemes, or gives it the origin null.
_WITHOUT_PAGES = frozenset({"about", "blob", "data", "file", "ftp", "javascript", "ws", "wss"})
# A person opens a few pages; a page that makes up origins must not fill the terminal.
MOST_REFUSED = 16


class Origins:
    """The origins in the setting origins, which are what checked_origins() returns."""

    def __init__(self, origins: Sequence[str]) -> None:
        # Scheme and host of the patterns.
        self._with_any_port = {one.removesuffix(_ANY_PORT) for one in origins if one.endswith(_ANY_PORT)}
        self._named = {one for one in origins if not one.endswith(_ANY_PORT)}
        found = (_ORIGIN.fullmatch(origin) for origin in origins)
        self.host_names = tuple(one["host"].strip("[]") for one in found if one and one["scheme"] in _DEFAULT_PORTS)

    def __bool__(self) -> bool:
        return bool(self._named or self._with_any_port)

    def name(self, origin: str | None) -> bool:
        """True if the setting names the origin of this Origin header."""
        if origin is None or not self:
            return False
        lower = NULL if origin == _FILE else origin.lower()
        if lower in self._named:
            return True
        found = _ORIGIN.fullmatch(lower)
        if found is None or found["port"] == "*":
            return False
        return f"{found['scheme']}://{found['host']}" in self._with_any_port


class RefusedOrigins:
    """The origins whose pages were refused, and the hosts whose requests were, each once and MOST_REFUSED at most of
    both kinds. `log`: where they are reported; None where another process does that."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        # In the order in which they came.
        self._origins: dict[str, None] = {}
        self._hosts: dict[str, None] = {}

    def note(self, origin: str) -> None:
        """Notes the origin of an Origin header. One that browsers do not send is left out: the setting cannot name it,
        and it may contain anything."""
        self._note(self._origins, NULL if origin == _FILE else origin, refusal_sentence)

    def note_host(self, host: str) -> None:
        """Notes a Host header, with the same exceptions."""
        self._note(self._hosts, f"http://{host}", host_refusal_sentence)

    def _note(self, refused: dict[str, None], origin: str, sentence: Callable[[str], str]) -> None:
        try:
            (known,) = checked_origins([origin])
        except Refused:
            return
        if known.endswith(_ANY_PORT) or known in refused or len(refused) == MOST_REFUSED:
            return
        refused[known] = None
        if self._log is not None:
            self._log.warning(sentence(known))

    def facts(self) -> dict[str, str]:
        """All of them for the process record, separated by spaces; a host is an origin of http."""
        return {"refused_origins": " ".join(self._origins), "refused_hosts": " ".join(self._hosts)}


def refusal_sentence(origin: str) -> str:
    """What a person should know of a page that was refused."""
    if origin == NULL:
        page, trusted = "A page without an origin (a file, or a sandboxed frame of any page)", "all such pages"
    else:
        page, trusted = f"A page of {origin}", "it"
    return (
        f'{page} was refused; if you trust {trusted}, add "{origin}" to the setting origins, '
        f'as in origins = ["{origin}"].'
    )


def host_refusal_sentence(origin: str) -> str:
    """What a person should know of a request to a name that is not this server's; `origin` has that name."""
    return (
        f"A request to {origin} was refused; if that is a name of this machine or of its proxy, add "
        f'"{origin}" to the setting origins, as in origins = ["{origin}"].'
    )


def checked_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """The origins in the form that browsers send. Raises Refused for an invalid one, such as one with a path."""
    return tuple(map(_checked_origin, origins))


def _checked_origin(origin: str) -> str:
    lower = origin.lower() if origin.isascii() else ""
    if lower == NULL:
        return NULL
    found = _ORIGIN.fullmatch(lower)
    if found and found["scheme"] not in _WITHOUT_PAGES:
        scheme, host, port = found.groups()
        if port == "*":
            return lower
        if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
            return f"{scheme}://{host}"
        if 1 <= int(port) <= _LAST_PORT:
            return f"{scheme}://{host}:{int(port)}"
    if "*" in origin:
        raise Refused(
            "bad_origin",
            f"{shortened(origin)!r} is not a valid origin: scheme and host must be given, and * may only stand for the "
            "whole port, as in http://localhost:*.",
        )
    raise Refused(
        "bad_origin",
        f"{shortened(origin)!r} is not a valid origin: give scheme, host and port of the page's address, such as "
        'http://localhost:5173, or "null" for pages that are files.',
    )
