"""Replies of Redis, and its errors: which they are, and what they contain."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, TypeGuard

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from schemas.errors import RedisRefuses
from transport.redis.refusals import in_words, login_problem, missing_right

ReplyError = ResponseError

# Each of these is found by its type where redis-py has one, which then lacks the word, and by the word in all others:
# Redis 6.2 puts the error of a script's command into the middle of a text of its own, EXEC puts the reason for which it
# discards a transaction at the end. READONLY is for a client that writes to a replica, MASTERDOWN for any client of a
# replica without its master, UNBLOCKED for one that waits in a blocking read while its server becomes a replica.
_OF_A_REPLICA = re.compile(r"(?:^|: |\s-)(?:READONLY|UNBLOCKED|MASTERDOWN) ")
_LOADS = re.compile(r"(?:^|: |\s-)LOADING ")
_CLUSTER_IS_DOWN = re.compile(r"(?:^|: |\s-)CLUSTERDOWN ")


class IsReplica(RedisError):
    """A new connection has found a replica."""


_TAKES_NO_WRITES = ("MISCONF", "NOREPLICAS")


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


def refuses_writes(error: Any) -> bool:
    """True for the reply, or the RedisRefuses, of a Redis that refuses what this client writes, for whichever session:
    it is out of memory, the user lacks a right, its disk is full or it has too few replicas."""
    reply = error.__cause__ if isinstance(error, RedisRefuses) else error
    if is_out_of_memory(reply) or missing_right(reply) is not None:
        return True
    return isinstance(reply, ReplyError) and any(word in str(reply) for word in _TAKES_NO_WRITES)


def is_wrong_type(reply: Any) -> bool:
    """True where the key holds another type than the command is for: another client wrote it."""
    return isinstance(reply, ReplyError) and "WRONGTYPE" in str(reply)


def serves_nothing(error: BaseException) -> bool:
    """True where this server can serve no command: it became a replica, loads its data, or its cluster is down."""
    return is_of_a_replica(error) or is_loading(error) or _is(error, ClusterDownError, _CLUSTER_IS_DOWN)


def is_of_a_replica(error: BaseException) -> bool:
    """True for the errors by which a server shows that it is a replica."""
    return _is(error, ReadOnlyError | MasterDownError | IsReplica, _OF_A_REPLICA)


def is_loading(error: BaseException) -> bool:
    """True for the error of a server that has started and is not ready yet."""
    return _is(error, BusyLoadingError, _LOADS)


def _is(error: BaseException, kind: type | UnionType, text: re.Pattern[str]) -> bool:
    return isinstance(error, kind) or (isinstance(error, ReplyError) and text.search(str(error)) is not None)


def is_timeout(error: BaseException | None) -> bool:
    """True for the cause of a RedisAway where no reply came in time."""
    return isinstance(error, TimeoutError | builtins.TimeoutError)


def errors_in(replies: Sequence[Any]) -> Iterator[ReplyError]:
    """The errors among the replies, and among the replies in the reply to each EXEC."""
    for reply in replies:
        for one in reply if type(reply) is list else (reply,):
            if isinstance(one, ReplyError):
                yield one


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
