"""`python docs/page_pictures.py [FOLDER [NAME ...]]`: takes the pictures of the page for docs/page.md, with Chromium.

The script starts a council of SmolLM2; `council models get smollm2` downloads the model. Without names it takes all
pictures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).parent / "page"
_SWITCHES = ["--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-gpu"]
_END_S = 20.0
_QUESTION = "What is the capital of France, and why is it famous?"
# With this seed the members write the same words for a while, and then part.
_TWO: dict[str, Any] = {"models": ["smollm2-cold", "smollm2-warm"], "seed": 5}
_ALL: dict[str, Any] = {"models": ["smollm2-cold", "smollm2-warm", "smollm2-hot"], "seed": 5}


@contextmanager
def council() -> Iterator[str]:
    """Starts a council on a private Redis; returns the address of its page."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "council", "up", "--no-open", "--port", "0", "--tier", "mid"],
            cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stderr
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"http://[\d.]+:\d+", line):
                    yield found[0]
                    break
            else:
                raise RuntimeError(f"the council does not start: {''.join(lines)}")
        finally:
            process.terminate()
            process.communicate(timeout=_END_S)


def ask(address: str, body: dict[str, Any]) -> str:
    """Opens a session; returns its id."""
    request = urllib.request.Request(
        f"{address}/api/sessions",
        data=json.dumps({"prompt": _QUESTION, **body}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["session"])


def wait_until_loaded(address: str) -> None:
    """Waits until every model is in memory, so that the pictures do not show loading."""
    for _ in range(600):
        with urllib.request.urlopen(f"{address}/api/models") as answer:
            if all(model["residency"] == "loaded" for model in json.load(answer)["models"]):
                return
        time.sleep(0.1)
    raise RuntimeError("the models are not loaded within a minute")


def at_window(page: Page, window: int) -> None:
    """Waits until the page shows this window or a later one, or the session has ended."""
    page.wait_for_function(
        """least => Number(document.getElementById('window').textContent.replace(/\\D/g, '')) >= least
        || document.getElementById('status').textContent.startsWith('Ended')""",
        arg=window,
    )


def look_at_token(page: Page) -> None:
    """Points at a token after the parting."""
    page.locator("article").first.locator(":is(.fork, .token:has(.fork)) ~ .token").nth(1).hover()
    page.wait_for_selector(".pieces li")


def look_back(page: Page) -> None:
    """Shows the parting, and two answers side by side."""
    page.get_by_role("button", name="Go to the parting").click()
    page.get_by_role("button", name="Compare answers").click()


def branch_off(page: Page) -> None:
    """Opens two branches of the first answer, each after the end of the answer before it."""
    ended = "() => document.getElementById('status').textContent.startsWith('Ended')"
    for number in (2, 1):
        page.wait_for_function(ended, timeout=60_000)
        if number == 1:
            page.get_by_role("treeitem").first.click()
            page.wait_for_function("() => !document.querySelector('article mark.changed')")
        page.locator("article").first.locator(".token").nth(5).click()
        page.locator("#evidence button.piece").nth(number).click()
        page.wait_for_selector("article mark.changed")
    page.wait_for_function(ended, timeout=60_000)
    page.wait_for_function("() => /both are the same|differ/.test(document.getElementById('effect').textContent)")
    page.evaluate("scrollTo(0, document.getElementById('branches').getBoundingClientRect().top + scrollY - 24)")


class Picture(NamedTuple):
    """A session at a window, after an action on the page."""

    body: dict[str, Any]
    window: int
    do: Callable[[Page], None] = lambda page: None
    size: tuple[int, int] = (1280, 800)
    scheme: Literal["dark", "light"] = "dark"


PICTURES = {
    "parting": Picture(_ALL, 130),
    "council": Picture(_ALL, 140, scheme="light"),
    "token": Picture(_ALL, 110, look_at_token, scheme="light"),
    "compare": Picture(_TWO, 90, look_back),
    "branches": Picture({**_TWO, "max_tokens": 48}, 20, branch_off, scheme="light"),
    "telephone": Picture(_TWO, 70, size=(360, 780)),
}


def photograph(browser: Browser, address: str, picture: Picture, path: Path) -> None:
    """Takes the picture."""
    width, height = picture.size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=picture.scheme)
    page = context.new_page()
    # A session that does not exist: the page then follows the next address.
    page.goto(f"{address}/#none")
    page.wait_for_selector(".chip input")
    page.evaluate("session => { location.hash = session; }", ask(address, picture.body))
    at_window(page, picture.window)
    picture.do(page)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.screenshot(path=path)
    page.evaluate("() => fetch(`/api/sessions/${location.hash.slice(1)}/cancel`, { method: 'POST' })")
    context.close()


def main(folder: Path, names: Sequence[str]) -> None:
    """Takes the pictures of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    with council() as address, sync_playwright() as playwright:
        wait_until_loaded(address)
        # Chromium makes a Unix socket in its temporary folder, whose path may be too long for that.
        environment: dict[str, str | float | bool] = {**os.environ, "TMPDIR": "/tmp"}
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_SWITCHES, env=environment)
        for name in names:
            photograph(browser, address, PICTURES[name], folder / f"{name}.png")
            print(folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, sys.argv[2:] or list(PICTURES))
