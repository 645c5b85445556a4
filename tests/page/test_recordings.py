"""The library on the page: search, star, delete, compare, import, keep."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from recordings.folder import Library, recording_name
from schemas.sessions import Member
from tests.consumers.web.api.test_recordings import HOSTILE, offer
from tests.page.conftest import Open
from tests.page.people import follows
from tests.support.recording_files import write_golden
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter

_OPENED_MS = "session => fetch(`/api/sessions/${session}`).then((r) => r.json()).then((found) => found.opened_ms)"
_DROP = """([selector, name, data]) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
    const target = document.querySelector(selector);
    for (const kind of ["dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
}"""


@pytest.fixture
def three(folder: Path) -> list[Path]:
    """Three recordings, the newest first."""
    made = [
        write_golden(folder, "seeds", session="a" * 12, prompt="Why is the sky blue?"),
        write_golden(folder, "early-end", session="b" * 12, prompt="What is a list?"),
        write_golden(folder, "thinking", session="c" * 12, prompt="Is water wet?"),
    ]
    for age, path in enumerate(made):
        os.utime(path, (1_700_000_000 - 60 * age,) * 2)
    return made


def opened(page: Page) -> Locator:
    """Opens the panel."""
    page.get_by_role("button", name="Recordings").click()
    panel = page.locator("#recordings")
    expect(panel).to_be_visible()
    return panel


def questions(panel: Locator) -> Locator:
    return panel.locator("li .prompt-start")


def drop(page: Page, name: str, data: bytes) -> None:
    page.evaluate(_DROP, ["#recordings", name, base64.b64encode(data).decode()])


def test_the_library_lists_recordings_with_their_facts(three: list[Path], open_page: Open) -> None:
    page = open_page()
    panel = opened(page)
    expect(questions(panel)).to_have_text(
        ["▶Play Why is the sky blue?", "▶Play What is a list?", "▶Play Is water wet?"]
    )
    first = panel.locator("li").first
    expect(first).to_contain_text("3.7 s · 2 members: seed-1, seed-6 · ")
    expect(first).to_contain_text(" · agreement 0.24 · ")
    expect(first.get_by_role("img")).to_have_attribute("aria-label", "Agreement: 0.24 on average")
    expect(first.get_by_role("link")).to_have_attribute("download", three[0].name)
    with page.expect_download() as download:
        first.get_by_role("link").click()
    assert Path(download.value.path()).read_bytes() == three[0].read_bytes()


def test_an_empty_library_names_the_next_step(open_page: Open) -> None:
    panel = opened(open_page())
    expect(panel.get_by_role("status").first).to_have_text("No recordings yet: keep a session, or drop a file here.")
    expect(panel.get_by_role("button", name="Show more")).to_be_hidden()


def test_the_list_is_searched_while_words_are_typed(three: list[Path], open_page: Open) -> None:
    page = open_page()
    panel = opened(page)
    search = panel.get_by_role("searchbox")
    search.fill("WATER")
    expect(questions(panel)).to_have_text(["▶Play Is water wet?"])
    expect(panel.get_by_role("status").first).to_have_text("1 found")
    search.fill("nothing of this kind")
    expect(questions(panel)).to_have_count(0)
    expect(panel.get_by_role("status").first).to_have_text("No recording contains these words.")
    search.fill("seed-6")
    expect(questions(panel)).to_have_text(["▶Play Why is the sky blue?"])
    search.fill("")
    expect(questions(panel)).to_have_count(3)


def test_show_more_loads_the_next_page(folder: Path, open_page: Open) -> None:
    for number in range(53):
        write_golden(folder, session=f"{number:012x}")
    panel = opened(open_page())
    expect(panel.locator("li")).to_have_count(50)
    panel.get_by_role("button", name="Show more").click()
    expect(panel.locator("li")).to_have_count(53)
    expect(panel.get_by_role("button", name="Show more")).to_be_hidden()
    # The focus is at the first new item.
    expect(panel.locator("li").nth(50).get_by_role("button").first).to_be_focused()


def test_a_star_is_set_and_removed_with_the_keyboard(folder: Path, three: list[Path], open_page: Open) -> None:
    page = open_page()
    panel = opened(page)
    star = panel.get_by_role("button", name="Star: What is a list?")
    expect(star).to_have_attribute("aria-pressed", "false")
    star.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "true")
    expect(star).to_be_focused()
    assert Library(folder).find(three[1].name).starred
    star.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "false")
    assert not Library(folder).find(three[1].name).starred


def test_a_recording_is_deleted_after_a_confirmation(folder: Path, three: list[Path], open_page: Open) -> None:
    page = open_page()
    panel = opened(page)
    panel.get_by_role("button", name="Delete: What is a list?").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Delete the recording “What is a list?” of")
    # Against mistakes: Enter and Escape delete nothing.
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    panel.get_by_role("button", name="Delete: What is a list?").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert three[1].exists()
    expect(panel).to_be_visible()
    panel.get_by_role("button", name="Delete: What is a list?").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(questions(panel)).to_have_text(["▶Play Why is the sky blue?", "▶Play Is water wet?"])
    assert not three[1].exists()
    expect(panel.locator("li").nth(1).get_by_role("button").first).to_be_focused()


def test_files_are_imported_by_drop_or_by_choice(
    tmp_path: Path, folder: Path, three: list[Path], open_page: Open
) -> None:
    path = write_golden(tmp_path, "killed", prompt="Dropped?")
    page = open_page()
    panel = opened(page)
    drop(page, "dropped.mcap", path.read_bytes())
    expect(panel.get_by_role("status").first).to_have_text("Imported: dropped.mcap.")
    expect(questions(panel).first).to_have_text("▶Play Dropped?")
    assert (folder / "dropped.mcap").read_bytes() == path.read_bytes()
    with page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Import…").click()
    chooser.value.set_files([path, three[0]])
    expect(panel.locator("li")).to_have_count(6)
    drop(page, "broken.mcap", path.read_bytes()[:-50])
    expect(panel.get_by_role("alert").first).to_contain_text("broken.mcap: broken.mcap is damaged at byte")
    drop(page, "notes.txt", b"no recording")
    expect(panel.get_by_role("alert").first).to_contain_text("notes.txt is not an MCAP file")
    expect(panel.locator("li")).to_have_count(6)
    assert len(list(folder.iterdir())) == 6


def test_two_recordings_are_compared(three: list[Path], open_page: Open) -> None:
    page = open_page()
    panel = opened(page)
    compare = panel.get_by_role("button", name="Compare recordings")
    expect(compare).to_have_attribute("aria-disabled", "true")
    compare.click(force=True)
    expect(panel.get_by_role("status").first).to_have_text("Select two recordings to compare.")
    boxes = panel.get_by_role("checkbox")
    for index in (0, 1, 2):
        boxes.nth(index).check()
    # With a third selection the first one ends.
    expect(boxes.nth(0)).not_to_be_checked()
    compare.click()
    two = page.get_by_role("dialog", name="Two recordings")
    expect(two.get_by_role("columnheader")).to_have_text(["What is a list?", "Is water wet?"])
    expect(two.get_by_role("row", name="Length")).to_have_text("Length1.3 s3.0 s")
    expect(two.get_by_role("status")).to_contain_text("The requests differ, first in prompt: ")
    two.get_by_role("button", name="Close").click()
    expect(two).to_be_hidden()
    expect(compare).to_be_focused()


def test_hostile_names_are_shown_as_plain_text(folder: Path, open_page: Open) -> None:
    """open_page fails if a script runs that the page's policy forbids."""
    members = tuple(Member(f"<img src=x onerror=alert({n})>", name=HOSTILE + str(n)) for n in range(3))
    path = write_golden(folder, prompt=HOSTILE, members=members)
    path.rename(folder / "<img src=x onerror='window.harm=1'> \u202egnp.mcap")
    write_golden(folder, prompt=HOSTILE)
    (folder / "<script>window.harm=1<").with_suffix(".mcap").write_bytes(b"x")
    page = open_page()
    panel = opened(page)
    expect(panel.locator("li")).to_have_count(3)
    expect(questions(panel).filter(has_text=HOSTILE)).to_have_count(2)
    for box in panel.get_by_role("checkbox").all():
        box.check()
    panel.get_by_role("button", name="Compare recordings").click()
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Close").click()
    panel.get_by_role("button", name="Delete").first.click()
    page.keyboard.press("Escape")
    assert page.evaluate(
        "() => window.harm === undefined && document.querySelectorAll('img, #recordings script').length === 0"
    )


def test_an_unreadable_file_shows_the_reason_and_can_be_deleted(folder: Path, open_page: Open) -> None:
    folder.mkdir()
    (folder / "broken.mcap").write_bytes(b"x")
    page = open_page()
    panel = opened(page)
    item = panel.locator("li")
    expect(item).to_contain_text("is not an MCAP file")
    expect(item.get_by_role("checkbox")).to_have_count(0)
    item.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(panel.get_by_role("status").first).to_have_text("No recordings yet: keep a session, or drop a file here.")
    expect(panel.get_by_role("searchbox")).to_be_focused()


def test_an_unusable_folder_is_reported(folder: Path, open_page: Open) -> None:
    folder.touch()
    panel = opened(open_page())
    expect(panel.get_by_role("alert").first).to_contain_text("The folder for recordings,")


def test_playing_without_a_replay_process_names_the_missing_process(three: list[Path], open_page: Open) -> None:
    panel = opened(open_page())
    questions(panel).first.click()
    expect(panel.get_by_role("alert").first).to_have_text(
        "No replay process runs: start one with python -m producers.replay."
    )


def test_keeping_a_session_records_it(redis: RedisServer, folder: Path, recorder: FrameWriter, open_page: Open) -> None:
    page = follows(recorder, open_page)
    keep = page.locator("#keep")
    expect(keep).to_have_text("Keep")
    keep.click()
    expect(page.locator("#error")).to_have_text("No recorder runs: start one with python -m consumers.recorder.")
    expect(keep).to_have_text("Keep")
    offer(redis, "recorder")
    keep.click()
    expect(keep).to_have_text("Keeping…")
    # The name that the recorder gives the file.
    opened_ms: Any = page.evaluate(_OPENED_MS, recorder.session)
    path = write_golden(folder, session=recorder.session)
    path.rename(folder / recording_name(recorder.session, "What is a list?", opened_ms))
    expect(keep).to_have_text("Kept")
    page.reload()
    expect(keep).to_have_text("Kept")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_the_library(three: list[Path], open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    panel = opened(page)
    panel.get_by_role("button", name="Star: What is a list?").click()
    for index in (0, 1):
        panel.get_by_role("checkbox").nth(index).check()
    found = Axe().run(page)
    assert found.response["violations"] == []
    panel.get_by_role("button", name="Compare recordings").click()
    expect(page.get_by_role("dialog")).to_contain_text("The requests differ")
    assert Axe().run(page).response["violations"] == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280, 1920])
def test_the_library_fits(three: list[Path], open_page: Open, width: int) -> None:
    page = open_page(width, 800)
    panel = opened(page)
    expect(panel.locator("li")).to_have_count(3)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "() => { const p = document.getElementById('recordings'); return p.scrollWidth <= p.clientWidth }"
    )
