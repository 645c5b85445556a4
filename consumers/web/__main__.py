"""`python -m consumers.web`: serves the page, the API and the sockets for the sessions on REDIS_URL.

COUNCIL_TIER names the tier (default: by this machine's memory); COUNCIL_LIMITS is a JSON object of limits to change;
COUNCIL_TOKEN is the token that clients must send (required on any address but loopback); COUNCIL_ORIGINS is a JSON list
of origins whose pages may use this council; COUNCIL_RECORDINGS is the folder of the recordings (default: in the user's
data folder).
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

import msgspec

from consumers.web.door.access import checked_token, require_token
from consumers.web.door.guard import checked_origins
from consumers.web.door.listening import bind, inherit
from consumers.web.server import WebServer, WebSettings
from recordings.folder import Library, library_of_role
from runtime.environment import redis_from_environment, tier_from_environment, tiers_from_environment
from runtime.log import log_to_stderr
from runtime.role import RoleParser, run_role, stop_event
from schemas.errors import Refused
from schemas.sessions import Limits, limits_with
from transport.register import ProcessRegistration

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8145


def limits_from_environment() -> Limits:
    """The default limits with the changes in COUNCIL_LIMITS. Raises Refused."""
    raw = os.environ.get("COUNCIL_LIMITS") or "{}"
    try:
        overrides = msgspec.json.decode(raw, type=dict[str, int])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise Refused(
            "bad_limits",
            'COUNCIL_LIMITS is not a JSON object of whole numbers: write it as in {"first_token_ms": 90000}.',
        ) from None
    return limits_with(overrides)


def origins_from_environment() -> tuple[str, ...]:
    """The origins in COUNCIL_ORIGINS. Raises Refused."""
    try:
        origins = msgspec.json.decode(os.environ.get("COUNCIL_ORIGINS") or "[]", type=list[str])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise Refused(
            "bad_origins", 'COUNCIL_ORIGINS is not a JSON list of strings: write it as in ["http://localhost:5173"].'
        ) from None
    return checked_origins(origins)


def listening_socket(arguments: argparse.Namespace) -> socket.socket:
    """The inherited socket, or a new one. Raises Refused."""
    if arguments.fd is not None:
        return inherit(_number("--fd", arguments.fd, 2**31 - 1))
    return bind(arguments.host, _number("--port", arguments.port, 65_535))


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise Refused("bad_number", f"{name} is {text!r}: give a whole number from 0 to {most}.")
    return int(text)


def library_of_web(folder: Path | None) -> Library:
    """The library in the folder, or else the user's; an empty one for a user without a home folder."""
    try:
        return library_of_role(folder)
    except Refused:
        return Library(Path("/nonexistent/council/recordings"))


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT. Raises Refused."""
    url = redis_from_environment()
    tiers, tier, limits = tiers_from_environment(), tier_from_environment(), limits_from_environment()
    # An empty variable counts as not set; an empty flag is an error.
    given = arguments.token if arguments.token is not None else os.environ.get("COUNCIL_TOKEN") or None
    token = None if given is None else checked_token(given)
    library = library_of_web(arguments.recordings)
    settings = WebSettings(tier, tiers, limits, arguments.host, library, origins_from_environment(), token)
    listening = listening_socket(arguments)
    require_token(listening, token)
    stopping = stop_event()
    host, port, *_ = listening.getsockname()
    registration = ProcessRegistration("web", host=host, port=port, tier=tier.name)
    await WebServer(url, registration, log_to_stderr("web"), settings).run(listening, stopping)


def main() -> int:
    parser = RoleParser(prog="python -m consumers.web", description=__doc__)
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=str(DEFAULT_PORT), help="the port to listen on (default: %(default)s)")
    parser.add_argument("--fd", metavar="N", help="an inherited listening socket, instead of host and port")
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="the library's folder")
    parser.add_argument("--token", help="the token that clients must send; safer as COUNCIL_TOKEN, not shown by ps")
    return run_role(serve(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
