"""What every process of the council has in common: a name, a record that it renews, an end that comes with its
supervisor's.

A process that a supervisor started (COUNCIL_SUPERVISED=1) holds the read end of a pipe as its standard input. When the
supervisor is gone, however it went, that pipe ends, and so does the process: SIGTERM first, and an end without mercy
after.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from schemas import keys
from schemas.errors import CouncilError, RedisAway, Refused
from schemas.models import ModelFacts, facts_in
from schemas.processes import ProcessRecord, Role
from schemas.sessions import MemberSpec
from schemas.tiers import TIERS, TierPolicy, tier_for_memory, tier_named
from transport.connection import AsyncPipe, Command, Pipe, ReplyError, atomically
from transport.presence import RedisPresence
from transport.server_check import check_server

RENEW_S = 1.0
# What a process may take to end well before it is ended: under the five seconds that a council promises.
_GRACE_S = 3.0
_FORGET_MS = 60_000
# A Redis that is there hears a goodbye at once; one that is not finds the record expired.
_FAREWELL_S = 1.0


class Standing:
    """This process as the council's register shows it."""

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
        """Its name without that of the host: what recordings contain may be shared."""
        return self.name.replace(f"-{self.host}-", "-", 1)

    def record(self) -> ProcessRecord:
        """What is true now."""
        times = os.times()
        return ProcessRecord(
            self.name, self.role, self.host, self.pid, self.started_ms, self.ready, _rss_bytes(),
            round(times.user + times.system, 3), dict(self.detail),
        )  # fmt: skip

    def renew(self) -> list[Command]:
        """Lives on for PROCESS_TTL_S; keeps the sessions stream from expiring as well. Nothing, once it has left."""
        if self._has_left:
            return []
        now_ms = time.time_ns() // 1_000_000
        return [
            ("SET", keys.process(self.name), msgspec.json.encode(self.record()), "EX", keys.PROCESS_TTL_S),
            *atomically(
                ("ZADD", keys.PROCESSES, now_ms, self.name),
                ("ZREMRANGEBYSCORE", keys.PROCESSES, "-inf", now_ms - _FORGET_MS),
                ("EXPIRE", keys.PROCESSES, keys.SESSIONS_TTL_S),
            ),
            ("EXPIRE", keys.SESSIONS, keys.SESSIONS_TTL_S),
        ]

    def leave(self) -> list[Command]:
        """Takes the record away at once, and for good."""
        self._has_left = True
        return [("DEL", keys.process(self.name)), ("ZREM", keys.PROCESSES, self.name)]


async def keep_record(
    url: str, standing: Standing, presence: RedisPresence, facts: Callable[[], Mapping[str, int]]
) -> None:
    """Renews the record, with the role's own facts, each second until it is cancelled; then takes it away."""
    pipe = AsyncPipe(url)
    try:
        while True:
            standing.detail |= facts()
            try:
                await pipe.run(standing.renew())
                presence.come_back()
            except RedisAway as error:
                presence.lose(error)
            await asyncio.sleep(RENEW_S)
    finally:
        with contextlib.suppress(RedisAway, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await pipe.run(standing.leave())
        await pipe.close()


async def list_processes(pipe: AsyncPipe) -> list[ProcessRecord]:
    """The processes that run, oldest first. Raises RedisAway."""
    names = await pipe.one("ZRANGE", keys.PROCESSES, 0, -1)
    replies = await pipe.run([("GET", keys.process(name.decode())) for name in names])
    return sorted(_records(replies), key=lambda record: record.started_ms)


def _records(replies: Sequence[Any]) -> list[ProcessRecord]:
    present = [reply for reply in replies if reply and not isinstance(reply, ReplyError)]
    return [msgspec.json.decode(reply, type=ProcessRecord) for reply in present]


def read_processes(pipe: Pipe) -> list[ProcessRecord]:
    """The processes that run, none where Redis refuses to tell. Raises RedisAway."""
    (names,) = pipe.run([("ZRANGE", keys.PROCESSES, 0, -1)])
    if isinstance(names, ReplyError):
        return []
    return _records(pipe.run([("GET", keys.process(name.decode())) for name in names]))


def ready_pids(pipe: Pipe) -> set[int]:
    """Processes of this host that say they are ready. Raises RedisAway."""
    host = socket.gethostname()
    return {record.pid for record in read_processes(pipe) if record.ready and record.host == host}


def served_models(records: Sequence[ProcessRecord]) -> list[ModelFacts]:
    """What producers serve, each model once: first in the order in which a council prefers them, then as they came.

    Of several producers of a model the one counts that has it in memory, else the one that came first.
    """
    served: dict[str, ModelFacts] = {}
    for record in records:
        if record.role == "producer":
            facts = facts_in(record.detail)
            if facts.model not in served or facts.residency == "loaded":
                served[facts.model] = facts
    preferred = [
        model for record in records if record.role == "council" for model in council_models(record) if model in served
    ]
    return [served[model] for model in dict.fromkeys([*preferred, *served])]


def council_models(council: ProcessRecord) -> list[str]:
    """The models that a council serves, by its own record, in the order in which it prefers them."""
    return [model for model in str(council.detail.get("models", "")).split(",") if model]


def named_members(records: Sequence[ProcessRecord]) -> list[MemberSpec]:
    """The members that the council has by name: those that answer where a request names none; empty where the council
    has none, or its roles run alone."""
    for record in records:
        if record.role == "council":
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(str(record.detail.get("members", "[]")), type=list[MemberSpec])
    return []


def _rss_bytes() -> int:
    """Resident memory; where the system does not tell, the most it ever was."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def end_with_supervisor() -> None:
    """Ties this process's life to its supervisor's, where it has one; a Ctrl-C in the terminal is then the
    supervisor's business."""
    if not _is_supervised():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def tiers_of_role() -> Mapping[str, TierPolicy]:
    """All tiers: the usual ones, or those of COUNCIL_TIER_POLICIES, a JSON object of them. Raises Refused."""
    raw = os.environ.get("COUNCIL_TIER_POLICIES")
    if not raw:
        return TIERS
    try:
        return TIERS | msgspec.json.decode(raw, type=dict[str, TierPolicy])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise Refused(
            "bad_tiers", "COUNCIL_TIER_POLICIES is no JSON object of tiers: leave it to `council up`."
        ) from None


def tier_of_role() -> TierPolicy:
    """COUNCIL_TIER, or what this machine's memory carries. Raises Refused."""
    if name := os.environ.get("COUNCIL_TIER"):
        return tier_named(name, tiers_of_role())
    return tier_for_memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), tiers_of_role())


def redis_of_role() -> str:
    """The Redis that a role works on, by REDIS_URL. Raises Refused where none is named, or no usable one answers.

    A role that a supervisor started again does not ask: that Redis was there, and the role waits until it is back.
    """
    url = os.environ.get("REDIS_URL", "")
    if not url:
        raise Refused(
            "no_redis_url", "REDIS_URL is not set: say which Redis to work on, such as redis://127.0.0.1:6379/0."
        )
    if not _is_supervised():
        check_server(url)
    return url


def _is_supervised() -> bool:
    return os.environ.get("COUNCIL_SUPERVISED") == "1"


def run_role(work: Coroutine[Any, Any, None]) -> int:
    """Runs an asyncio role to its end; its exit code. What goes wrong is one sentence on standard error.

    2 for what is refused; 1 for what is missing: that may be there at the next start.
    """
    import uvloop  # the aggregator and the supervisor do without

    try:
        uvloop.run(work)
    except CouncilError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0
