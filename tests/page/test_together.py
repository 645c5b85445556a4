"""One answer that the members write together: its words and their shades, how each was decided, and the braid."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.page.conftest import Open
from tests.page.people import answer, ask, has_ended, hold_at, is_at_window, members, violations
from tests.support.consensus_frames import Said, write_together
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter

THREE = ("test:one", "test:two", "test:three")
SAID = (
    Said("The answer"),
    Said(" is", "certain", 0, 0.75, " w", 0.25, (1,), 0.5),
    Said(" forty", "estimate", 2, 0.4, "", 0.3, (0, 1), 0.9),
    Said("-two.", "unanimous"),
    Said(" Done.", "followed", 2),
)
_SPLITS = """async () => {
    const { Drives } = await import("/static/stage/drives.js");
    const { Drive } = await import("/static/stage/drive.js");
    const [drives, shown] = [new Drives(3), new Drive(3)];
    const apart = [];
    for (let window = 0; window < 200; window += 1) {
        const decision = { kind: "certain", share: 0.4, against: [1], by: 0, at: window, end: window + 1 };
        const state = "answering";
        drives.add({
            window_index: window, agreement: 0.5, wave: 0.5, resonance: false,
            members: [{ energy: 0.5, state }, { energy: 0.5, state }, { energy: 0.5, state: "thinking" }],
            decisions: window === 100 ? [decision] : [],
        });
        drives.between(window, 1, shown);
        apart.push([...shown.apart]);
    }
    return apart;
}"""


def followed(redis: RedisServer, open_page: Open) -> tuple[FrameWriter, Page]:
    """A session of three members that write together, and a page that shows its first window."""
    writer = FrameWriter(redis, models=THREE, sync="consensus")
    writer.announce()
    writer.write(1, members=members(*THREE), mode="consensus", agreed="", decisions=())
    page = open_page(has_touch=True)
    expect(page.locator("#window")).to_have_text("0")
    return writer, page


def test_words_are_shaded_and_show_who_would_have_said_what(redis: RedisServer, open_page: Open) -> None:
    writer, page = followed(redis, open_page)
    write_together(writer, SAID, quiet=4, final=True, states=["finished"] * 3)
    is_at_window(page, 25)
    together = page.locator("#together")
    words = together.locator(".token")
    expect(words).to_have_text(["The", "answer", "is", "forty-two.", "Done."])
    assert [word.get_attribute("class") for word in words.all()] == [
        "token", "token", "token s2", "token s4", "token alone",
    ]  # fmt: skip
    expect(together.locator("#contested")).to_have_text("2 partings; 30 % of the text was contested")
    expect(page.locator("#summary")).to_contain_text("2 partings; 30 % of the text was contested")
    card = page.locator("#evidence")
    words.nth(2).hover()
    expect(card.locator(".sentence")).to_have_text(
        "The drafts parted, and the council took that of 1 test:one. The draft of 2 test:two continued with “w…”. Each "
        "member whose draft differed was steered."
    )
    expect(card.locator(".pieces li")).to_have_text(["·is75.0 %, written", "·w…25.0 %"])
    expect(card).to_contain_text("Certain: longer lists could not change it.")
    expect(card.locator("tr", has_text="kind")).to_contain_text("certain")
    words.nth(2).tap()
    # Only the beginning of the other draft is known, which is no choice of a what-if; a text of one's own is.
    expect(card.get_by_role("button", name="What if")).to_have_count(0)
    with page.expect_request("**/what-if") as asked:
        card.get_by_label("What if it went on with…").fill("was")
        card.get_by_role("button", name="Try it").click()
    assert {**asked.value.post_data_json, "member": 0} == {"member": 0, "at": 10, "say": " was", "allow_remote": False}
    expect(card.get_by_role("alert")).to_be_visible()
    card.get_by_role("button", name="Close").click()
    words.nth(3).tap()
    expect(card.locator(".sentence")).to_have_text(
        "The drafts parted, and the council took that of 3 test:three. The drafts of 1 test:one and 2 test:two began "
        "otherwise; the likeliest of them continued with the end of the answer. Each member whose draft differed was "
        "steered."
    )
    expect(card).to_contain_text("An estimate: longer lists could change it.")
    assert violations(page) == []
    card.get_by_role("button", name="Close").click()
    together.locator(".text").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#pointed")).to_contain_text("is: The drafts parted, and the council took that of 1 test:one.")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(card.locator(".sentence")).to_have_text("One member alone wrote this.")
    page.keyboard.press("Escape")
    # Time: the answer and the number at an earlier window.
    hold_at(page, 9)
    assert together.locator(".text").inner_text() == "The answer is"
    expect(together.locator("#contested")).to_have_text("1 parting; 23 % of the text was contested")


def test_the_members_own_lanes_are_folded_and_mark_given_text(redis: RedisServer, open_page: Open) -> None:
    writer, page = followed(redis, open_page)
    expect(page.locator("#lanes")).to_be_hidden()
    write_together(writer, SAID, final=True, states=["finished"] * 3)
    is_at_window(page, 5)
    page.get_by_text("The members' own lanes").click()
    expect(answer(page, 1)).to_have_text("The answer is forty-two. Done.")
    for member, given in enumerate((["forty"], ["is forty"], [])):
        expect(answer(page, member).locator("ins.given")).to_have_text(given)
    assert violations(page) == []
    expect(page.locator("#mode")).to_have_text("consensus")
    expect(page.get_by_role("button", name="Compare answers")).to_be_hidden()


def test_a_strand_leaves_the_cord_at_a_decision_against_its_member_and_returns(open_page: Open) -> None:
    apart = open_page().evaluate(_SPLITS)
    one, other, outside = zip(*apart, strict=True)
    assert max(one[60:]) < 0.01
    assert max(other[60:100]) < 0.01
    assert max(other[100:130]) > 0.25
    assert max(other[160:]) < 0.01
    # A member that takes no part is not in the cord.
    assert min(outside) > 0.5


def test_a_council_that_was_asked_together_answers_once(council: Roles, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    page.locator("#sync").select_option("Write one answer together")
    page.get_by_label("Your prompt").focus()
    ask(page, "What is a list?")
    expect(page.locator("#together .token").nth(12)).to_be_visible(timeout=20_000)
    expect(page.locator("#contested")).to_have_text(re.compile(r"parting|have not parted"))
    page.get_by_role("button", name="Stop all").click()
    has_ended(page, 0, 2)
    text = page.locator("#together .text").text_content()
    page.reload()
    expect(page.locator("#together .text")).to_have_text(text or "")
    expect(page.locator("#together .token").nth(12)).to_be_visible()
