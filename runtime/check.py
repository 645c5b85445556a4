"""`--check`, for the health check of a container: whether a process of this role works on this host."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable

from schemas.errors import RedisAway, Refused
from schemas.processes import ProcessRecord, Role
from transport.redis.connection import Pipe
from transport.redis.prefix import with_prefix
from transport.redis.replies import is_refused_connection
from transport.redis.server_check import refusal
from transport.register import processes_of_host


def add_check(
    parser: argparse.ArgumentParser, role: Role, answers: Callable[[ProcessRecord], bool] | None = None
) -> None:
    """Adds the flag --check to a role's parser. Like --help it ends the process: with 0 where a process of the role is
    ready on this host, otherwise with 1 and one sentence. `answers` is asked about each such process; by default its
    record in Redis is enough, which expires five seconds after it was last renewed."""

    class Check(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            trouble = _trouble(role, answers)
            parser.exit(1 if trouble else 0, trouble)

    parser.add_argument("--check", action=Check, nargs=0, help="exit with 0 if this role is ready on this host, else 1")


def _trouble(role: Role, answers: Callable[[ProcessRecord], bool] | None) -> str:
    """Why no process of the role works on this host; empty where one does."""
    url = os.environ.get("REDIS_URL", "")
    if not url:
        return "REDIS_URL is not set: set it to the Redis of the process.\n"
    try:
        with contextlib.closing(Pipe(with_prefix(url, os.environ.get("COUNCIL_PREFIX") or None))) as pipe:
            records = processes_of_host(pipe)
    except Refused as error:
        return f"{error}\n"
    except RedisAway as error:
        if is_refused_connection(error.__cause__):
            return f"{refusal(url, error.__cause__)}\n"
        return "Redis does not answer: start it, or correct REDIS_URL.\n"
    for record in records:
        if record.role == role and record.ready and _is_running(record.pid) and (answers is None or answers(record)):
            return ""
    return f"No process of the role {role} is ready on this host: start one, or read its log.\n"


def _is_running(pid: int) -> bool:
    """False for a process that was killed and whose record has not expired yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs as another user
    return True
