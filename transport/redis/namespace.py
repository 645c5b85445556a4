"""The names of one council's keys, in a Redis that several councils share.

    ("XADD", "council:{id}:tokens", …)  --named-->  ("XADD", "team-a:{id}:tokens", …)      for redis://HOST/0?prefix=team-a

The rest of the code uses one set of names, which begin with `council:`. A pipe replaces that first part in each command
just before it sends it, so no module can name a key of another council by mistake. Consumer groups need no prefix: a
group belongs to the key of its stream.
"""

from __future__ import annotations

from collections.abc import Sequence

from transport.redis.cluster import Command, KeyedCommand, key_positions
from transport.redis.prefix import DEFAULT_PREFIX


def named(commands: Sequence[Command], prefix: str) -> Sequence[Command]:
    """The commands with the prefix in place of `council` in each of their keys."""
    if prefix == DEFAULT_PREFIX:
        return commands
    return [_named_command(command, prefix) for command in commands]


def named_key(key: str, prefix: str) -> str:
    """The key with the prefix in place of `council`; a key with another beginning stays as it is."""
    first, colon, rest = key.partition(":")
    return f"{prefix}:{rest}" if colon and first == DEFAULT_PREFIX else key


def _named_command(command: Command, prefix: str) -> Command:
    if isinstance(command, KeyedCommand):
        return KeyedCommand(named_key(command.key, prefix), command)
    parts = list(command)
    for at in key_positions(command):
        key = parts[at]
        # Names that another client wrote are read as bytes, and may not be text.
        parts[at] = (
            named_key(key.decode("latin-1"), prefix).encode("latin-1") if isinstance(key, bytes)
            else named_key(str(key), prefix)
        )  # fmt: skip
    return tuple(parts)
