"""The register of the council's processes: each renews its record in Redis, which expires when the process ends."""

from __future__ import annotations

import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from schemas import keys
from schemas.errors import Malformed, RedisRefuses
from schemas.processes import ProcessRecord, Role, decode_record, encode_record
from transport.redis.connection import AsyncPipe, Command, Pipe, ReplyError, accepted, atomically

RENEW_S = 1.0
_FORGET_MS = 60_000
_NAMES: Command = ("ZRANGE", keys.PROCESSES, 0, -1)


class ProcessRegistration:
    """Keeps the record of this process."""

    def __init__(self, role: Role, **detail: str | int | float | bool) -> None:
        self.role: Role = role
        self.detail = detail
        self.ready = False
        self._has_left = False
        self.host = socket.gethostname()
        self.pid = os.getpid()
        self.name = f"{role}-{self.host}-{self.pid}-{secrets.token_hex(2)}"
        self.started_ms = time.time_ns() // 1_000_000

    @property
    def public_name(self) -> str:
        """Its name without the host's, for recordings, which may be published."""
        return self.name.replace(f"-{self.host}-", "-", 1)

    def record(self) -> ProcessRecord:
        """The record of this moment."""
        times = os.times()
        return ProcessRecord(
            self.name, self.role, self.host, self.pid, self.started_ms, self.ready, _rss_bytes(),
            round(times.user + times.system, 3), dict(self.detail),
        )  # fmt: skip

    def renew(self) -> list[Command]:
        """The commands that renew the record for PROCESS_TTL_S, and the life of the sessions stream. Empty after
        leave()."""
        if self._has_left:
            return []
        now_ms = time.time_ns() // 1_000_000
        return [
            ("SET", keys.process(self.name), encode_record(self.record()), "EX", keys.PROCESS_TTL_S),
            # A full Redis refuses the new record, and keeps the last one alive.
            ("EXPIRE", keys.process(self.name), keys.PROCESS_TTL_S),
            *atomically(
                ("ZADD", keys.PROCESSES, now_ms, self.name),
                ("ZREMRANGEBYSCORE", keys.PROCESSES, "-inf", now_ms - _FORGET_MS),
                ("EXPIRE", keys.PROCESSES, keys.SESSIONS_TTL_S),
            ),
            ("EXPIRE", keys.SESSIONS, keys.SESSIONS_TTL_S),
        ]

    def drain(self) -> None:
        """The process takes no new sessions any more, and ends soon. The next renewal writes it into the record."""
        self.ready = False
        self.detail["draining"] = True

    def leave(self) -> list[Command]:
        """The commands that delete the record at once; it is not renewed any more."""
        self._has_left = True
        return [("DEL", keys.process(self.name)), ("ZREM", keys.PROCESSES, self.name)]


class Register(NamedTuple):
    """The records of the processes that run, oldest first. `unreadable` is how many more there are that this version
    cannot read: those of a later version, or what another client wrote."""

    records: list[ProcessRecord]
    unreadable: int


async def read_register(pipe: AsyncPipe) -> Register:
    """Raises RedisAway, RedisRefuses."""
    names = await pipe.one(*_NAMES)
    return _register(await pipe.run(_reads(names)))


async def list_processes(pipe: AsyncPipe) -> list[ProcessRecord]:
    """The processes that run, oldest first. Raises RedisAway, RedisRefuses."""
    return (await read_register(pipe)).records


def read_processes(pipe: Pipe) -> list[ProcessRecord]:
    """As list_processes, for a thread; empty where Redis refuses to reply. Raises RedisAway."""
    (names,) = pipe.run([_NAMES])
    return [] if isinstance(names, ReplyError) else _register(pipe.run(_reads(names))).records


def _reads(names: Sequence[bytes]) -> list[Command]:
    # In bytes: a name that another client wrote may not be text.
    return [("GET", keys.process("").encode() + name) for name in names]


def _register(replies: Sequence[Any]) -> Register:
    """The one place that decodes records. A record that has expired is neither returned nor counted."""
    records, unreadable = list[ProcessRecord](), 0
    for reply in replies:
        if reply is None:
            continue
        try:
            records.append(decode_record(accepted(reply)))
        except (Malformed, RedisRefuses):
            unreadable += 1
    return Register(sorted(records, key=lambda record: record.started_ms), unreadable)


def processes_of_host(pipe: Pipe) -> list[ProcessRecord]:
    """As read_processes, of this host alone. Raises RedisAway."""
    host = socket.gethostname()
    return [record for record in read_processes(pipe) if record.host == host]


def ready_pids(pipe: Pipe) -> set[int]:
    """The processes of this host whose records say that they are ready. Raises RedisAway."""
    return {record.pid for record in processes_of_host(pipe) if record.ready}


def _rss_bytes() -> int:
    """Resident memory; its maximum so far on systems without /proc."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
