"""A replay on the page: its label, its controls, and the same window on all pages that show it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.page.conftest import Open
from tests.page.people import answer, is_at_window
from tests.support.recording_files import frames_of, write_golden
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Role, Roles
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.waiting import wait_until

NAME = "seeds"
FRAMES = frames_of(NAME)
LAST = len(FRAMES) - 1
_SHOWN = "() => Number(document.getElementById('window').textContent.replace(/\\D/g, ''))"
_HAS_NO_PLAYER = """() => fetch(`/api/sessions/${location.hash.slice(1)}/playback`)
    .then((reply) => reply.json()).then((playback) => !playback.has_player)"""


@pytest.fixture
def recording(folder: Path) -> Path:
    return write_golden(folder, NAME, prompt="Why is the sky blue?")


def plays(open_page: Open, **options: Any) -> Page:
    """Opens a page and plays the only recording."""
    page = open_page(**options)
    page.get_by_role("button", name="Recordings").click()
    page.locator("#recordings .session-link").click()
    expect(page.locator("#recordings")).to_be_hidden()
    expect(page.locator("#replayed")).to_be_visible()
    return page


def shown(page: Page) -> int:
    """The window that the page shows."""
    return int(page.evaluate(_SHOWN))


def status(page: Page, text: str) -> None:
    expect(page.locator("#status")).to_have_text(text, timeout=15_000)


def text_at(window: int, member: int = 0) -> str:
    return "".join(frame.members[member].text for frame in FRAMES[: window + 1])


def paused_at(page: Page, window: int) -> None:
    """Waits until the replay is paused at this window."""
    expect(page.locator("#live")).to_have_text("Play")
    page.wait_for_function(f"window => ({_SHOWN})() === window", arg=window)


def test_a_replay_is_labelled_and_plays_to_its_end(player: Role, recording: Path, open_page: Open) -> None:
    page = plays(open_page)
    label = page.locator("#replayed")
    expect(label).to_have_text(re.compile(r"^Replay of \w{12}, recorded .*2026.*\d\d:\d\d"))
    expect(page.locator("#question")).to_have_text("Why is the sky blue?")
    expect(page.locator("#keep")).to_be_hidden()
    expect(page.locator("#live")).to_be_focused()
    status(page, "The replay is playing.")
    # Members of a replay have no Stop button.
    expect(page.get_by_role("button", name="Stop seed-1")).to_be_hidden()
    status(page, "The replay is at its end.")
    expect(page.locator("#live")).to_have_text("Play again")
    assert shown(page) == LAST
    assert [answer(page, member).text_content() for member in (0, 1)] == [text_at(LAST, member) for member in (0, 1)]
    page.get_by_role("button", name="Sessions").click()
    expect(page.locator("#sessions li")).to_contain_text(["replay of a session of"])
    # The address of a replay can be reloaded.
    page.keyboard.press("Escape")
    page.reload()
    expect(label).to_be_visible()
    status(page, "The replay is at its end.")
    assert shown(page) == LAST
    page.get_by_role("button", name="Play again").click()
    status(page, "The replay is playing.")
    page.wait_for_function(f"last => ({_SHOWN})() < last / 2", arg=LAST)
    status(page, "The replay is at its end.")


def test_a_replay_moves_smoothly_at_its_speed(player: Role, recording: Path, open_page: Open) -> None:
    """Also between two reports of the replay: never back, and never a quarter of a second at once."""
    page = plays(open_page)
    is_at_window(page, 10)
    moves = page.evaluate("""() => new Promise((resolve) => {
        const slider = document.getElementById("time");
        const seen = [];
        const look = (nowMs) => {
            seen.push([nowMs, Number(slider.value)]);
            if (nowMs - seen[0][0] < 2000) requestAnimationFrame(look);
            else resolve(seen);
        };
        requestAnimationFrame(look);
    })""")
    windows = [window for _, window in moves]
    assert windows == sorted(windows)
    assert max(after - before for before, after in pairwise(windows)) <= 20
    seconds = (moves[-1][0] - moves[0][0]) / 1000
    assert 0.7 < (windows[-1] - windows[0]) / 60 / seconds < 1.3


def test_all_pages_of_a_replay_show_the_same_window(player: Role, recording: Path, open_page: Open) -> None:
    one = plays(open_page)
    is_at_window(one, 30)
    other = open_page(at=one.url[one.url.index("/#") :])
    expect(other.locator("#replayed")).to_be_visible()
    other.get_by_role("button", name="Pause").click()
    status(one, "The replay is paused.")
    status(other, "The replay is paused.")
    one.wait_for_function(f"window => ({_SHOWN})() === window", arg=shown(other))
    # The slider of one page moves both pages.
    one.get_by_role("slider").fill("100")
    for page in (one, other):
        paused_at(page, 100)
        assert answer(page).inner_text() == text_at(100).strip("\n")
    other.get_by_role("button", name="Previous window").click()
    for page in (one, other):
        paused_at(page, 99)
    one.get_by_role("button", name="Next window").click()
    for page in (one, other):
        paused_at(page, 100)
    other.get_by_label("Speed").select_option("4")
    expect(one.get_by_label("Speed")).to_have_value("4")
    one.get_by_role("button", name="Play", exact=True).click()
    for page in (one, other):
        status(page, "The replay is at its end.")


def test_keys_control_a_replay(player: Role, recording: Path, open_page: Open) -> None:
    page = plays(open_page)
    is_at_window(page, 5)
    page.locator("#question").click()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press(" ")
    expect(page.locator("#live")).to_have_text("Play")
    page.keyboard.press("5")
    paused_at(page, round(LAST / 2))
    page.keyboard.press("ArrowRight")
    paused_at(page, round(LAST / 2) + 60)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    paused_at(page, round(LAST / 2) - 60)
    page.keyboard.press("Shift+ArrowRight")
    paused_at(page, round(LAST / 2) - 59)
    page.keyboard.press("0")
    paused_at(page, 0)
    page.keyboard.press(" ")
    status(page, "The replay is playing.")
    # In the prompt the keys are letters.
    page.locator("#prompt").fill("")
    page.locator("#prompt").press("7")
    page.locator("#prompt").press(" ")
    expect(page.locator("#prompt")).to_have_value("7 ")
    expect(page.locator("#live")).not_to_have_text("Play")


def test_loop_starts_again_at_the_end(player: Role, recording: Path, open_page: Open) -> None:
    page = plays(open_page)
    page.get_by_label("Speed").select_option("8")
    page.get_by_role("button", name="Loop").click()
    for _ in range(2):
        is_at_window(page, round(0.8 * LAST))
        page.wait_for_function(f"last => ({_SHOWN})() < last / 3", arg=LAST)
    page.get_by_role("button", name="Loop").click()
    status(page, "The replay is at its end.")


def test_the_speed_max_plays_as_fast_as_the_council_computes(player: Role, recording: Path, open_page: Open) -> None:
    page = plays(open_page)
    page.get_by_label("Speed").select_option("max")
    status(page, "The replay is at its end.")
    # A jump at this speed pauses at its window.
    page.get_by_role("slider").fill("50")
    paused_at(page, 50)
    page.get_by_role("button", name="Play", exact=True).click()
    status(page, "The replay is at its end.")
    page.get_by_role("button", name="Play again").click()
    expect(page.get_by_label("Speed")).to_have_value("1")
    status(page, "The replay is playing.")


def test_stop_all_ends_a_replay(player: Role, recording: Path, open_page: Open) -> None:
    page = plays(open_page)
    is_at_window(page, 10)
    page.get_by_role("button", name="Stop all").click()
    status(page, "The replay is at its end.")
    assert shown(page) < LAST
    expect(page.get_by_role("button", name="Stop all")).to_be_hidden()


def test_without_its_process_a_replay_shows_the_received_frames(player: Role, recording: Path, open_page: Open) -> None:
    """The replay process has ended, and no process follows orders: only this page moves."""
    page = plays(open_page)
    page.get_by_label("Speed").select_option("max")
    status(page, "The replay is at its end.")
    assert player.end() == 0
    wait_until(lambda: page.evaluate(_HAS_NO_PLAYER), "the council reports that no process plays the replay")
    page.get_by_role("slider").fill("60")
    paused_at(page, 60)
    page.wait_for_timeout(1_500)
    paused_at(page, 60)
    assert answer(page).inner_text() == text_at(60).strip("\n")


def test_a_kept_session_is_played_with_the_same_text(roles: Roles, player: Role, folder: Path, open_page: Open) -> None:
    """From the question over the recorder and the library to the replay, with the same text."""
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "60")
    roles.ready("consumers.recorder", "--recordings", str(folder))
    page = open_page()
    page.locator("#prompt").fill("What is a list?")
    expect(page.get_by_role("checkbox")).to_have_count(1)
    page.locator("#prompt").press("Enter")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("#keep")).to_have_text("Keeping…")
    is_at_window(page, 60)
    page.get_by_role("button", name="Stop all").click()
    expect(page.locator("#keep")).to_have_text("Kept", timeout=15_000)
    text, last = answer(page).text_content(), shown(page)
    page.get_by_role("button", name="Recordings").click()
    page.locator("#recordings .session-link").click()
    expect(page.locator("#replayed")).to_be_visible()
    page.get_by_label("Speed").select_option("8")
    status(page, "The replay is at its end.")
    assert (answer(page).text_content(), shown(page)) == (text, last)


def test_a_question_after_a_replay_shows_a_live_session(
    roles: Roles, player: Role, recording: Path, open_page: Open
) -> None:
    roles.ready("producers", "ngram:word-3")
    page = plays(open_page)
    is_at_window(page, 10)
    page.locator("#prompt").fill("What is a list?")
    page.locator("#prompt").press("Enter")
    expect(page.locator("#replayed")).to_be_hidden()
    expect(page.get_by_role("group", name="Replay")).to_be_hidden()
    expect(page.locator("#keep")).to_be_visible()
    page.go_back()
    expect(page.locator("#replayed")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280, 1920])
def test_axe_finds_no_violation_in_a_replay_and_it_fits(
    player: Role, recording: Path, open_page: Open, scheme: str, width: int
) -> None:
    page = plays(open_page, width=width, color_scheme=scheme)
    is_at_window(page, 30)
    page.get_by_role("button", name="Loop").click()
    page.get_by_role("button", name="Pause").click()
    status(page, "The replay is paused.")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert Axe().run(page).response["violations"] == []


def test_a_branch_of_a_replay_asks_the_models_that_are_served(
    redis: RedisServer, player: Role, recording: Path, open_page: Open
) -> None:
    seed = ScriptedProducer(redis, "seed-1")
    page = plays(open_page)
    page.get_by_label("Speed").select_option("8")
    status(page, "The replay is at its end.")
    replay = page.url
    before = answer(page).locator(".token").nth(2)
    before.click()
    place = int(before.get_attribute("data-start") or "")
    page.get_by_label("What if it went on with…").fill(" another")
    seed.offer()
    page.get_by_role("button", name="Try it").click()
    expect(page.locator("#error")).to_contain_text("seed-6 is left out")
    seed.take_newest()
    seed.say(" word")
    seed.finish()
    expect(answer(page).locator("mark.changed")).to_have_text("another")
    expect(page.locator("#replayed")).to_be_hidden()
    beginning = text_at(LAST).encode()[:place].decode().rstrip()
    expect(answer(page)).to_have_text(f"{beginning} another word")
    expect(page.locator("#status")).to_have_text(re.compile("^Ended"), timeout=30_000)
    expect(page.locator("#effect")).to_contain_text(" another word”.")
    page.get_by_role("treeitem").first.click()
    expect(page.locator("#replayed")).to_be_visible()
    assert page.url == replay
