"""The output of `council sessions` and `council status`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from schemas.keys import entry_ms
from transport.redis.connection import AsyncPipe, without_password
from transport.sessions import list_sessions, read_openings
from transport.status import read_status


async def sessions_report(pipe: AsyncPipe) -> list[dict[str, Any]]:
    """The sessions that Redis has, newest first, without their prompts. Raises RedisAway."""
    states = await list_sessions(pipe)
    openings = await read_openings(pipe, states)
    return [
        {
            "session": state.session,
            "status": state.status,
            "models": [member.model for member in openings[state.session].members],
            "names": list(openings[state.session].names),
            "windows": state.window + 1,
            "opened_ms": entry_ms(state.opened),
            "reason": state.reason or None,
            "replay_of": replay.of if (replay := openings[state.session].replay) else None,
        }
        for state in states
        if state.session in openings
    ]


async def status_report(pipe: AsyncPipe) -> dict[str, Any]:
    """The processes, the open sessions with their cursors and lag, and the memory. Raises RedisAway."""
    status = await read_status(pipe)
    return status | {"redis": {"url": without_password(pipe.url), **status["redis"]}}


def print_sessions(console: Console, sessions: list[dict[str, Any]]) -> None:
    if not sessions:
        console.print("There are no sessions.")
        return
    table = Table("session", "status", "members", "windows", "reason")
    for session in sessions:
        replayed = f"replay of {session['replay_of']}" if session["replay_of"] else ""
        reason = "; ".join(filter(None, (replayed, session["reason"])))
        table.add_row(
            session["session"], session["status"], ", ".join(session["names"]), str(session["windows"]), reason
        )
    console.print(table)


def print_status(console: Console, status: dict[str, Any]) -> None:
    redis = status["redis"]
    limit = redis["maxmemory_bytes"]
    of_limit = f" of {_mib(limit)}" if limit else ""
    version = redis["version"] or "of an unknown version"
    console.print(f"Redis {version} at {redis['url']}, {_mib(redis['used_memory_bytes'])}{of_limit} used")
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
    console.print(f"Losses since the start of the processes: {_losses(status['processes'])}.")
    if unreadable := status["unreadable_records"]:
        console.print(f"Process records that this version cannot read: {unreadable}.")
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


# The counters of losses in the process records, and their names for the user.
_COUNTED = {
    "windows_late": "windows committed late",
    "frames_without_analysis": "frames without analysis",
    "frames_batched": "frames whose events were combined",
    "frames_overrun": "frames over 16.67 ms",
    "frames_merged": "frames merged for slow clients",
    "clients_too_slow": "clients that were too slow",
    "clients_refused": "clients refused",
    "connections_refused": "connections over the limit",
    "events_left_out": "invalid events",
}


def _losses(processes: list[dict[str, Any]]) -> str:
    """The counters above 0, added over all processes."""
    found = {name: [process.get(name, 0) for process in processes] for name in _COUNTED}
    totals = {name: sum(count for count in counts if isinstance(count, int)) for name, counts in found.items()}
    return ", ".join(f"{count} {_COUNTED[name]}" for name, count in totals.items() if count) or "none"


def _subject(process: dict[str, Any]) -> str:
    """The subject of a process: its model, its address, or its tier."""
    if "port" in process:
        return f"{process['host']}:{process['port']}"
    return str(process.get("model") or process.get("tier", ""))


def _state(process: dict[str, Any]) -> str:
    """Whether the process is ready, and whether its model is in memory, if the council manages that."""
    residency = process.get("residency", "unmanaged")
    loaded = {"absent": ", not loaded", "unmanaged": ""}.get(residency, f", {residency}")
    state = "draining" if process.get("draining") else "ready" if process["ready"] else "starting"
    return state + loaded


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
