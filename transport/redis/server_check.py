"""Before a process starts: whether its Redis can carry a council."""

from __future__ import annotations

import contextlib

from schemas.errors import RedisAway, Refused
from transport.redis.address import Address, without_password
from transport.redis.connection import Pipe, ReplyError, info_fields
from transport.redis.replies import is_refused_connection

OLDEST_REDIS = (6, 2)


def check_server(url: str) -> None:
    """Raises Refused, with a sentence that says what to do, unless a Redis that can carry a council answers at
    `url`."""
    pipe = Pipe(url)
    try:
        for _ in Address(url).others:
            with contextlib.suppress(RedisAway):
                pipe.run([("PING",)])
        (info,) = pipe.run([("INFO", "server")])
    except RedisAway as error:
        if is_refused_connection(error.__cause__):
            raise _not_let_in(url, error.__cause__) from error
        raise Refused(
            "redis_unreachable",
            f"No Redis answers at {without_password(url)} ({error.__cause__}): start one there, or correct the URL.",
            status=503,
        ) from error
    finally:
        pipe.close()
    if isinstance(info, ReplyError):
        raise _not_let_in(url, info)
    version = info_fields(info).get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise Refused(
            "redis_too_old", f"Redis at {without_password(url)} is {version}; the council needs 6.2 or newer."
        )


def _not_let_in(url: str, error: Exception) -> Refused:
    return Refused(
        "redis_refused",
        f"Redis at {without_password(url)} does not let us in ({error}): write redis://USER:PASSWORD@HOST:PORT/0.",
    )
