"""Checks, before a process starts, that its Redis answers and is new enough."""

from __future__ import annotations

import contextlib

from schemas.errors import RedisAway, Refused
from transport.redis.address import Address, without_password
from transport.redis.connection import Pipe, ReplyError, info_fields
from transport.redis.replies import is_refused_connection

OLDEST_REDIS = (6, 2)


def check_server(url: str) -> None:
    """Raises Refused, with a sentence that says what to do, unless a Redis that is new enough answers at `url`."""
    pipe = Pipe(url)
    try:
        for _ in Address(url).others:
            with contextlib.suppress(RedisAway):
                pipe.run([("PING",)])
        (info,) = pipe.run([("INFO", "server")])
    except RedisAway as error:
        if is_refused_connection(error.__cause__):
            raise _refused_connection(url, error.__cause__) from error
        raise Refused(
            "redis_unreachable",
            f"No Redis answers at {without_password(url)} ({error.__cause__}): start one there, or correct the URL.",
            status=503,
        ) from error
    finally:
        pipe.close()
    if isinstance(info, ReplyError):
        raise _refused_connection(url, info)
    version = info_fields(info).get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise Refused("redis_too_old", f"Redis at {without_password(url)} has version {version}: install 6.2 or newer.")


def _refused_connection(url: str, error: Exception) -> Refused:
    return Refused(
        "redis_refused",
        f"Redis at {without_password(url)} refuses the connection ({error}): correct the URL, as in "
        "redis://USER:PASSWORD@HOST:PORT/0, or the rights of that user.",
    )
