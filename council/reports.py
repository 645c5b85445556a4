"""What `council sessions` and `council status` say: measured by the processes themselves, and by Redis."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from schemas.grid import NS_PER_MS, window_index_at
from schemas.keys import entry_order
from transport.connection import AsyncPipe, ReplyError, info_fields, redis_ns, without_password
from transport.process import list_processes
from transport.sessions import SessionState, list_sessions, read_openings


async def sessions_report(pipe: AsyncPipe) -> list[dict[str, Any]]:
    """The sessions that are still kept, newest first. Prompts stay out of it. Raises RedisAway."""
    states = await list_sessions(pipe)
    openings = await read_openings(pipe, states)
    return [
        {
            "session": state.session,
            "status": state.status,
            "models": [member.model for member in openings[state.session].members],
            "windows": state.window + 1,
            "opened_ms": entry_order(state.opened)[0],
            "reason": state.reason or None,
        }
        for state in states
        if state.session in openings
    ]


async def status_report(pipe: AsyncPipe) -> dict[str, Any]:
    """Processes, open sessions with their cursors and lag, and memory. Raises RedisAway."""
    records = await list_processes(pipe)
    states = [state for state in await list_sessions(pipe) if state.status == "open"]
    time_reply, memory, server = await pipe.run([("TIME",), ("INFO", "memory"), ("INFO", "server")])
    now_ns = redis_ns(time_reply)
    used, version = _fields(memory), _fields(server)
    return {
        "redis": {
            "url": without_password(pipe.url),
            "version": version.get("redis_version"),
            "used_memory_bytes": int(used.get("used_memory", 0)),
            "maxmemory_bytes": int(used.get("maxmemory", 0)),
        },
        "processes": [
            {
                "name": record.name,
                "role": record.role,
                "ready": record.ready,
                "pid": record.pid,
                "host": record.host,
                "rss_bytes": record.rss_bytes,
                "cpu_s": record.cpu_s,
                "up_s": round(now_ns / 1e9 - record.started_ms / 1e3, 1),
                **record.detail,
            }
            for record in records
        ],
        "sessions": [_cursors(state, now_ns) for state in states],
    }


def _fields(info: Any) -> dict[str, str]:
    return {} if isinstance(info, ReplyError) else info_fields(info)


def _cursors(state: SessionState, now_ns: int) -> dict[str, Any]:
    """How far a session's readers are. lag: windows that are due and not yet committed, or committed and not yet
    composed."""
    due = window_index_at(max(0, now_ns - state.origin_ns)) - 1
    composed = entry_order(state.decipher)[0] - 1
    return {
        "session": state.session,
        "window_index": state.window,
        "aggregator_lag": max(0, due - state.window),
        "decipher_lag": max(0, state.window - composed),
        "epoch": state.epoch,
        "age_s": round((now_ns - state.origin_ns) / NS_PER_MS / 1000, 1),
        "accepted_tokens": [progress.next_seq for progress in state.progress],
    }


def print_sessions(console: Console, sessions: list[dict[str, Any]]) -> None:
    if not sessions:
        console.print("No session is kept here.")
        return
    table = Table("session", "status", "models", "windows", "reason")
    for session in sessions:
        reason = session["reason"] or ""
        table.add_row(
            session["session"], session["status"], ", ".join(session["models"]), str(session["windows"]), reason
        )
    console.print(table)


def print_status(console: Console, status: dict[str, Any]) -> None:
    redis = status["redis"]
    limit = redis["maxmemory_bytes"]
    of_limit = f" of {_mib(limit)}" if limit else ""
    console.print(f"Redis {redis['version']} at {redis['url']}, {_mib(redis['used_memory_bytes'])}{of_limit} used")
    table = Table("process", "of", "state", "pid", "memory", "CPU", "up", "sessions", padding=(0, 0), pad_edge=False)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for process in status["processes"]:
        table.add_row(
            process["role"],
            _subject(process),
            _state(process),
            str(process["pid"]),
            _mib(process["rss_bytes"]),
            f"{process['cpu_s']:.1f} s",
            f"{process['up_s']:.0f} s",
            str(process.get("sessions", "")),
        )
    console.print(table)
    if not status["sessions"]:
        console.print("No session is open.")
        return
    cursors = Table("open session", "age", "window", "aggregator lag", "DECIPHER lag", "tokens")
    for session in status["sessions"]:
        cursors.add_row(
            session["session"],
            f"{session['age_s']:.0f} s",
            str(session["window_index"]),
            f"{session['aggregator_lag']} windows",
            f"{session['decipher_lag']} windows",
            " ".join(map(str, session["accepted_tokens"])),
        )
    console.print(cursors)


def _subject(process: dict[str, Any]) -> str:
    """What a process is there for: its model, its address, or its tier."""
    if "port" in process:
        return f"{process['host']}:{process['port']}"
    return str(process.get("model") or process.get("tier", ""))


def _state(process: dict[str, Any]) -> str:
    """Whether it serves, and whether its model is in memory, where that is ours to manage."""
    residency = process.get("residency", "unmanaged")
    loaded = {"absent": ", not loaded", "unmanaged": ""}.get(residency, f", {residency}")
    return ("ready" if process["ready"] else "starting") + loaded


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
