"""The last failure of each server, from the council that runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from council.doctor.findings import Finding
from council.running.meeting import running_council
from council.settings.schema import Server, Settings
from schemas.errors import RedisAway, RedisRefuses
from schemas.grid import NS_PER_MS
from schemas.models import IN_PROCESS
from schemas.rules.served import Failure, last_failures
from transport.redis.connection import AsyncPipe
from transport.register import list_processes


async def failure_findings(settings: Settings) -> list[Finding]:
    """A finding for each server whose model failed; empty where no council runs."""
    url = settings.redis_url or await running_council()
    if url is None:
        return []
    pipe = AsyncPipe(url)
    try:
        records = await list_processes(pipe)
    except (RedisAway, RedisRefuses):
        return []  # the check of Redis has the reason
    finally:
        await pipe.close()
    return findings_of(list(last_failures(records).values()), settings.servers, time.time_ns() // NS_PER_MS)


def findings_of(failures: Sequence[Failure], servers: Mapping[str, Server], now_ms: int) -> list[Finding]:
    """The newest failure of each server, under its name of the settings."""
    newest = {failure.server: failure for failure in sorted(failures, key=lambda failure: failure.failed_ms)}
    names = {_shown(name, server): name for name, server in servers.items()} if newest else {}
    return [
        Finding(
            f"Server {names[failure.server]}" if failure.server in names else failure.model,
            "warning",
            f"Its last failure, {_ago((now_ms - failure.failed_ms) / 1_000)}: {failure.reason}.",
            "" if failure.server == IN_PROCESS else f"`council check {names.get(failure.server, failure.server)}` "
            "shows what it answers to a request.",
        )
        for failure in newest.values()
    ]  # fmt: skip


def _shown(name: str, server: Server) -> str:
    """The address as failures have it."""
    from producers.servers.address import base_address  # it imports an HTTP client

    return str(base_address(name, server.source(""))).rstrip("/")


def _ago(seconds: float) -> str:
    for unit, size in (("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
