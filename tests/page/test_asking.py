"""The page in a real browser: asking, stopping, signing in, readings, errors, layout."""

from __future__ import annotations

import contextlib
import re
from itertools import combinations
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from schemas import keys
from tests.page.conftest import ARTIFACTS, Open
from tests.page.people import answer, ask, members, released_texts
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer, offer_aggregator
from tests.support.waiting import wait_until
from tests.support.web_server import CHAR, PACE, WORD, WebServer, record_of

# The elements that are wider than the window.
_TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
    .map((each) => `${each.tagName} ${each.id} ${each.className}`)"""

# Every line of text in the parts with numbers, as [text, left, top, right, bottom].
_LINES_OF_READINGS = """() => {
    const lines = [];
    for (const root of document.querySelectorAll(".heading, .transport, figcaption, .lane header, .vitals")) {
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const range = document.createRange();
            range.selectNodeContents(node);
            for (const { left, top, right, bottom } of range.getClientRects()) {
                if (right > left) lines.push([node.data.trim(), left, top + scrollY, right, bottom + scrollY]);
            }
        }
    }
    return lines;
}"""


def test_a_question_is_asked_and_each_members_answer_is_shown(
    redis: RedisServer, roles: Roles, open_page: Open
) -> None:
    for arguments in (["aggregator"], ["producers", WORD, *PACE], ["producers", CHAR, *PACE]):
        roles.ready(*arguments)
    page = open_page()
    expect(page.get_by_label("Your prompt")).to_be_focused()
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
    page.keyboard.type("What is a list?")
    page.keyboard.press("Shift+Enter")
    ask(page, "And a tuple?")
    expect(page.locator("#question")).to_have_text("What is a list?\nAnd a tuple?", use_inner_text=True)
    expect(page.get_by_role("status")).to_have_text("Ended: 2 of 2 finished.", timeout=60_000)
    expect(page.locator("article h3")).to_have_text(["1 ngram:word-3", "2 ngram:char-6"])
    assert [answer(page, 0).text_content(), answer(page, 1).text_content()] == released_texts(redis)
    expect(page.locator("#window")).not_to_have_text("–")
    assert is_drawn(page)


def is_drawn(page: Page) -> bool:
    """True if the braid contains the colours of the first two members."""
    return bool(
        page.evaluate("""() => {
            const canvas = document.getElementById("braid");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const isSeen = (colour) => {
                for (let at = 0; at < data.length; at += 4) {
                    const far = Math.max(...colour.map((channel, index) => Math.abs(channel - data[at + index])));
                    if (far < 24 && data[at + 3] > 128) return true;
                }
                return false;
            };
            return isSeen([0x00, 0x72, 0xb2]) && isSeen([0xd5, 0x5e, 0x00]);
        }""")
    )


def test_text_of_a_model_is_shown_as_characters_and_never_as_markup(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "<b>Hello</b>")
    speaker.take_newest()
    markup = "<script>window.harm = 1</script><img src=x onerror='window.harm = 2'> & \u2028 \N{GRINNING FACE}"
    speaker.say("<i>Let me think.</i>", "thinking")
    speaker.say(markup)
    speaker.fail("<img src=x onerror='window.harm = 3'> broke")
    lane = page.get_by_role("article")
    expect(lane.locator(".state")).to_have_text("dropped: <img src=x onerror='window.harm = 3'> broke")
    assert lane.locator("> .text").text_content() == markup
    expect(lane.locator("details .text")).to_be_hidden()
    lane.locator("summary").click()
    expect(lane.locator("details .text")).to_have_text("<i>Let me think.</i>")
    expect(page.locator("#question")).to_have_text("<b>Hello</b>")
    expect(page.locator("#diversity")).to_have_text("not measured")
    assert page.locator("img, b, i, article script").count() == 0
    assert page.evaluate("window.harm") is None


def test_a_page_opened_later_follows_the_running_session(speaker: ScriptedProducer, open_page: Open) -> None:
    ask(open_page(), "Hello")
    speaker.take_newest()
    speaker.say("so far")
    late = open_page()
    expect(late.locator("article > .text")).to_have_text("so far")
    speaker.say(", and on")
    expect(late.locator("article > .text")).to_have_text("so far, and on")
    expect(late.get_by_role("button", name="Stop all")).to_be_visible()


def test_after_a_restart_of_the_server_the_text_continues_without_repetition(
    speaker: ScriptedProducer, web: WebServer, open_page: Open
) -> None:
    page = open_page()
    ask(page, "Hello")
    speaker.take_newest()
    speaker.say("before")
    expect(page.locator("article > .text")).to_have_text("before")
    web.kill()
    expect(page.get_by_role("status")).to_have_text("Connection lost; reconnecting…")
    speaker.say(", between")
    web.start()
    expect(page.get_by_role("status")).to_have_text("The council is answering.", timeout=20_000)
    speaker.say(", after")
    speaker.finish()
    expect(page.get_by_role("status")).to_have_text("Ended: 1 of 1 finished.")
    assert page.locator("article > .text").text_content() == "before, between, after"


def test_stop_all_ends_the_session_and_focuses_the_prompt(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "Hello")
    speaker.take_newest()
    page.get_by_role("button", name="Stop all").click()
    expect(page.get_by_role("status")).to_have_text("Ended: 0 of 1 finished.")
    expect(page.locator("article .state")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Stop all")).to_be_hidden()
    expect(page.get_by_label("Your prompt")).to_be_focused()


def test_a_new_question_cancels_the_previous_session(
    speaker: ScriptedProducer, redis: RedisServer, open_page: Open
) -> None:
    page = open_page()
    ask(page, "First")
    speaker.take_newest()
    speaker.say("one")
    expect(page.locator("article > .text")).to_have_text("one")
    page.get_by_label("Your prompt").fill("Second")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#question")).to_have_text("Second")
    expect(page.locator("article .state")).to_have_text("waiting")
    newer, older = page.evaluate("fetch('/api/sessions').then((answer) => answer.json())")["sessions"]
    assert newer["status"] == "open"
    wait_until(lambda: redis.run("HGET", keys.state(older["session"]), "status") == b"ended", "the first one ends")


def test_without_an_aggregator_the_status_names_the_missing_process(redis: RedisServer, open_page: Open) -> None:
    speaker = ScriptedProducer(redis, "test:speaker")
    speaker.offer()
    offer_aggregator(redis)
    page = open_page()
    ask(page, "Hello")
    message = "No frame has arrived: start an aggregator with council up or python -m aggregator."
    expect(page.get_by_role("status")).to_have_text(message, timeout=10_000)


def test_after_sign_in_the_page_works_in_a_real_browser(redis: RedisServer, browser: Browser) -> None:
    """In a real browser, because its Origin depends on several headers."""
    token = "correct-horse-battery-staple"
    with contextlib.closing(WebServer(redis.url, COUNCIL_TOKEN=token)) as web:
        wait_until(lambda: record_of(redis, web), "the web is ready")
        recorder = FrameWriter(redis)
        recorder.announce()
        recorder.write(13)
        page = browser.new_context().new_page()
        for typed in ("wrong-wrong-wrong-wrong", token):
            if typed != token:
                page.goto(web.http)
                assert page.evaluate("getComputedStyle(document.body).display") == "grid"
            page.get_by_label("Token").fill(typed)
            page.get_by_role("button", name="Sign in").click()
            if typed != token:
                expect(page.get_by_role("alert")).to_have_text("This is not the council's token.")
        # The files, the API and the socket accept the cookie.
        expect(page.locator("#energy")).to_have_text("0.50")
        assert page.url.partition("#")[0] == f"{web.http}/"
        page.context.close()


def test_an_idle_page_draws_nothing(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "Hello")
    speaker.take_newest()
    speaker.say("done")
    speaker.finish()
    expect(page.get_by_role("status")).to_have_text("Ended: 1 of 1 finished.")
    with page.expect_response("**/api/models"):
        page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        drawings = page.evaluate("drawings")
    assert 0 < drawings == page.evaluate("drawings")


def test_an_error_is_shown_with_the_servers_message(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "  ")
    expect(page.get_by_role("alert")).to_have_text("The prompt is empty: write the text that the council is to answer.")
    expect(page.get_by_role("status")).to_have_text("")
    page.get_by_role("checkbox").uncheck()
    page.get_by_label("Your prompt").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("No member is selected: select at least one.")


def test_the_comparison_and_the_parting_are_shown_in_words(pair: FrameWriter, open_page: Open) -> None:
    """nothing -> same text so far -> parted -> one member is left: the parting stays."""
    both = members("test:one", "test:other")
    pair.write(13, members=both)
    page = open_page()
    agreement, source, compared = (
        page.locator("#agreement"),
        page.locator("#agreement-source"),
        page.locator("#compares"),
    )
    expect(agreement).to_have_text("not measured")
    expect(compared).to_have_text("not measured")
    pair.write(12, members=both, agreement=0.91, agreement_source="logprobs", compares="next", interference="neutral")
    expect(agreement).to_have_text("0.91")
    expect(page.locator("#pattern")).to_have_text("The answers partly agree (neutral)")
    expect(source).to_have_text("")
    expect(compared).to_have_text("same text so far")
    pair.write(12, members=both)
    expect(compared).to_have_text("never parted")
    parted: dict[str, Any] = {"compares": "place", "diverged_at_bytes": 48, "interference": "destructive"}
    pair.write(12, members=both, agreement=0.12, agreement_source="mixed", **parted)
    expect(agreement).to_have_text("0.12")
    expect(page.locator("#pattern")).to_have_text("The answers differ (destructive interference)")
    expect(source).to_have_text("partly from text")
    pair.write(12, members=both, agreement=0.0, agreement_source="text", **parted)
    expect(source).to_have_text("from text")
    expect(compared).to_have_text("same position, parted at byte 48")
    pair.write(12, members=both)
    expect(agreement).to_have_text("not measured")
    expect(source).to_have_text("")
    expect(compared).to_have_text("parted at byte 48")


def test_a_lane_shows_held_detached_and_buffered_in_words(pair: FrameWriter, open_page: Open) -> None:
    one, other = members("test:one", "test:other")
    ahead = msgspec.structs.replace(one, state="held", buffered_tokens=12)
    behind = msgspec.structs.replace(other, state="detached", buffered_tokens=1, remote=True)
    pair.write(13, members=(ahead, behind), mode="step", sync_lag_ms=16.4, arrival_skew_ms=480.0)
    page = open_page()
    expect(page.locator("article .state")).to_have_text(
        [
            "held: waits for the others · 12 tokens buffered",
            "remote · detached: not waited for · 1 token buffered",
        ]
    )
    for reading, text in (("mode", "step"), ("lag", "16 ms"), ("skew", "480 ms")):
        expect(page.locator(f"#{reading}")).to_have_text(text)
    pair.write(12, members=(one, other))
    expect(page.locator("article .state")).to_have_text(["answering", "answering"])


def test_a_single_member_has_no_readings_of_comparison(recorder: FrameWriter, open_page: Open) -> None:
    recorder.write(13)
    page = open_page()
    expect(page.locator("#energy")).to_have_text("0.50")
    expect(page.locator("#agreement")).to_be_hidden()
    for reading in ("compares", "lag", "skew"):
        expect(page.locator(f"#{reading}")).to_be_hidden()


@pytest.mark.parametrize("letters", ["100%", "200%"])
def test_readings_do_not_overlap_at_any_width(pair: FrameWriter, open_page: Open, letters: str) -> None:
    """The longest values of a session of an hour, from 320 to 1920 pixels, also with letters of twice the size."""
    pair.count = 215_988
    longest: dict[str, Any] = {"energy": 1.0, "diversity_index": 1.0, "di_source": "logprobs"}
    longest |= {"sync_lag_ms": 99_999.0, "arrival_skew_ms": 99_999.0}
    longest |= {"agreement": 1.0, "agreement_source": "mixed", "interference": "constructive"}
    longest |= {"compares": "place", "diverged_at_bytes": 65_536, "mode": "single"}
    pair.write(13, members=members("test:one", "test:other"), **longest)
    page = open_page()
    expect(page.locator("#compares")).to_have_text("same position, parted at byte 65536")
    page.evaluate("letters => (document.documentElement.style.fontSize = letters)", letters)
    for width in (320, 360, 768, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(_TOO_WIDE) == [], width
        lines = page.evaluate(_LINES_OF_READINGS)
        assert len(lines) > 40
        for (one, left, top, right, bottom), (other, *edges) in combinations(lines, 2):
            is_apart = right <= edges[0] or edges[2] <= left or bottom <= edges[1] or edges[3] <= top
            assert is_apart, f"{one!r} overlaps {other!r} at {width} px"
        assert max(right for _, _, _, right, _ in lines) <= width


def test_the_page_fits_windows_of_three_sizes(speaker: ScriptedProducer, roles: Roles, open_page: Open) -> None:
    """Four seconds of a session in three windows at once; the screenshots are kept in artifacts/."""
    for model in (WORD, CHAR):
        roles.ready("producers", model)
    speaker.offer()
    first = open_page(1280, 800, color_scheme="dark")
    expect(first.get_by_role("checkbox")).to_have_count(3)
    ask(first, "How does Python decide which of two values is the smaller one?")
    speaker.take_newest()
    speaker.say("Donaudampfschiffahrtsgesellschaftskapitän" * 4)
    others = [open_page(360, 780), open_page(1920, 1080, reduced_motion="reduce")]
    ARTIFACTS.mkdir(exist_ok=True)
    for page in (first, *others):
        expect(page.locator("#window")).to_have_text(re.compile(r"^(2[4-9]|[3-9]\d)\d$"), timeout=30_000)
        assert page.evaluate(_TOO_WIDE) == []
        width = page.evaluate("innerWidth")
        page.screenshot(path=ARTIFACTS / f"page-{width}.png", full_page=width == 360)
