"""Replies of Redis, and its errors: which they are, and what they contain."""

from __future__ import annotations

from typing import Any, TypeGuard

from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from schemas.errors import RedisRefuses
from transport.redis.refusals import in_words, login_problem

ReplyError = ResponseError

# READONLY is the error for a client that writes to a replica, UNBLOCKED for one that waits in a blocking read while its
# server becomes a replica. Redis 6.2 puts READONLY into the middle of its own error text when a script writes;
# elsewhere redis-py raises ReadOnlyError and removes the word.
_NO_MASTER = ("READONLY", "UNBLOCKED")


def accepted(reply: Any) -> Any:
    """The reply. Raises RedisRefuses where it is an error, which is then the cause."""
    if isinstance(reply, ReplyError):
        raise RedisRefuses(f"Redis refuses: {in_words(reply)}") from reply
    return reply


def has_lost_script(reply: ReplyError) -> bool:
    """True after SCRIPT FLUSH: a new connection loads the scripts again."""
    return isinstance(reply, NoScriptError)


def is_out_of_memory(reply: Any) -> bool:
    """True for the reply, or the RedisRefuses, of a Redis that is at its maxmemory. Redis 6.2 puts OOM into the middle
    of its own error text when a script writes."""
    error = reply.__cause__ if isinstance(reply, RedisRefuses) else reply
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ReplyError) and "OOM" in str(error))


def is_unknown_command(reply: Any) -> bool:
    """True where this server does not have the command, or under another name."""
    return isinstance(reply, ReplyError) and str(reply).lower().startswith("unknown command")


def is_wrong_type(reply: Any) -> bool:
    """True where the key holds another type than the command is for: another client wrote it."""
    return isinstance(reply, ReplyError) and "WRONGTYPE" in str(reply)


def serves_nothing(reply: ReplyError) -> bool:
    """True where this server can serve no command: it became a replica, or its cluster is down."""
    return isinstance(reply, ClusterDownError | ReadOnlyError) or any(word in str(reply) for word in _NO_MASTER)


def is_refused_connection(error: BaseException | None) -> TypeGuard[Exception]:
    """True for the cause of a RedisAway where the server answers, but does not let this client in: a wrong password, or
    a user without the rights to connect."""
    if isinstance(error, ReplyError):
        return not serves_nothing(error)
    return login_problem(error) is not None


def info_fields(info: bytes) -> dict[str, str]:
    """The reply of INFO as a dictionary."""
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, separator, value in pairs if separator}


def optional_info(reply: Any) -> dict[str, str]:
    """The reply of INFO as a dictionary; empty where it is an error: a user needs no right to it."""
    return {} if isinstance(reply, ReplyError) else info_fields(reply)


def hello_fields(hello: Any) -> dict[str, Any]:
    """The reply of HELLO 2 as a dictionary; empty where it is an error."""
    if not isinstance(hello, list):
        return {}
    return {
        name.decode(): value.decode() if isinstance(value, bytes) else value
        for name, value in zip(hello[::2], hello[1::2], strict=True)
    }


def redis_ns(time_reply: Any) -> int:
    """The nanoseconds of a TIME reply."""
    return int(time_reply[0]) * 1_000_000_000 + int(time_reply[1]) * 1_000
