"""Each process imports only the libraries that it needs: an import costs memory and start-up time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.council_command import environment


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("council.running.up", {"typer", "rich", "structlog", "pydantic", "httpx", "aiohttp", "numpy", "uvloop"}),
        ("aggregator.__main__", {"typer", "rich", "structlog", "pydantic", "httpx", "aiohttp", "uvloop"}),
        ("consumers.decipher.__main__", {"typer", "rich", "structlog", "pydantic", "httpx", "aiohttp", "numpy"}),
        ("consumers.web.__main__", {"typer", "rich", "structlog", "pydantic", "httpx", "aiohttp", "numpy", "mcap"}),
        ("consumers.web.process", {"typer", "rich", "structlog", "httpx", "numpy", "mcap", "zstandard"}),
        ("consumers.recorder.__main__", {"typer", "rich", "structlog", "pydantic", "aiohttp", "mcap", "zstandard"}),
        ("producers.replay.__main__", {"typer", "rich", "structlog", "pydantic", "httpx", "mcap", "zstandard"}),
        ("producers.__main__", {"typer", "rich", "structlog", "pydantic", "httpx", "aiohttp", "numpy"}),
        ("council.running.keeper", {"asyncio", "msgspec", "redis.connection"}),
    ],
)
def test_a_process_imports_only_the_libraries_that_it_needs(module: str, libraries: set[str]) -> None:
    assert _run(f"import sys, {module}; print({libraries!r} & {{*sys.modules}} or '')") == ""


def test_redis_py_s_clients_are_imported_at_their_first_use() -> None:
    clients = "'redis.client', 'redis.cluster', 'redis.asyncio.client', 'redis.commands.core'"
    loaded = f"[name for name in ({clients}) if name in sys.modules]"
    assert _run(f"import sys, transport.redis.connection; print({loaded})") == "[]"
    use = "redis.Redis.from_url('redis://localhost'), redis.asyncio.Redis.from_url('redis://localhost')"
    assert "Redis" in _run(f"import transport.redis.connection, redis, redis.asyncio; print({use})")
    whole = "import redis\nredis.Redis, redis.asyncio.Redis"
    for package, name in (
        ("redis", "RedisCluster"),
        ("redis.asyncio", "Redis"),
        ("redis.client", "Redis"),
        ("redis.cluster", "RedisCluster"),
        ("redis.asyncio.client", "Redis"),
        ("redis.asyncio.cluster", "RedisCluster"),
    ):
        _run(f"import transport.redis.connection\nfrom {package} import {name}\n{whole}")
        _run(f"from {package} import {name}\nimport transport.redis.connection\n{whole}")
