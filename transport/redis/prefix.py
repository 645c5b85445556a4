"""The prefix of a council's keys, which a Redis URL has as an option: redis://HOST:PORT/0?prefix=team-a."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from schemas.errors import Refused

DEFAULT_PREFIX = "council"
OPTION = "prefix"
# Braces would change the hash tag of a session's keys, and a colon could make a key of another prefix.
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_prefix(prefix: str) -> str:
    """The prefix. Raises Refused where it is not valid."""
    if not _PREFIX.fullmatch(prefix):
        raise Refused(
            "bad_prefix",
            f"The prefix {prefix!r} is not valid: use 1 to 64 letters, digits, dots, hyphens and underscores, and "
            "begin with a letter or a digit.",
        )
    return prefix


def with_prefix(url: str, prefix: str | None) -> str:
    """The Redis URL with the prefix as its option; unchanged for None. Raises Refused for an invalid prefix, and for a
    URL that has another one."""
    if prefix is None:
        return url
    checked_prefix(prefix)
    query = url.partition("?")[2]
    found = parse_qs(query).get(OPTION, [])
    if found and found != [prefix]:
        raise Refused(
            "bad_prefix",
            # What the URL has may be a part of a password that is not percent-encoded.
            f"The Redis URL has another prefix than the setting, {prefix!r}: remove one of them.",
        )
    if found or prefix == DEFAULT_PREFIX:
        return url
    return f"{url}{'&' if query else '?'}{OPTION}={prefix}"
