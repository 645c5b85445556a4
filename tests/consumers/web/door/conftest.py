"""A web process with a token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.consumers.web.door.clients import (
    TOKEN,
)
from tests.support.redis_servers import RedisServer
from tests.support.web_server import WebServer


@pytest.fixture
def protected(redis: RedisServer) -> Iterator[WebServer]:
    """A web process that requires a token, on all addresses of this machine."""
    found = WebServer(redis.url, host="0.0.0.0", COUNCIL_TOKEN=TOKEN)
    found.http = found.http.replace("0.0.0.0", "127.0.0.1")
    yield found
    found.close()
