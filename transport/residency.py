"""Uses and evictions of models, the loader's lease, and orders to load or unload: the commands and their replies.

    council:residency   use\n<memory key>\n<user>   until when, in Redis's ms; renewed each second
                        evict\n<memory key>         until when no use of it may begin
                        evictions\n<memory key>     how many there were: after another one its residency is unknown
                        leave\n<memory key>         until when its process is asked to unload it, for another model
                        order\n<model>              load or unload, as a user ordered; taken by one producer
    council:loader      the process that loads a model now, and those that ask to, with the sizes of their models

A memory key is two lines: a model server or a producer process, and the model's name there. A use and an eviction are
begun by one script each, which excludes the other: a model is not evicted while it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from schemas import keys
from schemas.grid import NS_PER_MS
from transport.redis.connection import AsyncPipe, Command, accepted, atomically, redis_ns
from transport.redis.scripts import SCRIPTS

_EVICT = SCRIPTS["evict"]
_LOADER = SCRIPTS["loader"]
_TAKE_FIELD = SCRIPTS["take_field"]
_USE = SCRIPTS["use"]

MemoryKey = tuple[str, str]
Action = Literal["load", "unload"]

# Five renewals may be lost, as with a process's record.
USE_MS = 5_000
# Renewed while a server frees the model; a process that dies meanwhile blocks the model no longer than this.
EVICTION_MS = 5_000
LOADER_MS = 5_000
# Processes that start together ask within this of each other.
_TOGETHER_MS = 100
# Four times as long as a process waits before it asks again.
_WANTS_MS = 1_000
_LIFE_S = keys.SESSIONS_TTL_S


def use(memory_key: MemoryKey, user: str) -> Command:
    """The command that begins or renews a use. The reply is 1 plus the number of evictions so far, or 0 during one."""
    return _USE.call(
        [keys.RESIDENCY], [_eviction(memory_key), _use(memory_key) + user, USE_MS, _LIFE_S, _evictions(memory_key)]
    )


def end_use(memory_key: MemoryKey, user: str) -> Command:
    return ("HDEL", keys.RESIDENCY, _use(memory_key) + user)


def begin_eviction(memory_key: MemoryKey) -> Command:
    """The command that begins or renews an eviction. The reply is 1, or 0 while the model is in use."""
    return _EVICT.call(
        [keys.RESIDENCY], [_eviction(memory_key), _use(memory_key), EVICTION_MS, _LIFE_S, _evictions(memory_key)]
    )


def end_eviction(memory_key: MemoryKey) -> Command:
    return ("HDEL", keys.RESIDENCY, _eviction(memory_key))


def hold_loader(process: str, size_bytes: int) -> Command:
    """The command that takes or renews the loader's lease. The reply is 1 where the process has it, 0 where it must ask
    again. Of several processes the one with the smallest model gets it first."""
    return _LOADER.call([keys.LOADER], [process, size_bytes, LOADER_MS, _TOGETHER_MS, _WANTS_MS])


def give_up_loader(process: str) -> Command:
    return _LOADER.call([keys.LOADER], [process, 0, 0, 0, 0])


def read_uses() -> tuple[Command, Command]:
    return ("HGETALL", keys.RESIDENCY), ("TIME",)


def keys_in_use(replies: Sequence[Any]) -> frozenset[MemoryKey]:
    """The models in use, in the replies to read_uses. Raises RedisRefuses."""
    return frozenset((names[0], names[1]) for names, is_over in _uses(replies) if not is_over)


def sweep_uses(replies: Sequence[Any]) -> Command | None:
    """The command that deletes the expired uses in the replies to read_uses; None where there are none. Raises
    RedisRefuses."""
    fields = ["\n".join(("use", *names)) for names, is_over in _uses(replies) if is_over]
    return ("HDEL", keys.RESIDENCY, *fields) if fields else None


def _uses(replies: Sequence[Any]) -> list[tuple[list[str], bool]]:
    """([server or process, name there, user], whether it has expired) of each use."""
    fields, now_ms = accepted(replies[0]), redis_ns(accepted(replies[1])) // NS_PER_MS
    names = [field.decode("utf-8", "replace").split("\n") for field in fields[::2]]
    return [
        (parts[1:], _milliseconds(until) <= now_ms)
        for parts, until in zip(names, fields[1::2], strict=True)
        if parts[0] == "use" and len(parts) == 4
    ]


def _milliseconds(raw: bytes | None) -> int:
    """The time in a value; 0 where there is none, or where another client wrote something else."""
    return int(raw) if raw and raw.isdigit() else 0


def ask_to_leave(memory_key: MemoryKey, until_ms: int) -> Command:
    """The command that asks the process which has a model to unload it. The request lapses at `until_ms`, wall
    clock."""
    return ("HSET", keys.RESIDENCY, _leave(memory_key), until_ms)


def end_asking(memory_key: MemoryKey) -> Command:
    """The command that takes the request back. The reply is 1 where it had not been taken."""
    return ("HDEL", keys.RESIDENCY, _leave(memory_key))


async def is_asked_to_leave(pipe: AsyncPipe, memory_key: MemoryKey, now_ms: int) -> bool:
    """True once for each request that has not lapsed; it is taken back. Raises RedisAway, RedisRefuses."""
    until = await pipe.one(*_TAKE_FIELD.call([keys.RESIDENCY], [_leave(memory_key)]))
    return _milliseconds(until) > now_ms


async def order(pipe: AsyncPipe, model: str, action: Action) -> None:
    """Orders the producers of a model to load or unload it; a later order replaces an earlier one. Raises RedisAway,
    RedisRefuses."""
    commands = atomically(("HSET", keys.RESIDENCY, _order(model), action), ("EXPIRE", keys.RESIDENCY, _LIFE_S))
    for reply in await pipe.run(commands):
        accepted(reply)


async def take_order(pipe: AsyncPipe, model: str) -> Action | None:
    """The order for a model, which is taken out; None where there is none. Of several producers one gets it. Raises
    RedisAway, RedisRefuses."""
    found = await pipe.one(*_TAKE_FIELD.call([keys.RESIDENCY], [_order(model)]))
    return "load" if found == b"load" else "unload" if found == b"unload" else None


def _use(memory_key: MemoryKey) -> str:
    return f"use\n{memory_key[0]}\n{memory_key[1]}\n"


def _eviction(memory_key: MemoryKey) -> str:
    return f"evict\n{memory_key[0]}\n{memory_key[1]}"


def _evictions(memory_key: MemoryKey) -> str:
    return f"evictions\n{memory_key[0]}\n{memory_key[1]}"


def _leave(memory_key: MemoryKey) -> str:
    return f"leave\n{memory_key[0]}\n{memory_key[1]}"


def _order(model: str) -> str:
    return f"order\n{model}"
