"""Actions of a user on the page, and what the page shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from schemas import keys
from schemas.frames import MemberFrame, TokenFrame, decode_frame
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter

_AXE = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}


def ask(page: Page, prompt: str) -> None:
    page.keyboard.type(prompt)
    page.keyboard.press("Enter")


def answer(page: Page, member: int = 0) -> Locator:
    """The element of a member's answer, without its thinking."""
    return page.locator("article").nth(member).locator("> .text")


def is_at_window(page: Page, least: int, timeout_ms: int = 30_000) -> None:
    """Waits until the page shows that window or a later one."""
    page.wait_for_function(
        "least => Number(document.getElementById('window').textContent.replace(/\\D/g, '')) >= least",
        arg=least, timeout=timeout_ms,
    )  # fmt: skip


def has_ended(page: Page, finished: int, of: int) -> None:
    expect(page.get_by_role("status")).to_have_text(f"Ended: {finished} of {of} finished.", timeout=60_000)


def cancel(page: Page) -> None:
    """Ends the session, unless its members have finished meanwhile."""
    page.evaluate("() => fetch(`/api/sessions/${location.hash.slice(1)}/cancel`, { method: 'POST' })")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Ended: \d of \d finished\."), timeout=60_000)


def hold_at(page: Page, window: int) -> None:
    """Moves the time slider to a window."""
    page.get_by_role("slider").fill(str(window))
    expect(page.locator("#window")).to_have_text(re.sub(r"(?<=\d)(?=(\d{3})+$)", "\u202f", str(window)))


def members(*models: str) -> tuple[MemberFrame, ...]:
    return tuple(MemberFrame(model, "answering", 0.5, 20.0, None, 0, 0, "", "", None) for model in models)


def released(models: tuple[str, ...], text: str, window: int, energies: tuple[float, ...] = ()) -> dict[str, Any]:
    """The fields of a frame that releases this ASCII text of every member, as one token each; all windows before it
    released the same text."""
    start, end = len(text) * window, len(text) * (window + 1)
    shown = tuple(
        MemberFrame(model, "answering", energy, 20.0, 0.5, end, 0, text, "", None)
        for model, energy in zip(models, energies or (0.5,) * len(models), strict=True)
    )
    logprob = -0.3 * (window % 17)
    tokens = tuple(TokenFrame(member, "answer", window, start, end, logprob, "real") for member in range(len(models)))
    return {"members": shown, "tokens": tokens}


def session_of(redis: RedisServer) -> str:
    """The only session."""
    (entry,) = redis.run("XRANGE", keys.SESSIONS, "-", "+")  # type: ignore[misc]
    name = entry[1][1].decode()
    assert isinstance(name, str)
    return name


def released_texts(redis: RedisServer, upto: int | None = None) -> list[str]:
    """Each member's text in the frames of the only session, up to a window."""
    raws = redis.run("XRANGE", keys.frames(session_of(redis)), "-", "+")
    frames = [decode_frame(raw[1][1]) for raw in raws]  # type: ignore[attr-defined]
    shown = frames if upto is None else frames[: upto + 1]
    return ["".join(frame.members[index].text for frame in shown) for index in range(len(frames[0].members))]


def frame_at(redis: RedisServer, window: int) -> Any:
    """That frame of the only session."""
    (raw,) = redis.run("XRANGE", keys.frames(session_of(redis)), keys.frame_id(window), keys.frame_id(window))  # type: ignore[misc]
    return decode_frame(raw[1][1])


def in_state(member: MemberFrame, **changes: Any) -> MemberFrame:
    return msgspec.structs.replace(member, **changes)


def follows(recorder: FrameWriter, open_page: Callable[..., Page]) -> Page:
    """A page that shows the first window of a recording, which has no text; it then receives each new frame."""
    recorder.write(1, members=members(*recorder.models))
    page = open_page()
    expect(page.locator("#window")).to_have_text("0")
    return page


# Ends when every transition has ended, or was cancelled.
_TRANSITIONS = """() => Promise.allSettled(
  document.getAnimations().filter((one) => one instanceof CSSTransition).map((one) => one.finished)
)"""


def violations(page: Page) -> list[str]:
    """The violations that axe-core finds in the page's present state, after the transitions that have begun: a button
    that changes its colours has others for a moment."""
    page.evaluate(_TRANSITIONS)
    found = Axe().run(page, options=_AXE).response["violations"]
    return [f"{each['id']}: {node['html'][:160]} {node['failureSummary']}" for each in found for node in each["nodes"]]
