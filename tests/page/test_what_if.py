"""What if: a branch from an alternative or from a typed text, the tree of branches, and the effect of a change."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.page.conftest import Open
from tests.page.people import answer, ask, has_ended, violations
from tests.support.scripted_sessions import ScriptedProducer

_LISTED = {" 42": -0.2, " 41": -1.8, "": -5.0}


def written(speaker: ScriptedProducer, *tokens: str) -> None:
    """The model writes these tokens, with alternatives for 42, and finishes."""
    speaker.take_newest()
    for token in tokens:
        speaker.say(token, top=_LISTED if token == " 42" else None)
    speaker.finish()


def tree_of(page: Page) -> list[list[str | None]]:
    """Of each item of the tree: its level, whether it is shown, and its first line."""
    return [
        [
            item.get_attribute("aria-level"), item.get_attribute("aria-selected"),
            item.locator("> span").first.text_content(),
        ]
        for item in page.get_by_role("treeitem").all()
    ]  # fmt: skip


def test_branches_by_pointer_and_by_keyboard(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "How long does it take?")
    written(speaker, "It", " takes", " 42", " days", " in all.")
    has_ended(page, 1, 1)
    parent = page.url
    answer(page).locator(".token", has_text="42").click()
    card = page.locator("#evidence")
    # The written piece and the end of the answer are no choices.
    expect(card.get_by_role("button", name="What if")).to_have_text(["·41"])
    # The card stays while the pointer goes to it.
    answer(page).locator(".token").first.hover()
    expect(card.locator("h2")).to_have_text("·42")
    speaker.offer()
    card.get_by_role("button", name="What if: 41").click()
    expect(answer(page).locator("mark.changed")).to_have_text("41")
    assert page.url != parent
    written(speaker, " days", " in all.")
    has_ended(page, 1, 1)
    assert answer(page).inner_text() == "It takes 41 days in all."
    expect(answer(page).locator(".given")).to_have_text("It takes 41")
    expect(answer(page).locator("mark.changed")).to_have_text("41")
    effect = "The change reaches 1 word; after that both are the same."
    expect(page.locator("#effect")).to_have_text(effect)
    assert tree_of(page) == [["1", "false", "The first answer"], ["2", "true", "It takes 41 in place of “42”"]]
    assert violations(page) == []
    # Back to the first answer, and from there another branch, by keyboard alone.
    page.get_by_role("treeitem", selected=True).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("It takes 42 days in all.")
    assert page.url == parent
    expect(page.get_by_role("treeitem").last).to_contain_text("changes 1 word")
    expect(page.get_by_role("treeitem", selected=True)).to_be_focused()
    answer(page).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(card.get_by_role("button", name="What if: 41")).to_be_focused()
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(answer(page)).to_be_focused()
    expect(card).to_be_hidden()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    # The space of the token that it replaces stands before it.
    page.keyboard.type("forty")
    speaker.offer()
    page.keyboard.press("Enter")
    expect(answer(page).locator("mark.changed")).to_have_text("forty")
    written(speaker, " years.")
    has_ended(page, 1, 1)
    expect(page.locator("#effect")).to_have_text(
        "They do not come together again; the last words differ: “days in all”, “takes forty years”."
    )
    siblings = [["2", "false", "It takes 41 in place of “42”"], ["2", "true", "It takes forty in place of “42”"]]
    assert tree_of(page) == [["1", "false", "The first answer"], *siblings]
    # Asked again, the branch is opened again.
    second = page.url
    speaker.offer()
    with page.expect_request("**/what-if") as asked:
        page.get_by_role("button", name="Ask again").click()
    expect(answer(page)).to_have_text("It takes forty")
    again = asked.value.post_data_json
    assert (again["sync"], [member["model"] for member in again["models"]]) == ("step", ["test:speaker"])
    assert page.url not in (parent, second)
    expect(page.get_by_role("treeitem")).to_have_count(4)


def test_a_refused_branch_shows_the_servers_sentence_in_the_card(speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page()
    ask(page, "How long?")
    written(speaker, "A", " 42")
    has_ended(page, 1, 1)
    answer(page).locator(".token").first.click()
    card = page.locator("#evidence")
    card.get_by_label("What if it went on with…").fill("   ")
    card.get_by_role("button", name="Try it").click()
    expect(card.get_by_role("alert")).to_contain_text("The text has only white space")
    expect(answer(page)).to_have_text("A 42")
    page.get_by_role("heading", level=1).click()
    expect(card).to_be_hidden()


def test_a_branch_that_is_not_listed_is_in_the_tree_and_failed_requests_are_no_end(
    speaker: ScriptedProducer, open_page: Open
) -> None:
    page = open_page()
    # The tree is read again after half a second instead of four.
    page.evaluate("""() => {
        const set = window.setTimeout;
        window.setTimeout = (call, ms, ...more) => set(call, ms === 4000 ? 500 : ms, ...more);
    }""")
    ask(page, "How long?")
    written(speaker, "A", " 42")
    has_ended(page, 1, 1)
    first = page.url.rpartition("#")[2]
    page.route(f"**/api/sessions/{first}", lambda route: route.fulfill(json=route.fetch().json() | {"branches": []}))
    page.route("**/tokens?*", lambda route: route.abort())
    answer(page).focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_label("What if it went on with…")).to_be_focused()
    page.unroute("**/tokens?*")
    page.keyboard.type("forty")
    speaker.offer()
    page.keyboard.press("Enter")
    expect(answer(page).locator("mark.changed")).to_have_text("forty")
    too_many = {"error": {"code": "too_many", "message": "Too many requests: wait a second."}}
    page.route("**/effect", lambda route: route.fulfill(status=429, json=too_many), times=2)
    written(speaker, " years.")
    has_ended(page, 1, 1)
    expect(page.locator("#effect")).to_contain_text("the last words differ: “A 42”, “A forty years”.")
    assert tree_of(page) == [["1", "false", "The first answer"], ["2", "true", "A forty in place of “42”"]]
