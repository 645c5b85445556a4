"""`council doctor`: what a council needs, whether it is here, and what to do if it is not.

    examine ──▶ one thread for each check ──▶ findings, in the order of the checks
                   └── abandoned when its time is up; that is then its finding

A check may hang: in a name that does not resolve, in a driver, in a browser's script. So each has a daemon thread with
an event loop of its own, which ends with the process at the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from council.doctor import machine_checks, server_checks
from council.doctor.findings import Finding, Status
from council.doctor.hardware import read_cards
from council.doctor.last_failures import failure_findings
from council.settings.schema import Server, Settings
from runtime.memory import read_memory
from transport.redis.connection import without_password

__all__ = ["Finding", "examine", "is_fit", "print_findings"]

# All checks run at once. With the start of the command they take less than five seconds.
CHECK_S = 3.5
# A check that waits in its event loop is cancelled; one that blocks its thread is abandoned this much later.
_GRACE_S = 0.25
# The longest sentence, with a server's own message in it.
_MOST_CHARS = 600

_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("note", "yellow"),
    "missing": ("MISSING", "red"),
}


class _Check(NamedTuple):
    """`late` is the status where the check takes too long; `where` is what it waits for."""

    name: str
    look: Callable[[], Coroutine[Any, Any, list[Finding]]]
    late: Status = "warning"
    where: str = "this machine"


def _checks(settings: Settings) -> list[_Check]:
    url = settings.redis_url

    def redis() -> Finding:
        return machine_checks.redis_finding(url, records=settings.record != "off")

    async def machine() -> list[Finding]:
        return machine_checks.memory_findings(settings, read_memory(), read_cards())

    async def gguf() -> list[Finding]:
        return server_checks.gguf_findings(settings)

    checks = [
        _Check("Python", _alone(machine_checks.python_finding)),
        _Check("Redis", _alone(redis), "missing", without_password(url or "")),
        _Check("Temporary folder", _alone(lambda: machine_checks.folder_finding(url))),
        _Check("Port", _alone(lambda: machine_checks.port_finding(settings)), "missing"),
        _Check("Browser", _alone(machine_checks.browser_finding)),
        _Check("Memory", machine),
        _Check("Ollama", lambda: server_checks.ollama_findings(settings), where="it"),
    ]
    for name, server in settings.servers.items():
        checks.append(_Check(f"Server {name}", _server_check(name, server, settings), "missing", server.address))
    failures = _Check("Last failures", lambda: failure_findings(settings), where="the running council")
    return [*checks, failures, _Check("GGUF files", gguf)]


def _alone(find: Callable[[], Finding]) -> Callable[[], Coroutine[Any, Any, list[Finding]]]:
    async def look() -> list[Finding]:
        return [find()]

    return look


def _server_check(name: str, server: Server, settings: Settings) -> Callable[[], Coroutine[Any, Any, list[Finding]]]:
    return lambda: server_checks.server_findings(name, server, settings)


async def examine(settings: Settings, within_s: float = CHECK_S) -> list[Finding]:
    """A finding or more for each check, within `within_s` and a moment. Raises nothing."""
    checks = _checks(settings)
    found = await asyncio.gather(*(_bounded(check, within_s) for check in checks))
    return [_shown(finding) for findings in found for finding in findings]


def is_fit(findings: Sequence[Finding]) -> bool:
    """True where nothing is missing that a council needs."""
    return all(finding.status != "missing" for finding in findings)


async def _bounded(check: _Check, within_s: float) -> list[Finding]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Finding]] = loop.create_future()
    said = f"There was no answer from {check.where or 'it'} within {within_s:g} s."
    late = Finding(check.name, check.late, said, "Check whether it hangs, and start it again.")

    def deliver(findings: list[Finding]) -> None:
        if not answer.done():
            answer.set_result(findings)

    def work() -> None:
        try:
            findings = asyncio.run(asyncio.wait_for(check.look(), within_s))
        except TimeoutError:
            findings = [late]
        except Exception as bug:  # noqa: BLE001  # the other checks must be shown
            # Not its message, which may contain a secret.
            said = f"This could not be checked ({type(bug).__name__})."
            findings = [Finding(check.name, "warning", said, "Please report this error: it is a fault of the council.")]
        with contextlib.suppress(RuntimeError):  # the loop has ended: the check was abandoned
            loop.call_soon_threadsafe(deliver, findings)

    threading.Thread(target=work, daemon=True, name=f"doctor {check.name}").start()
    try:
        async with asyncio.timeout(within_s + _GRACE_S):
            return await answer
    except TimeoutError:
        return [late]


def _shown(finding: Finding) -> Finding:
    """The finding without control characters, which names of servers and files may contain, and a terminal obeys."""
    return msgspec.structs.replace(
        finding, name=_line(finding.name), said=_line(finding.said), advice=_line(finding.advice)
    )


def _line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * _MOST_CHARS]).split())
    return line if len(line) <= _MOST_CHARS else line[: _MOST_CHARS - 1] + "…"


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Prints a line for each finding, its advice below it, and a summary."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark, colour = _MARKS[finding.status]
        table.add_row(Text(mark, colour), Text(finding.name), Text(finding.said))
        if finding.advice:
            table.add_row("", "", Text.assemble(("→ ", colour), finding.advice))
    console.print(table)
    missing = [finding.name for finding in findings if finding.status == "missing"]
    if missing:
        console.print(Text(f"Missing: {', '.join(missing)}.", "red"))
    else:
        console.print(Text("Nothing is missing.", "green"))
