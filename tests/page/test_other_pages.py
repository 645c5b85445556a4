"""Pages of other origins in a real browser: a file, and a page of a server at another port."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.redis_servers import RedisServer
from tests.support.waiting import wait_until
from tests.support.web_server import WebServer, record_of

TOKEN = "correct-horse-battery-staple"
# What the snippet of docs/protocol.md does, and a request with a header of OpenAI's client.
_TRY = """
async ([address, token]) => {
    const socket = new WebSocket(`${address.replace("http", "ws")}/ws?token=${token}`);
    const received = await new Promise((resolve) => {
        socket.onmessage = ({ data }) => resolve(JSON.parse(data).type);
        socket.onclose = ({ code }) => resolve(code);
    });
    const headers = { "Content-Type": "application/json", "X-Stainless-OS": "Linux" };
    const request = { method: "POST", body: "{}", headers: { ...headers, "Authorization": `Bearer ${token}` } };
    const status = await fetch(`${address}/api/sessions`, request).then((found) => found.status, () => "refused");
    return [received, status];
}
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[list[str]]:
    """The addresses of the same page as a file and from a server."""
    (tmp_path / "page.html").write_text("<!doctype html><title>a page</title>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"file://{tmp_path}/page.html", f"http://localhost:{server.server_port}/page.html"]
    server.shutdown()
    server.server_close()


def test_pages_of_other_origins_work_where_the_setting_names_them(
    redis: RedisServer, browser: Browser, pages: list[str]
) -> None:
    named = {"COUNCIL_ORIGINS": '["null", "http://localhost:*"]'}
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(contextlib.closing(browser.new_context())).new_page()
        for origins, expected in ((named, ["startup_complete", 400]), ({}, [1006, "refused"])):
            web = stack.enter_context(contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=TOKEN, **origins)))
            wait_until(lambda web=web: record_of(redis, web), "the web is ready")  # type: ignore[misc]
            for address in pages:
                page.goto(address)
                assert page.evaluate(_TRY, [web.http, TOKEN]) == expected, address
