"""The checks of this machine: Python, Redis, memory, the port, the temporary folder, the browser.

They may block: the caller runs each in a thread of its own, with a time limit.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from consumers.web.door.listening import bind, bind_from
from council.doctor.findings import Finding, refused
from council.doctor.hardware import Card
from council.running.keeper import NO_SERVER, bundled_servers, find_server
from council.settings.schema import Settings
from runtime.memory import MachineMemory
from runtime.socket_folder import new_socket_folder
from schemas.errors import CouncilError, Refused
from schemas.rules.tiers import GB, TIERS, TierPolicy, tier_for_memory
from transport.redis.connection import Pipe, ReplyError, info_fields, without_password
from transport.redis.replies import hello_fields
from transport.redis.server_check import OLDEST_REDIS, check_server
from transport.rights import RECORDER_RIGHTS, check_rights

OLDEST_PYTHON = (3, 11)
# A council on this machine answers in milliseconds.
_COUNCIL_S = 1.0
# The facts of sixteen models; a longer answer is not a council's.
_MOST_ANSWER_BYTES = 64 * 1024
_VERSION_S = 2.0
# The n-gram council with all its processes takes 0.4 GB; the smallest language models half a GB each.
_LEAST_AVAILABLE_GB = 1.0


def python_finding(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    shown = ".".join(map(str, version[:3]))
    if version[:2] >= OLDEST_PYTHON:
        return Finding("Python", "ok", f"Python {shown} at {sys.executable}.")
    return Finding("Python", "missing", f"Python {shown} is too old.", "Install Python 3.11 or newer.")


def redis_finding(url: str | None, *, records: bool = True) -> Finding:
    """The named Redis, with the rights of its user, or the private one that would be started."""
    return _named_redis(url, RECORDER_RIGHTS if records else ()) if url else _private_redis(find_server())


def _named_redis(url: str, rights: Sequence[str]) -> Finding:
    try:
        check_rights(url, rights)
        check_server(url)
        pipe = Pipe(url)
        try:
            hello, memory = pipe.run([("HELLO", 2), ("INFO", "memory")])
        finally:
            pipe.close()
    except CouncilError as error:
        return refused("Redis", error)
    server = hello_fields(hello)
    what = f"{str(server.get('server', 'redis')).capitalize()} {server.get('version', 'of an unknown version')}"
    said = f"{what} answers at {without_password(url)}."
    if isinstance(memory, ReplyError):
        advice = "Allow INFO to see it: `ACL SETUSER NAME +info`."
        return Finding("Redis", "ok", f"{said} Its user may not send INFO: its memory is not known.", advice)
    fields = info_fields(memory)
    return _with_eviction(said, fields.get("maxmemory", "0"), fields.get("maxmemory_policy", "noeviction"))


def _with_eviction(said: str, maxmemory: str, policy: str) -> Finding:
    """Every key of the council expires, so every other policy may evict keys of a running session."""
    if maxmemory == "0" or policy == "noeviction":
        return Finding("Redis", "ok", said)
    return Finding(
        "Redis",
        "warning",
        f"{said} When its memory is full it deletes keys ({policy}), also those of a running session.",
        "Set its maxmemory-policy to noeviction: `redis-cli CONFIG SET maxmemory-policy noeviction`, and the same line "
        "in redis.conf.",
    )


def _private_redis(binary: str | None) -> Finding:
    if binary is None:
        return refused("Redis", Refused("no_redis", NO_SERVER.replace(". Set", ": set", 1)))
    try:
        done = subprocess.run(
            [binary, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_VERSION_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return Finding(
            "Redis", "missing", f"{binary} does not run.", "Install it again, or set REDIS_URL to a running Redis."
        )
    version = re.search(r"\bv=((\d+)\.(\d+)[.\d]*)", done.stdout)
    if version and (int(version[2]), int(version[3])) < OLDEST_REDIS:
        return Finding(
            "Redis",
            "missing",
            f"{binary} is {version[1]}; the council needs 6.2 or newer.",
            "Install a newer redis-server or valkey-server, or set REDIS_URL to a running one.",
        )
    kind = "Valkey" if done.stdout.startswith("Valkey") else "Redis"
    shown = f"{kind} {version[1] if version else 'of an unknown version'}"
    package = next((f", of the package {name}" for name, path in bundled_servers().items() if path == binary), "")
    return Finding("Redis", "ok", f"A private server will be started: {shown}{package} ({binary}).")


def memory_findings(settings: Settings, memory: MachineMemory, cards: Sequence[Card]) -> list[Finding]:
    """The memory, and whether the tier fits it."""
    said = f"{_gb(memory.total_bytes)} in all, {_gb(memory.available_bytes)} available"
    if memory.limit_bytes:
        said += f"; this container may use {_gb(memory.limit_bytes)}"
    for card in cards:
        said += f"; {card.name}: {_gb(card.total_bytes)}, {_gb(card.free_bytes)} free"
    if not cards:
        said += "; no graphics card with memory of its own was found"
    tight = memory.available_bytes < _LEAST_AVAILABLE_GB * GB
    advice = "Close programs, or choose small models." if tight else ""
    found = Finding("Memory", "warning" if tight else "ok", f"{said}.", advice)
    return [found, _tier_finding(settings, tier_for_memory(memory.usable_bytes, settings.tier_policies))]


def _tier_finding(settings: Settings, fitting: TierPolicy) -> Finding:
    used = settings.tier_policy
    order = list(TIERS)
    what = f"{_models(used.max_parallel_models)} answer at once, {used.max_loaded_models} may be loaded"
    set_by = "set" if settings.tier else "by this machine's memory"
    said = f"The {used.name} tier ({set_by}): {what}."
    rank = {"hybrid": order.index("high")}.get(used.name, order.index(used.name))
    if rank <= order.index(fitting.name):
        hint = "" if rank == order.index(fitting.name) else f" There is memory for the {fitting.name} tier."
        return Finding("Tier", "ok", said + hint)
    return Finding(
        "Tier",
        "warning",
        f"{said} For this memory, the {fitting.name} tier ({_models(fitting.max_parallel_models)} at once) is better.",
        f'Set tier = "{fitting.name}" in council.toml, or use --tier {fitting.name}; or choose small models.',
    )


def _models(count: int) -> str:
    return f"{count} model{'' if count == 1 else 's'}"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / GB:.1f} GB"


class _OtherCouncil(msgspec.Struct):
    """The part of a council's answer at /api/models that is shown."""

    models: list[object]
    tier: str
    max_parallel_models: int


def port_finding(settings: Settings) -> Finding:
    """Whether the page can listen there, or another council does."""
    host, port = settings.host, settings.port
    try:
        listening = bind(host, port)
    except Refused as error:
        if error.code != "port_in_use":
            return refused("Port", error)
        if other := _council_at(host, port):
            what = f"{other.tier} tier, {_models(len(other.models))}"
            return Finding(
                "Port", "ok", f"A council already listens on {host} port {port} ({what}); `council ask` uses it."
            )
        return refused("Port", error) if settings.is_port_chosen else _next_port(host, port)
    with listening:
        found = f"Port {port} is free on {host}." if port else f"Any free port on {host} will be used."
    return Finding("Port", "ok", found)


def _next_port(host: str, port: int) -> Finding:
    try:
        with bind_from(host, port) as listening:
            moved = listening.getsockname()[1]
    except Refused as error:
        return refused("Port", error)
    return Finding("Port", "ok", f"Port {port} is in use on {host}; `council up` uses port {moved}.")


def _council_at(host: str, port: int) -> _OtherCouncil | None:
    """The council that listens there; None where another program does."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    url = httpx.URL(scheme="http", host=address, port=port, path="/api/models")
    body = bytearray()
    try:
        with httpx.stream("GET", url, timeout=_COUNCIL_S, trust_env=False) as answer:
            for part in answer.iter_raw():
                body += part
                if len(body) > _MOST_ANSWER_BYTES:
                    return None
        return msgspec.json.decode(body, type=_OtherCouncil)
    except (httpx.HTTPError, msgspec.MsgspecError, ValueError):
        return None


def folder_finding(redis_url: str | None) -> Finding:
    """Whether a private Redis can open its socket in the temporary folder, or in /tmp if that path is too long."""
    name = "Temporary folder"
    if redis_url:
        return Finding(name, "ok", "Not needed: a Redis is set.")
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:
        return Finding(
            name, "missing", "There is no folder for temporary files.", "Set TMPDIR to one that you can write to."
        )
    folder = None
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            folder = new_socket_folder("doctor")
            tried.bind(str(folder / "redis.sock"))
    except OSError as error:
        return Finding(
            name,
            "missing",
            f"A private Redis cannot open its socket in {temporary} ({error.strerror}).",
            "Set TMPDIR to a folder that you can write to, such as /tmp.",
        )
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    long = "" if folder.parent == Path(temporary) else f"The path {temporary} is too long for sockets. "
    return Finding(name, "ok", f"{long}The private Redis opens its socket in {folder.parent}.")


def browser_finding() -> Finding:
    """Whether `council up` can open the page."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return Finding(
            "Browser",
            "warning",
            "No browser was found on this machine.",
            "Open the address that `council up` prints in a browser that can reach this machine, or use `council ask`.",
        )
    return Finding("Browser", "ok", f"`council up` opens its page with {getattr(browser, 'name', 'a browser')}.")
