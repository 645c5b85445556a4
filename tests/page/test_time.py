"""Time on the page: follow, pause, move back, jump to the parting, sessions; and two answers side by side."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from schemas.frames import TokenFrame
from tests.page.conftest import Open
from tests.page.people import (
    answer,
    ask,
    cancel,
    follows,
    frame_at,
    has_ended,
    hold_at,
    in_state,
    is_at_window,
    members,
    released,
    released_texts,
)
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.web_server import CHAR, WORD

_NUMBERS = """() => Object.fromEntries(["energy", "wave", "diversity", "disagreement", "agreement", "compares",
    "pattern", "lag", "skew", "mode", "window"].map((id) => [id, document.getElementById(id).textContent]))"""
PAIR = ("test:one", "test:other")


def numbers(page: Page) -> Any:
    """All readings of the page."""
    return page.evaluate(_NUMBERS)


def test_two_pages_show_the_same(redis: RedisServer, council: Roles, open_page: Open) -> None:
    """At the end and at earlier windows: the page that asked, and one that was opened during the session."""
    first = open_page()
    expect(first.get_by_role("checkbox")).to_have_count(2)
    ask(first, "What is a list?")
    is_at_window(first, 60)
    second = open_page(1920, 1080)
    is_at_window(second, 120)
    for page in (first, second):
        cancel(page)
        assert [answer(page, member).text_content() for member in (0, 1)] == released_texts(redis)
    assert numbers(first) == numbers(second)
    for window in (100, 77):
        for page in (first, second):
            hold_at(page, window)
        assert numbers(first) == numbers(second)
        for page in (first, second):
            assert [answer(page, member).inner_text() for member in (0, 1)] == released_texts(redis, window)


def test_a_reloaded_page_shows_the_same_session(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "Hello")
    speaker.take_newest()
    speaker.say("before")
    expect(answer(page)).to_have_text("before")
    address = page.url
    page.reload()
    assert page.url == address
    expect(page.locator("#question")).to_have_text("Hello")
    expect(answer(page)).to_have_text("before")
    speaker.say(", after")
    speaker.finish()
    has_ended(page, 1, 1)
    assert answer(page).text_content() == "before, after"
    page.reload()
    has_ended(page, 1, 1)
    assert answer(page).text_content() == "before, after"


def test_time_can_be_paused_moved_and_followed_again(recorder: FrameWriter, open_page: Open) -> None:
    """Frames that come during the pause are kept, and shown afterwards."""
    model = ("test:recorded",)
    page = follows(recorder, open_page)
    for window in range(1, 240):
        recorder.write(1, **released(model, "abcde ", window - 1, (0.25 if window < 120 else 0.75,)))
    is_at_window(page, 228)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#window")).to_have_text("239")
    for window in range(240, 301):
        recorder.write(1, **released(model, "abcde ", window - 1, (1.0,)))
    page.wait_for_function("() => document.getElementById('time').max === '300'")
    expect(page.locator("#window")).to_have_text("239")
    hold_at(page, 100)
    expect(page.locator("article .energy")).to_have_text("0.25")
    assert answer(page).inner_text() == "abcde " * 100
    hold_at(page, 150)
    expect(page.locator("article .energy")).to_have_text("0.75")
    assert answer(page).inner_text() == "abcde " * 150
    # A click on the braid holds the window under the pointer.
    braid = page.locator("#braid")
    held = []
    for x in (900, 700):
        braid.click(position={"x": x, "y": 60})
        page.wait_for_function("""() => {
            const window = document.getElementById("time").value;
            return document.querySelector("#evidence h2").textContent.includes(`window ${window},`);
        }""")
        held.append(int(page.locator("#time").input_value()))
    assert held[1] < held[0] < 300
    assert answer(page).inner_text() == "abcde " * held[1]
    page.get_by_role("button", name="Follow live").click()
    expect(page.locator("#window")).to_have_text("300")
    assert answer(page).text_content() == "abcde " * 300


def test_the_jump_shows_where_the_members_parted(pair: FrameWriter, open_page: Open) -> None:
    page = follows(pair, open_page)
    for window in range(1, 301):
        parted = {"diverged_at_bytes": 600, "compares": "place"} if window >= 100 else {"compares": "next"}
        pair.write(1, **released(PAIR, "abcde ", window - 1), **parted)
    is_at_window(page, 300)
    expect(page.locator("#compares")).to_have_text("same position, parted at byte 600")
    page.get_by_role("button", name="Go to the parting").click()
    expect(page.locator("#window")).to_have_text("160")
    assert answer(page).inner_text() == "abcde " * 160
    for member in (0, 1):
        fork = answer(page, member).locator(".fork")
        expect(fork).to_be_in_viewport()
        before = fork.evaluate("""(fork) => {
            const range = document.createRange();
            range.setStart(fork.closest(".text"), 0);
            range.setEndBefore(fork);
            return range.toString();
        }""")
        assert before == "abcde " * 100


def test_a_parting_before_the_first_received_frame_has_no_window(pair: FrameWriter, open_page: Open) -> None:
    """The members parted before the first received frame: no line is drawn there, and the jump leads to that frame."""
    pair.count = 2_000
    pair.write(60, members=members(*PAIR), diverged_at_bytes=3, compares="place")
    page = open_page()
    is_at_window(page, 2_052)
    expect(page.locator("#compares")).to_have_text("same position, parted at byte 3")
    columns = """async () => {
        const { Columns } = await import("/static/record/columns.js");
        const columns = new Columns(["one"]);
        const frame = { window_index: 7, diverged_at_bytes: 3, members: [{}], tokens: [] };
        columns.add(frame);
        columns.add({ ...frame, window_index: 8, diverged_at_bytes: 5 });
        return columns.partings;
    }"""
    assert page.evaluate(columns) == [[-1, 3], [8, 5]]


def test_two_answers_are_compared_from_their_parting_on(pair: FrameWriter, open_page: Open) -> None:
    one, other = members(*PAIR)
    texts = ("The sky is blue today.", "The sky was grey today.")
    shown = (in_state(one, text=texts[0]), in_state(other, text=texts[1]))
    page = follows(pair, open_page)
    button = page.get_by_role("button", name="Compare answers")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#compare-note")).to_have_text("Nothing to compare yet.", use_inner_text=True)
    pair.write(1, members=shown)
    sides = page.locator(".side")
    expect(sides.locator(".text")).to_have_text(list(texts))
    expect(sides.locator(".before")).to_have_text(["The sky ", "The sky "], use_inner_text=False)
    expect(sides.nth(0).locator("mark")).to_have_text(["is blue"])
    expect(sides.nth(1).locator("mark")).to_have_text(["was grey"])
    expect(page.locator("#compare-note")).to_contain_text("The first 8 bytes are the same")
    page.locator("#compare-other").select_option(label="1 test:one")
    expect(page.locator("#compare-note")).to_contain_text("have not parted")
    button.click()
    expect(page.locator("#compare")).to_be_hidden()


def test_an_earlier_session_is_opened_and_deleted(redis: RedisServer, council: Roles, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    texts = {}
    for question in ("What is a list?", "And a tuple?"):
        page.get_by_label("Your prompt").fill(question)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("#question")).to_have_text(question)
        is_at_window(page, 40)
        cancel(page)
        texts[question] = [answer(page, member).text_content() for member in (0, 1)]
    page.get_by_role("button", name="Sessions").click()
    listed = page.locator("#sessions .prompt-start")
    expect(listed).to_have_text(["And a tuple?", "What is a list?"])
    listed.nth(1).click()
    expect(page.locator("#question")).to_have_text("What is a list?")
    cancel(page)
    assert [answer(page, member).text_content() for member in (0, 1)] == texts["What is a list?"]
    page.go_back()
    expect(page.locator("#question")).to_have_text("And a tuple?")
    cancel(page)
    assert [answer(page, member).text_content() for member in (0, 1)] == texts["And a tuple?"]
    page.go_forward()
    expect(page.locator("#question")).to_have_text("What is a list?")
    page.get_by_role("button", name="Sessions").click()
    page.get_by_role("button", name="Delete the session: And a tuple?").click()
    expect(listed).to_have_text(["What is a list?"])
    page.keyboard.press("Escape")
    page.go_back()
    expect(page.get_by_role("alert")).to_have_text("The council no longer has this session.")
    expect(page.locator("#session")).to_be_hidden()
    page.go_forward()
    expect(page.locator("#question")).to_have_text("What is a list?")
    before = page.url
    page.get_by_role("button", name="Ask again").click()
    page.wait_for_url(lambda url: url != before)
    is_at_window(page, 10)
    expect(page.locator("#question")).to_have_text("What is a list?")
    expect(page.locator("article h3")).to_have_text([f"1 {WORD}", f"2 {CHAR}"])
    page.get_by_role("button", name="Sessions").click()
    expect(page.locator("#sessions .prompt-start")).to_have_text(["What is a list?", "What is a list?"])


def test_the_numbers_of_a_held_window_are_those_of_its_frame(
    redis: RedisServer, council: Roles, open_page: Open
) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 100)
    cancel(page)
    hold_at(page, 90)
    frame = frame_at(redis, 90)
    shown = numbers(page)
    assert shown["energy"] == f"{frame.energy:.2f}"
    assert shown["wave"] == f"{frame.interference.wave:.2f}"
    assert shown["disagreement"] == ("not measured" if frame.measures.jsd is None else f"{frame.measures.jsd:.2f}")
    assert shown["mode"] == frame.mode
    page.get_by_role("button", name="Evidence").click()
    expect(page.locator("#evidence h2")).to_have_text("All numbers · window 90, 1.52 s")
    rows = {
        row.locator("code").text_content(): row.locator("td").first.text_content()
        for row in page.locator("#evidence tr").all()
    }
    assert float(rows["energy"]) == frame.energy
    assert float(rows["members[1].energy"]) == frame.members[1].energy
    assert rows["interference"] == frame.interference.kind
    assert rows["di_source"] == frame.measures.di_source
    assert rows["jsd"] == "not measured" if frame.measures.jsd is None else float(rows["jsd"]) == frame.measures.jsd


def test_thinking_is_shown_at_the_time_it_was_written(recorder: FrameWriter, open_page: Open) -> None:
    page = follows(recorder, open_page)
    (member,) = members(*recorder.models)
    for window in range(1, 121):
        thought = {"thinking": "So. "} if window % 40 == 0 else {}
        start = 4 * (window // 40 - 1)
        tokens = (TokenFrame(0, "thinking", window, start, start + 4, None, "missing"),) if thought else ()
        recorder.write(1, members=(in_state(member, **thought),), tokens=tokens)
    is_at_window(page, 120)
    page.locator("article summary").click()
    thinking = page.locator(".lane details .text")
    assert thinking.text_content() == "So. So. So. "
    hold_at(page, 90)
    expect(thinking).to_have_text("So. So. ", use_inner_text=True)
    hold_at(page, 20)
    expect(page.locator(".lane details")).to_be_hidden()


def test_a_slower_answer_shows_the_fork_when_it_reaches_it(pair: FrameWriter, open_page: Open) -> None:
    page = follows(pair, open_page)
    one, other = members(*pair.models)
    for window in range(1, 31):
        slow = in_state(other, text="abcde ") if window > 20 else other
        parted = {"diverged_at_bytes": 13, "compares": "place"} if window >= 10 else {}
        pair.write(1, members=(in_state(one, text="abcde "), slow), **parted)
    # Text without tokens shows no fork: both forks appear with the tokens.
    token = [TokenFrame(index, "answer", 0, 0, 60, -1.0, "real") for index in (0, 1)]
    pair.write(1, members=(one, other), tokens=tuple(token), diverged_at_bytes=13, compares="place")
    expect(page.locator(".fork")).to_have_count(2)
    before = "(fork) => fork.previousSibling?.textContent ?? ''"
    for member in (0, 1):
        assert answer(page, member).locator(".fork").evaluate(before) == "abcde abcde a"
    # The remaining members parted at another byte; a member that has ended keeps its fork.
    pair.write(1, members=(in_state(one, state="finished"), other), diverged_at_bytes=20, compares="place")
    expect(answer(page, 1).locator(".fork")).to_have_count(1)
    page.wait_for_function("() => document.querySelectorAll('.fork')[1].previousSibling.textContent.length === 20")
    assert answer(page, 0).locator(".fork").evaluate(before) == "abcde abcde a"


def test_a_held_window_is_visible_on_every_picture(pair: FrameWriter, open_page: Open) -> None:
    page = follows(pair, lambda: open_page(1920, 1000))
    for batch in range(1, 21):
        # No faster than the page receives them: merged frames would leave windows out.
        pair.write(60, members=members(*pair.models), energy=0.5, agreement=0.5, jsd=0.5, sync_lag_ms=5.0)
        is_at_window(page, 60 * batch)
    hold_at(page, 1_000)
    for window in (1_000, 800, 620, 200, 900, 5):
        hold_at(page, window)
        for name in ("braid", "energy-plot", "diversity-plot", "disagreement-plot", "lag-plot"):
            # Its line is two pixels of ink from top to bottom.
            found = page.evaluate(_INK_COLUMNS, name)
            assert found, f"window {window} is not visible on {name}"


# The number of columns of a canvas that are ink from top to bottom.
_INK_COLUMNS = """(name) => {
    const canvas = document.getElementById(name);
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = [];
    for (let x = 0; x < width; x += 1) {
        let isInk = true;
        for (let y = 0; isInk && y < height; y += 1) {
            const at = (y * width + x) * 4;
            isInk = data[at] === 0x1a && data[at + 1] === 0x1a && data[at + 3] === 255;
        }
        if (isInk) found.push(x);
    }
    return found.length;
}"""


def test_compared_answers_follow_the_held_window(pair: FrameWriter, open_page: Open) -> None:
    page = follows(pair, open_page)
    for window in range(1, 61):
        pair.write(1, **released(PAIR, "abcde ", window - 1))
    is_at_window(page, 60)
    page.get_by_role("button", name="Compare answers").click()
    expect(page.locator("#compare-note")).to_contain_text("The first 360 bytes are the same")
    hold_at(page, 30)
    expect(page.locator("#compare-note")).to_contain_text("The first 180 bytes are the same")


def test_the_end_of_the_slider_follows_the_newest_window(council: Roles, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 60)
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Follow live")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    cancel(page)
    expect(page.locator("#live")).to_have_text("At the end")


def test_stop_on_a_lane_stops_the_member_of_its_own_session(
    redis: RedisServer, slow_council: Roles, open_page: Open
) -> None:
    """The page already follows another session, which is not loaded yet."""
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 10)
    first = page.url.partition("#")[2]
    posted: list[str] = []
    page.on("request", lambda request: posted.append(request.url) if request.method == "POST" else None)
    page.route("**/api/sessions/never", lambda route: None)
    page.evaluate("() => { location.hash = 'never'; }")
    expect(page.get_by_role("status")).to_have_text("Connecting…")
    page.get_by_role("button", name=f"Stop {WORD}").click()
    expect(page.get_by_role("status")).to_have_text("Connecting…")
    assert [address.partition("/api/")[2] for address in posted] == [f"sessions/{first}/members/0/cancel"]
    page.evaluate("(session) => { location.hash = session; }", first)
    is_at_window(page, 20)
    cancel(page)


def test_a_late_page_can_show_every_window_from_the_beginning(
    redis: RedisServer, slow_council: Roles, open_page: Open
) -> None:
    """Also windows older than the ten seconds that a socket sends without `from`."""
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 660)
    late = open_page(at=f"/#{page.url.partition('#')[2]}")
    cancel(page)
    late.reload()
    cancel(late)
    assert late.locator("#time").get_attribute("min") == "0"
    for window in (50, 7):
        hold_at(late, window)
        hold_at(page, window)
        assert [answer(late, member).inner_text() for member in (0, 1)] == released_texts(redis, window)
        assert numbers(late) == numbers(page)


def test_a_page_whose_last_frames_redis_lost_shows_the_session_again(recorder: FrameWriter, open_page: Open) -> None:
    """The windows that it shows are written again with another text; its connection to the web process never breaks."""
    page = follows(recorder, open_page)
    for window in range(1, 25):
        recorder.write(1, **released(("test:recorded",), "lost ", window - 1))
    expect(answer(page)).to_have_text("lost " * 24)
    recorder.lose()
    recorder.write(36, members=members(*recorder.models), cut="2-0")
    expect(answer(page)).to_have_text("")
    recorder.write(1, cut="2-0", **released(("test:recorded",), "true", 0))
    expect(answer(page)).to_have_text("true")
