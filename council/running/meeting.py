"""Finding the council for a caller: at a named Redis, on this machine, or a private one that is started for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

import msgspec

from council.running.keeper import NO_SERVER, find_server, is_kept, private_folders, url_of
from council.running.private import END_S
from council.running.supervisor import CouncilPlan
from schemas.errors import RedisAway, RedisRefuses, Refused, Unavailable
from transport.redis.connection import AsyncPipe
from transport.redis.server_check import check_server
from transport.register import list_processes

_PRIVATE_READY_S = 120.0


async def running_council() -> str | None:
    """The Redis URL of this user's newest council on this machine; None where none runs."""
    for folder in private_folders():
        if not is_kept(folder):
            continue
        pipe = AsyncPipe(url_of(folder))
        try:
            records = await list_processes(pipe)
        except (RedisAway, RedisRefuses):
            continue
        finally:
            await pipe.close()
        if any(record.role == "council" and not record.detail.get("private") for record in records):
            return url_of(folder)
    return None


async def require_council(redis_url: str | None) -> str:
    """The named Redis, or that of the council on this machine. Raises Refused where it does not answer, or where no
    council runs."""
    if redis_url:
        await asyncio.to_thread(check_server, redis_url)
        return redis_url
    url = await running_council()
    if url is None:
        raise Refused(
            "no_council",
            "No council runs on this machine: start one with `council up`, or name its Redis with --redis-url.",
        )
    return url


@contextlib.asynccontextmanager
async def private_council(plan: CouncilPlan) -> AsyncIterator[str]:
    """Runs the plan until the context ends; yields the URL of its Redis. Raises Refused or Unavailable where it cannot
    be started."""
    if plan.redis_url is None and find_server() is None:
        raise Refused("no_redis", NO_SERVER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "council.running.private",
        env=os.environ | {"COUNCIL_PLAN": msgspec.json.encode(plan).decode()},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PRIVATE_READY_S):
            line = await process.stdout.readline()
        if not line:
            raise Unavailable("A private council could not be started.")
        yield str(msgspec.json.decode(line)["url"])
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
