"""Checks, before a process starts, that its Redis answers, lets it in, and is new enough."""

from __future__ import annotations

import contextlib
import re

from schemas.errors import RedisAway, Refused
from transport.redis.address import Address, without_password
from transport.redis.connection import Pipe
from transport.redis.refusals import in_words, missing_right
from transport.redis.replies import hello_fields, is_loading, is_of_a_replica, is_refused_connection, optional_info

OLDEST_REDIS = (6, 2)


def check_server(url: str) -> None:
    """Raises Refused, with a sentence that says what to do, unless a Redis that is new enough answers at `url`."""
    pipe = Pipe(url)
    try:
        for _ in Address(url).others:
            with contextlib.suppress(RedisAway):
                pipe.run([("TIME",)])
        info, hello = pipe.run([("INFO", "server"), ("HELLO", 2)])
    except RedisAway as error:
        raise refusal(url, error.__cause__ or error) from error
    finally:
        pipe.close()
    # Not every user may send INFO, and Redis before 6.0 has no HELLO.
    version = optional_info(info).get("redis_version") or str(hello_fields(hello).get("version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_REDIS:
        raise Refused("redis_too_old", f"Redis at {without_password(url)} has version {version}: install 6.2 or newer.")


def refusal(url: str, error: BaseException) -> Refused:
    """The refusal for a server that does not answer, or does not let this client in."""
    where = without_password(url)
    right = missing_right(error)
    if right is not None:
        return lacking(url, [right])
    if is_refused_connection(error):
        return Refused(
            "redis_refused",
            f"Redis at {where} refuses the connection ({in_words(error)}): correct the URL, as in "
            "redis://USER:PASSWORD@HOST:PORT/0, with %23 for # and %40 for @ in a password.",
        )
    if is_of_a_replica(error):
        sentence = f"Redis at {where} is a replica, which takes no writes: write the address of its master."
    elif is_loading(error):
        sentence = f"Redis at {where} still loads its data: try again when it has done so."
    else:
        sentence = f"No Redis answers at {where} ({in_words(error)}): start one there, or correct the URL."
    return Refused("redis_unreachable", sentence, status=503)


def lacking(url: str, rights: list[str]) -> Refused:
    """The refusal for a user who lacks rights: `rights` as `ACL SETUSER` takes them."""
    given = " ".join(filter(None, rights)) or "+@all"
    return Refused(
        "redis_refused",
        f"The user of Redis at {without_password(url)} lacks rights ({_in_words(rights)}): add them there with "
        f"`ACL SETUSER NAME {given}`.",
    )


def _in_words(rights: list[str]) -> str:
    commands = [right[1:].replace("|", " ").upper() for right in rights if right.startswith("+")]
    patterns = [right[1:] for right in rights if right.startswith("~")]
    parts = ["it may not run " + ", ".join(commands)] if commands else []
    parts += [f"it may not use the keys {pattern}" for pattern in patterns]
    return "; ".join(parts) or "Redis does not name them"
