"""The web process from its arguments and environment variables, which consumers/web/__main__.py describes."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

import msgspec

from consumers.web.door.access import checked_token, require_token, token_from_environment
from consumers.web.door.listening import bind, inherit
from consumers.web.door.origins import checked_origins
from consumers.web.server import WebServer, WebSettings
from recordings.folder import Library, library_of_role
from runtime.environment import redis_from_environment, tier_from_environment, tiers_from_environment
from runtime.log import log_to_stderr
from runtime.role import stop_event
from schemas.errors import Refused
from schemas.rules.limits import limits_with
from schemas.sessions import Limits
from transport.register import ProcessRegistration


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
    token = token_from_environment() if arguments.token is None else checked_token(arguments.token)
    library = library_of_web(arguments.recordings)
    settings = WebSettings(tier, tiers, limits, arguments.host, library, origins_from_environment(), token)
    listening = listening_socket(arguments)
    require_token(listening, token)
    stopping = stop_event()
    host, port, *_ = listening.getsockname()
    registration = ProcessRegistration("web", host=host, port=port, tier=tier.name)
    await WebServer(url, registration, log_to_stderr("web"), settings).run(listening, stopping)
