"""The configuration of nginx in docs/deployment.md, run by nginx in front of a web process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from schemas import keys
from schemas.events import EnergyPayload, EnergyUpdate, encode_event
from tests.consumers.web.door.clients import request_code
from tests.support.live_clients import text_of
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import until
from tests.support.web_server import WebServer

_NGINX = Path("/usr/sbin/nginx")
_PAGE = (ROOT / "docs/deployment.md").read_text()
(_DOCUMENTED,) = re.findall(r"^```nginx\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)
_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_NAME = "council.example.com"
_ORIGINS = f'["https://{_NAME}"]'

pytestmark = pytest.mark.skipif(not _NGINX.exists(), reason="there is no nginx")


@pytest.fixture
def web(redis: RedisServer) -> Iterator[WebServer]:
    with contextlib.closing(WebServer(redis.url, COUNCIL_ORIGINS=_ORIGINS)) as found:
        yield found


@pytest.fixture
def proxy(web: WebServer, tmp_path: Path) -> Iterator[str]:
    """The address of the proxy; /old/ on it is passed on as an nginx does by default, with HTTP/1.0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = re.sub(r"^ *ssl_certificate.*\n", "", _DOCUMENTED, flags=re.MULTILINE)
    server = server.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};").replace("127.0.0.1:8145", web.address)
    old = f"location /old/ {{ proxy_pass http://{web.address}/; proxy_set_header Host $http_host; }}"
    server = server.replace("    location / {", f"    {old}\n    location / {{")
    assert server.count(web.address) == 2
    folders = " ".join(f"{name}_temp_path {tmp_path}/{name};" for name in _FOLDERS)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {folders}\n{server} }}"
    )
    running = subprocess.Popen(
        [_NGINX, "-e", "stderr", "-c", tmp_path / "nginx.conf"], stderr=(tmp_path / "log").open("w")
    )
    yield f"http://127.0.0.1:{port}"
    running.terminate()
    running.wait(10)


async def test_sockets_and_event_streams_work_through_the_documented_proxy(
    redis: RedisServer, web: WebServer, proxy: str, client: aiohttp.ClientSession
) -> None:
    recorder = FrameWriter(redis)
    recorder.write(3)
    name = recorder.session
    headers = {"Host": _NAME, "Origin": f"https://{_NAME}"}

    async def answers() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return await request_code(client, "GET", f"{proxy}/healthz", headers=headers) == (200, "")
        return False

    await until(answers, "the proxy and the web process answer")
    async with client.ws_connect(f"{proxy}/frames?session={name}", headers=headers) as frames:
        assert '"window_index":0' in await text_of(frames)
        async with client.ws_connect(f"{proxy}/ws", headers=headers) as events:
            assert "startup_complete" in await text_of(events)
    assert await request_code(client, "POST", f"{proxy}/api/sessions/{name}/cancel", headers=headers) == (202, "")
    energy = encode_event(EnergyUpdate(1, 1, EnergyPayload(0.5, 0.0, 0, 1.0, "ensemble")))
    redis.run("XADD", keys.events(name), "1-0", "e", energy, "n", "n")
    for place in (proxy, f"{proxy}/old"):
        async with client.get(f"{place}/api/sessions/{name}/events", headers=headers) as stream, asyncio.timeout(10):
            # It is far shorter than 4 KiB, and the response goes on.
            assert (await stream.content.readuntil(b"\n\n")).endswith(b"data: %b\n\n" % energy)
