"""Accessibility: keyboard, screen readers, reduced motion, colours, zoom."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Open
from tests.page.people import answer, ask, cancel, follows, has_ended, is_at_window, members, released, violations
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.web_server import WORD


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_a_session(pair: FrameWriter, open_page: Open, scheme: str) -> None:
    """A running session; a held window with evidence and two answers side by side; the list of sessions."""
    page = follows(pair, lambda: open_page(color_scheme=scheme))
    for window in range(1, 121):
        parted = {"diverged_at_bytes": 300, "compares": "place"} if window > 50 else {"compares": "next"}
        shown = released(pair.models, "abc\ndef ", window - 1)
        pair.write(1, **shown, agreement=0.3, interference="destructive", jsd=0.7, di_source="logprobs", **parted)
    is_at_window(page, 120)
    assert violations(page) == []
    page.get_by_role("button", name="Go to the parting").click()
    page.get_by_role("button", name="Compare answers").click()
    page.get_by_role("button", name="Evidence").click()
    expect(page.locator("#evidence")).to_be_visible()
    expect(page.locator(".side mark").or_(page.locator(".side .before")).first).to_be_visible()
    assert violations(page) == []
    page.get_by_role("button", name="Sessions").click()
    expect(page.locator("#sessions .prompt-start").first).to_be_visible()
    assert violations(page) == []


def test_axe_finds_no_violation_before_the_first_session(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(1)
    page.get_by_role("button", name="Sessions").click()
    expect(page.locator("#sessions")).to_contain_text("No sessions yet")
    assert violations(page) == []


def tab_to(page: Page, is_there: Callable[[], Any]) -> None:
    """Presses Tab until the focus is there; every focused element must have a visible outline."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement === document.body"):
            continue
        outline = page.evaluate("""() => {
            const focused = document.activeElement;
            const shown = focused.closest(".chip") ?? focused;
            return [focused, shown].some((each) => parseFloat(getComputedStyle(each).outlineWidth) >= 1);
        }""")
        assert outline, page.evaluate("() => document.activeElement.outerHTML")
        if is_there():
            return
    raise AssertionError("Tab never reaches the element")


def test_everything_works_with_the_keyboard_alone(slow_council: Roles, open_page: Open) -> None:
    """Select members, ask, hold and move the time, evidence, compare, tokens, stop one, stop all, ask again."""
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)

    def focused(selector: str) -> Callable[[], Any]:
        return lambda: page.evaluate("(selector) => document.activeElement.matches(selector)", selector)

    tab_to(page, focused("input[type=checkbox]"))
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(1)
    page.keyboard.press("Space")
    tab_to(page, focused("#prompt"))
    ask(page, "What is a list?")
    # From the third word on, the first is complete, also five windows earlier.
    expect(answer(page)).to_have_text(re.compile(r"\S\s+\S+\s+\S"), timeout=30_000)
    tab_to(page, focused("#live"))
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("Follow live")
    held = int(page.locator("#time").input_value())
    tab_to(page, focused("#time"))
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#window")).to_have_text(str(held - 5))
    tab_to(page, focused("#pin"))
    page.keyboard.press("Enter")
    expect(page.locator("#evidence h2")).to_contain_text(f"window {held - 5}")
    page.keyboard.press("Escape")
    expect(page.locator("#evidence")).to_be_hidden()
    tab_to(page, focused("#compare-button"))
    page.keyboard.press("Enter")
    expect(page.locator("#compare")).to_be_visible()
    tab_to(page, focused("article > .text"))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#evidence .pieces, #evidence .quiet").first).to_be_visible()
    expect(page.locator(".token.current")).to_have_count(1)
    tab_to(page, focused("#live"))
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("Pause")
    tab_to(page, focused(f"[aria-label='Stop {WORD}']"))
    page.keyboard.press("Enter")
    expect(page.locator("article .state").first).to_have_text("stopped")
    tab_to(page, focused("#stop-button"))
    page.keyboard.press("Enter")
    has_ended(page, 0, 2)
    expect(page.locator("#prompt")).to_be_focused()
    tab_to(page, focused("#again"))
    before = page.url
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url != before)
    cancel(page)


def test_screen_readers_get_a_summary_every_six_seconds(slow_council: Roles, open_page: Open) -> None:
    """The first summary comes at once, the second about six seconds later; no other live region changes by itself."""
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    # Live regions in a panel count only while it is open.
    live = ":is([aria-live], [role=status], [role=alert], output):not([popover] *)"
    regions = page.evaluate("(live) => [...document.querySelectorAll(live)].map((each) => each.id)", live)
    assert sorted(regions) == ["awaited-sentence", "effect", "error", "pointed", "status", "summary"]
    page.evaluate("""() => {
        window.summaries = [];
        const summary = document.getElementById("summary");
        const listen = () => window.summaries.push([performance.now(), summary.textContent]);
        new MutationObserver(listen).observe(summary, { childList: true, characterData: true, subtree: true });
    }""")
    ask(page, "What is a list?")
    page.wait_for_function("() => window.summaries.length >= 2", timeout=30_000)
    (first_ms, first), (second_ms, _) = page.evaluate("() => window.summaries")
    assert "seconds: energy" in first
    assert f"{WORD} " in first
    # Half a second less than six: on a busy machine the first change may be noticed late.
    assert second_ms - first_ms > 5_500
    cancel(page)


def test_reduced_motion_means_four_drawings_a_second_without_interference(council: Roles, open_page: Open) -> None:
    page = open_page(reduced_motion="reduce")
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 30)
    duration_ms = page.evaluate("""() => new Promise((resolve) => {
        const [from, drawn] = [performance.now(), window.drawings];
        const look = () => {
            if (window.drawings - drawn >= 12) resolve(performance.now() - from);
            else requestAnimationFrame(look);
        };
        look();
    })""")
    # Twelve drawings have eleven pauses of a quarter of a second; the first pause had begun before.
    assert duration_ms > 2_400
    cancel(page)
    columns = page.evaluate(_COLUMNS, True)
    # Without interference the light between two strands falls and rises once; no ring, no winding.
    assert columns["turnsMatter"] is False
    assert columns["extrema"] <= 3
    assert page.evaluate(_COLUMNS, False)["extrema"] > 8


# The number of extrema of the light between the strands of two members that disagree, and whether winding changes the
# column.
_COLUMNS = """async (isCalm) => {
    const { Braid } = await import("/static/stage/braid.js");
    const { Drive } = await import("/static/stage/drive.js");
    const height = 240;
    const colours = { members: [[0, 114, 178], [213, 94, 0]], cord: [26, 26, 30], gold: [154, 107, 0] };
    const column = (turn) => {
        const drive = new Drive(2);
        Object.assign(drive, { spread: 1, measured: 1, cord: 0, ring: 1, turn });
        drive.light.fill(0.8);
        drive.width.fill(0.8);
        const pixels = new Uint8ClampedArray(height * 4);
        new Braid(height).column(pixels, 1, 0, drive, colours, isCalm, new Float64Array(2));
        return Array.from({ length: height }, (_, y) => pixels[4 * y + 3]);
    };
    const [here, there] = [column(0.13), column(0.31)];
    let extrema = 0;
    for (let y = 60; y < 180; y += 1) {
        if ((here[y] - here[y - 1]) * (here[y + 1] - here[y]) < 0) extrema += 1;
    }
    return { turnsMatter: here.some((alpha, y) => alpha !== there[y]), extrema };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_differ_from_each_other_and_from_the_background(open_page: Open, scheme: str) -> None:
    """Lines and shapes have a contrast of 3 with the background, texts of 4.5; each member has its own shape; the
    members' colours differ also for viewers who do not see red or green."""
    page = open_page(color_scheme=scheme)
    names = ["ground", "raised", "ink", "quiet", "alarm", "gold", "ring", "constructive", "neutral", "destructive"]
    names += [f"member-{index}" for index in range(1, 7)]
    found = page.evaluate(
        """(names) => {
            const style = getComputedStyle(document.documentElement);
            return names.map((name) => style.getPropertyValue(`--${name}`).trim());
        }""",
        names,
    )
    colours = {
        name: tuple(int(value[at : at + 2], 16) for at in (1, 3, 5)) for name, value in zip(names, found, strict=True)
    }
    for text in ("ink", "quiet", "alarm", "gold"):
        for ground in ("ground", "raised"):
            assert contrast(colours[text], colours[ground]) >= 4.5, text
    for line in names[6:]:
        assert contrast(colours[line], colours["ground"]) >= 3, line
    for one, other in combinations(names[10:], 2):
        for vision in (_NORMAL, _WITHOUT_RED, _WITHOUT_GREEN):
            assert distance(colours[one], colours[other], vision) > 0.06, (one, other)
    shapes = page.evaluate("""async () => {
        const { shapeOf } = await import("/static/stage/marks.js");
        return [0, 1, 2, 3, 4, 5].map(shapeOf);
    }""")
    assert len(set(shapes)) == 6


Colour = tuple[int, ...]
_NORMAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# Viénot, Brettel and Mollon (1999): linear RGB as dichromats see it.
_WITHOUT_RED = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
_WITHOUT_GREEN = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))


def linear(channel: int) -> float:
    share = channel / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def luminance(colour: Colour) -> float:
    red, green, blue = map(linear, colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def distance(one: Colour, other: Colour, vision: tuple[tuple[float, ...], ...]) -> float:
    """The distance in cube roots of linear light, in which equal distances look about equal."""

    def shown(colour: Colour) -> list[float]:
        light = [linear(channel) for channel in colour]
        return [math.copysign(abs(sum(a * b for a, b in zip(row, light, strict=True))) ** (1 / 3), 1) for row in vision]

    return math.dist(shown(one), shown(other))


def test_the_page_works_at_200_percent_zoom(pair: FrameWriter, open_page: Open) -> None:
    """200 % zoom of a window of 1280 pixels is a window of 640 pixels with twice the resolution."""
    page = follows(pair, lambda: open_page(640, 400, device_scale_factor=2))
    pair.write(60, members=members(*pair.models), agreement=0.5, compares="next")
    is_at_window(page, 60)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for name in ("Ask again", "Stop all", "Pause", "Evidence", "Compare answers"):
        button = page.get_by_role("button", name=name)
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 640
    assert answer(page).count() == 1
