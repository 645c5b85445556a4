"""Whether a Redis user has every right that the council needs. Each command is tried, before a process is ready.

    URL --> each server that serves keys --commands for keys that do not exist--> the rights that are missing, by name
                                         \\-one transaction and one script--> whether it really takes writes

A command for a missing key, in a form that creates none, changes nothing. Redis checks the right before everything
else, so its reply shows whether the user has it. The transaction creates two keys, with a time to live, and deletes
them.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

from redis.exceptions import ExecAbortError, RedisError

from schemas import keys
from schemas.errors import RedisAway, Refused
from transport.redis.address import Address, Node, without_password
from transport.redis.cluster import Command, SlotMap, atomically
from transport.redis.connection import Pipe, ReplyError, is_out_of_memory
from transport.redis.endpoints import ASK_CLUSTER
from transport.redis.link import Link
from transport.redis.namespace import named
from transport.redis.refusals import KEYS, in_words, missing_right
from transport.redis.replies import hello_fields, is_unknown_command
from transport.redis.scripts import SCRIPTS
from transport.redis.sentinel import find_master
from transport.redis.server_check import lacking, refusal

# The throw-away keys live this long where their deletion is lost.
_LIFE_S = 60
# What the recorder needs beyond the other roles: it deletes orders that it has executed.
RECORDER_RIGHTS: tuple[str, ...] = ("+xdel",)
_IN_CLUSTER: tuple[Command, ...] = (*ASK_CLUSTER, ("ASKING",))
_WITH_SUBCOMMAND = ("CLUSTER", "SCRIPT", "XGROUP", "XINFO")


def _trials(key: str) -> list[Command]:
    """Every command that the council sends, and that its scripts call, for a key that does not exist."""
    return [
        ("TIME",), ("SCRIPT", "LOAD", SCRIPTS["take_field"].source), SCRIPTS["take_field"].call([key], ["field"]),
        ("EXPIRE", key, _LIFE_S), ("DEL", key), ("EXISTS", key),
        ("GET", key), ("SET", key, "", "XX", "EX", _LIFE_S),
        # Not valid as they are, so that they create nothing.
        ("HSET", key, "field", "value", "no value follows"), ("HINCRBY", key, "field", "no number"),
        ("HGET", key, "field"), ("HMGET", key, "field"), ("HGETALL", key), ("HDEL", key, "field"),
        ("ZADD", key, "XX", 1, "member"), ("ZREM", key, "member"), ("ZRANGE", key, 0, -1),
        ("ZREMRANGEBYSCORE", key, 0, 0),
        ("XADD", key, "NOMKSTREAM", "*", "e", ""), ("XDEL", key, "1-0"), ("XSETID", key, "1-0"),
        ("XRANGE", key, "-", "+"), ("XREVRANGE", key, "+", "-"), ("XREAD", "STREAMS", key, "0"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", key, "0"), ("XACK", key, "g", "1-0"),
        ("XCLAIM", key, "g", "c", 0, "1-0"), ("XPENDING", key, "g"),
        ("XGROUP", "CREATE", key, "g", "0"), ("XGROUP", "DESTROY", key, "g"), ("XGROUP", "DELCONSUMER", key, "g", "c"),
        ("XINFO", "GROUPS", key), ("XINFO", "CONSUMERS", key, "g"),
    ]  # fmt: skip


def _trials_of_keys() -> list[Command]:
    """A write to each key that all sessions share, which changes nothing: some key patterns match sessions alone."""
    return [
        *(("XACK", key, "no group", "1-0") for key in (keys.SESSIONS, keys.KEEP)),
        *(("HDEL", key, "no field") for key in (keys.RESIDENCY, keys.LOADER)),
        ("ZREM", keys.PROCESSES, "no process"),
        ("DEL", keys.process("trial")),
    ]


def missing_rights(address: Address, also: Sequence[str] = ()) -> list[str]:
    """The rights that the URL's user lacks, as `ACL SETUSER` takes them; with the commands that this server does not
    know. `also` are rights that one role alone needs.

    Raises redis-py's errors and OSError where a server does not answer.
    """
    spared = set(RECORDER_RIGHTS) - set(also)
    found = dict[str, None]()
    for link, is_cluster in _servers(address):
        # MULTI and EXEC last: where one of them is missing, the connection is left inside a transaction.
        trials = [*_trials(_throw_away_key()), *_trials_of_keys(), *(_IN_CLUSTER if is_cluster else ()), *atomically()]
        trials = [trial for trial in trials if _right(trial) not in spared]
        for trial, reply in zip(trials, link.exchange(named(trials, address.prefix)), strict=True):
            right = missing_right(reply)
            if right == KEYS:
                found[f"~{address.prefix}:*"] = None
            elif right is not None or is_unknown_command(reply):
                # By the trial's name: Redis 6.2 names no subcommand.
                found[_right(trial)] = None
    return list(found)


def check_rights(url: str, also: Sequence[str] = ()) -> None:
    """Raises Refused, which names each missing right, unless the URL's user may do what the council does there. A Redis
    that is full for now passes: a process waits until it has room."""
    address = Address(url)
    try:
        missing = missing_rights(address, also)
    except (RedisError, OSError) as error:
        raise refusal(url, error) from error
    if missing:
        raise lacking(url, missing)
    pipe = Pipe(url)
    try:
        *_, done, script = pipe.run(_writing())
    except RedisAway as error:
        raise refusal(url, error.__cause__ or error) from error
    finally:
        pipe.close()
    for reply in (*(done if isinstance(done, list) else [done]), script):
        if isinstance(reply, ReplyError) and not is_out_of_memory(reply) and not isinstance(reply, ExecAbortError):
            raise Refused(
                "redis_refused",
                f"Redis at {without_password(url)} does not execute what the council needs ({in_words(reply)}): use "
                "Redis 6.2 or newer, or Valkey, and allow it to write.",
            )


def _writing() -> list[Command]:
    """A transaction that creates a stream with a group and a hash, reads and deletes them; and a script."""
    stream = _throw_away_key()
    state = f"{stream}-state"
    group = ("XGROUP", "CREATE", stream, "g", "0")
    reading = ("XREADGROUP", "GROUP", "g", "c", "STREAMS", stream, ">")
    lives = [("EXPIRE", key, _LIFE_S) for key in (stream, state)]
    created: list[Command] = [("XADD", stream, "*", "e", ""), ("HSET", state, "field", ""), *lives]
    return [
        *atomically(*created, group, reading, ("DEL", stream, state)),
        SCRIPTS["take_field"].call([state], ["field"]),
    ]


def _servers(address: Address) -> Iterator[tuple[Link, bool]]:
    """An open connection to each server that serves keys, and whether it is in a cluster. Raises as missing_rights."""
    node = find_master(address) if address.sentinels else None
    link, is_cluster = _opened(address, node)
    with contextlib.closing(link):
        yield link, is_cluster
        if not is_cluster:
            return
        own = link.node
    # Each node of a cluster has its own users. Where this one does not name them, that right is missing already.
    link, _ = _opened(address, node)
    with contextlib.closing(link):
        (slots,) = link.exchange([ASK_CLUSTER[0]])
    for other in sorted(SlotMap(slots, own).nodes - {own}) if isinstance(slots, list) else ():
        link, _ = _opened(address, other)
        with contextlib.closing(link):
            yield link, True


def _opened(address: Address, node: Node | None) -> tuple[Link, bool]:
    """A connection to the node, or to the first of the URL's servers that answers; and whether it is in a cluster."""
    others = address.others if node is None else ()
    for at, one in enumerate((node, *others)):
        link = Link(address.connection(one))
        try:
            (hello,) = link.open([("HELLO", 2)])
            return link, hello_fields(hello).get("mode") == "cluster"
        except (RedisError, OSError):
            link.close()
            if at == len(others):
                raise
    raise AssertionError("the last server has raised")


def _right(command: Command) -> str:
    words = command[: 2 if command[0] in _WITH_SUBCOMMAND else 1]
    return "+" + "|".join(str(word).lower() for word in words)


def _throw_away_key() -> str:
    """A key of a session that does not exist; all keys of a session are in one slot."""
    return keys.state(f"trial-{secrets.token_hex(6)}")
