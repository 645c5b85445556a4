"""Fixtures: a browser, the page in it, and sessions to show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.web_server import CHAR, WORD, WebServer

ARTIFACTS = ROOT / "artifacts"
_SWITCHES = [
    "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-gpu",
]  # fmt: skip
# Each drawing of the page begins with clearing the braid.
_COUNT_DRAWINGS = """
    window.drawings = 0;
    const clear = CanvasRenderingContext2D.prototype.clearRect;
    CanvasRenderingContext2D.prototype.clearRect = function (...area) {
        if (this.canvas.id === "braid") window.drawings += 1;
        return clear.apply(this, area);
    };
"""
# The page sends no temperature, and a drawn answer of an n-gram model may end after three words. The likeliest tokens
# go on until the limit of tokens, for each question in these tests: the answer lasts as long as a test waits.
_ASK_FOR_THE_LIKELIEST = """
    const send = window.fetch;
    window.fetch = (address, options) => {
        if (address !== "/api/sessions" || options?.method !== "POST") return send(address, options);
        const body = JSON.stringify({ temperature: 0, ...JSON.parse(options.body) });
        return send(address, { ...options, body });
    };
"""

Open = Callable[..., Page]


# Of the whole folder: a test with its own event loop, which only other folders have, cannot run beside this one.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium makes a Unix socket in its temporary folder, whose path may be too long for that.
        environment = os.environ | {"TMPDIR": "/tmp"}
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_SWITCHES, env=environment)
        yield found
        found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the recordings."""
    return tmp_path / "recordings"


@pytest.fixture
def web(redis: RedisServer, folder: Path) -> Iterator[WebServer]:
    """The web process, with a library of its own."""
    found = WebServer(redis.url, "--recordings", str(folder))
    yield found
    found.close()


@pytest.fixture
def player(roles: Roles, folder: Path) -> Role:
    """The process that plays recordings, and an aggregator."""
    roles.ready("aggregator")
    return roles.ready("producers.replay", "--recordings", str(folder))


@pytest.fixture
def open_page(browser: Browser, web: WebServer) -> Iterator[Open]:
    """Opens the page. At the end no page may have had an error or a violation of its content security policy."""
    contexts, complaints = [], []

    def open_page(width: int = 1280, height: int = 800, at: str = "/", **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        context.add_init_script(_COUNT_DRAWINGS)
        context.add_init_script(_ASK_FOR_THE_LIKELIEST)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if "Security Policy" in message.text else None
        )
        page.goto(web.http + at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def speaker(redis: RedisServer, roles: Roles) -> ScriptedProducer:
    """A model whose text the test writes, and an aggregator."""
    roles.ready("aggregator")
    found = ScriptedProducer(redis, "test:speaker")
    found.offer()
    return found


@pytest.fixture
def council(roles: Roles) -> Roles:
    """Two models that answer at a human pace, and their aggregator."""
    roles.ready("aggregator")
    for model in (WORD, CHAR):
        roles.ready("producers", model)
    return roles


@pytest.fixture
def slow_council(roles: Roles) -> Roles:
    """The same, but one model writes four letters a second, so that the session lasts as long as a test needs."""
    roles.ready("aggregator")
    roles.ready("producers", WORD)
    roles.ready("producers", CHAR, "--tokens-per-s", "4")
    return roles


@pytest.fixture
def recorder(redis: RedisServer) -> FrameWriter:
    """An open session, which a new page follows."""
    found = FrameWriter(redis)
    found.announce()
    return found


@pytest.fixture
def pair(redis: RedisServer) -> FrameWriter:
    """An open session of two members."""
    found = FrameWriter(redis, models=("test:one", "test:other"))
    found.announce()
    return found
