"""The council's status: its processes, the cursors and lag of its open sessions, Redis's memory. The processes and
Redis measure it themselves."""

from __future__ import annotations

from typing import Any

from schemas.grid import NS_PER_MS, window_index_at
from schemas.keys import entry_order
from schemas.processes import ProcessRecord
from transport.redis.connection import AsyncPipe, redis_ns
from transport.redis.replies import optional_info
from transport.register import list_processes, read_register
from transport.sessions import SessionState, list_sessions, require_room

# The roles without which no session is answered and no event written.
_NEEDED = {
    "producer": "no model is served (start one with python -m producers)",
    "aggregator": "no aggregator runs (start one with python -m aggregator)",
    "decipher": "no DECIPHER runs (start one with python -m consumers.decipher)",
}


async def read_status(pipe: AsyncPipe) -> dict[str, Any]:
    """Redis's version and memory (None and 0 for a user who may not send INFO), the processes, and the open sessions.
    Redis's address is left out: clients need not know it. Raises RedisAway, RedisRefuses."""
    records, unreadable = await read_register(pipe)
    states = [state for state in await list_sessions(pipe) if state.status == "open"]
    time_reply, memory, server = await pipe.run([("TIME",), ("INFO", "memory"), ("INFO", "server")])
    now_ns = redis_ns(time_reply)
    used, version = optional_info(memory), optional_info(server)
    return {
        "redis": {
            "version": version.get("redis_version"),
            "used_memory_bytes": int(used.get("used_memory", 0)),
            "maxmemory_bytes": int(used.get("maxmemory", 0)),
        },
        "processes": [_process(record, now_ns) for record in records],
        "unreadable_records": unreadable,
        "sessions": [_session(state, now_ns) for state in states],
    }


async def processes_for(pipe: AsyncPipe, session: str) -> list[ProcessRecord]:
    """The processes that run, among which those for a new session must be. Where those are missing because Redis is
    full, and refuses their records, that is the reason: raises Refused. Raises RedisAway, RedisRefuses."""
    records = await list_processes(pipe)
    if not {"producer", "aggregator"} <= {record.role for record in records}:
        await require_room(pipe, session)
    return records


async def what_is_missing(pipe: AsyncPipe) -> list[str]:
    """What a session needs and does not have, in words; empty where all roles are ready. Raises RedisAway,
    RedisRefuses."""
    ready = {record.role for record in await list_processes(pipe) if record.ready}
    return [sentence for role, sentence in _NEEDED.items() if role not in ready]


def _process(record: ProcessRecord, now_ns: int) -> dict[str, Any]:
    return {
        **record.detail,
        "name": record.name,
        "role": record.role,
        "ready": record.ready,
        "pid": record.pid,
        # The web process has its address there.
        "host": str(record.detail.get("host", record.host)),
        "rss_bytes": record.rss_bytes,
        "cpu_s": record.cpu_s,
        "up_s": round(now_ns / 1e9 - record.started_ms / 1e3, 1),
    }


def cursors(state: SessionState, now_ns: int) -> dict[str, int]:
    """The positions of a session's readers. A lag is the number of windows that are due and not committed, or committed
    and not composed. Windows of a replay are due by its own clock."""
    clock_ns = now_ns if state.clock_ms is None else state.clock_ms * NS_PER_MS
    due = window_index_at(max(0, clock_ns - state.origin_ns)) - 1
    composed = entry_order(state.decipher)[0] - 1
    return {
        "window_index": state.window,
        "aggregator_lag": max(0, due - state.window),
        "decipher_lag": max(0, state.window - composed),
        "epoch": state.epoch,
    }


def _session(state: SessionState, now_ns: int) -> dict[str, Any]:
    return {
        "session": state.session,
        **cursors(state, now_ns),
        "age_s": round((now_ns - state.shown_origin_ns) / NS_PER_MS / 1000, 1),
        "accepted_tokens": [progress.next_seq for progress in state.progress],
    }
