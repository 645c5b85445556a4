"""The evidence card for tokens and windows, and the health strip."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Open
from tests.page.people import answer, ask, cancel, follows, in_state, is_at_window, members
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer
from tests.support.web_server import WORD

_ANY_CURRENT = re.compile(r"^token (s\d )?current$")
_DIGITS = re.compile(r"^\d+$")
_RUNS = re.compile(r"answering|held|detached|waiting")
_TOKENS = """async ([member, from, to]) => {
    const session = location.hash.slice(1);
    return (await fetch(`/api/sessions/${session}/tokens?member=${member}&from=${from}&to=${to}`)).json();
}"""


def answered(page: Page) -> Page:
    """The page after a session."""
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 120)
    cancel(page)
    return page


def token_at(page: Page, member: int, start: int) -> Any:
    """The token that begins at a byte, from the API."""
    (token,) = page.evaluate(_TOKENS, [member, start, start])["tokens"]
    return token


def shows_token(page: Page, token: Any) -> None:
    """The card shows the token's numbers, and its alternatives by descending probability."""
    card = page.locator("#evidence")
    expect(card.locator("h2")).to_have_text(token["text"].replace(" ", "·").replace("\n", "↵"))
    expect(card.locator(".pieces li").first).to_be_visible()
    rows = {row.locator("th").inner_text().split()[0]: row.locator("td").first.inner_text() for row in rows_of(card)}
    assert float(rows["Log"]) == token["logprob"]
    assert float(rows["Surprisal"]) == pytest.approx(-token["logprob"] / math.log(2), abs=0.0006)
    assert rows["Quality"] == token["quality"]
    shares = card.locator(".pieces li").all_inner_texts()
    likeliest = max(token["top"], key=lambda piece: piece["logprob"])
    assert f"\n{100 * math.exp(likeliest['logprob']):.1f} %" in shares[0]
    expect(card.locator(".written .piece")).to_have_text(token["text"].replace(" ", "·").replace("\n", "↵"))


def rows_of(card: Locator) -> list[Locator]:
    return card.locator("tr").all()


def test_hover_tap_and_keys_show_the_same_token(council: Roles, open_page: Open) -> None:
    page = answered(open_page(has_touch=True))
    spans = answer(page, 1).locator(".token")
    start = int(spans.nth(4).get_attribute("data-start") or "")
    token = token_at(page, 1, start)
    spans.nth(4).hover()
    shows_token(page, token)
    page.mouse.move(2, 2)
    expect(page.locator("#evidence")).to_be_hidden()
    spans.nth(4).tap()
    shows_token(page, token)
    page.locator("h1").tap()
    expect(page.locator("#evidence")).to_be_hidden()
    answer(page, 1).focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(spans.nth(4)).to_have_class(_ANY_CURRENT)
    shows_token(page, token)
    # It is also in the live region for screen readers.
    expect(page.locator("#pointed")).to_contain_text("bits")
    page.keyboard.press("ArrowLeft")
    shows_token(page, token_at(page, 1, int(spans.nth(3).get_attribute("data-start") or "")))
    page.keyboard.press("Escape")
    expect(page.locator("#evidence")).to_be_hidden()


def test_every_token_is_shaded_by_its_surprisal(council: Roles, open_page: Open) -> None:
    """Also in a page that is loaded later and fetches the tokens."""
    page = answered(open_page())
    page.reload()
    cancel(page)
    spans = answer(page).locator(".token")
    tokens = page.evaluate(_TOKENS, [0, 0, 10_000])["tokens"]
    expect(spans).to_have_count(len(tokens))
    levels = [0.5, 1, 2, 4, 7]
    for shown, token in zip(spans.all(), tokens, strict=True):
        assert (shown.text_content(), shown.get_attribute("data-start")) == (token["text"], str(token["start"]))
        level = sum(-token["logprob"] / math.log(2) >= bits for bits in levels)
        assert shown.get_attribute("class") == (f"token s{level}" if level else "token")


def test_the_card_of_a_token_without_probabilities_says_not_measured(
    speaker: ScriptedProducer, open_page: Open
) -> None:
    page = open_page()
    ask(page, "Hello")
    speaker.take_newest()
    speaker.say("plain")
    token = answer(page).locator(".token")
    expect(token).to_have_class("token")
    token.hover()
    card = page.locator("#evidence")
    expect(card).to_contain_text("The model server sent no alternatives")
    expect(card.locator("tr").first).to_contain_text("not measured")
    expect(card).to_contain_text("missing")


@pytest.mark.parametrize("track", ["braid", "energy-plot", "diversity-plot", "disagreement-plot", "lag-plot"])
def test_pointing_at_a_picture_shows_the_numbers_of_that_window(pair: FrameWriter, open_page: Open, track: str) -> None:
    """Ten seconds in which each window has another energy: the card shows that of the window under the pointer."""
    page = follows(pair, open_page)
    both = members(*pair.models)
    measured: dict[str, Any] = {"agreement": 0.25, "jsd": 0.5, "di_source": "logprobs", "di_low": 0.125}
    for window in range(1, 601):
        energy = window / 1_000
        shown = (in_state(both[0], energy=energy), in_state(both[1], energy=0.875))
        pair.write(1, members=shown, energy=energy, sync_lag_ms=float(window), **measured)
    is_at_window(page, 600)
    canvas = page.locator(f"#{track}")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card = page.locator("#evidence")
    expect(card.locator("h2")).to_contain_text("window")
    window = int(card.locator("h2").inner_text().split("window ")[1].split(",")[0])
    assert 1 < window < 600
    rows = {row.locator("code").inner_text(): row.locator("td").all_inner_texts() for row in rows_of(card)}
    expected = {
        "braid": {"energy": [str(window / 1_000), "0…1"], "agreement": ["0.25", "0…1"]},
        "energy-plot": {"members[0].energy": [str(window / 1_000), "0…1"], "members[1].energy": ["0.875", "0…1"]},
        "diversity-plot": {"di_low": ["0.125", "0…1"], "di_covered": ["not measured", ""]},
        "disagreement-plot": {"jsd": ["0.5", "0…1"]},
        "lag-plot": {"sync_lag_ms": [str(window), "ms"], "mode": ["single", ""]},
    }
    for name, values in expected[track].items():
        assert rows[name] == values


def test_the_health_strip_shows_dropped_members_and_buffered_tokens(pair: FrameWriter, open_page: Open) -> None:
    page = follows(pair, open_page)
    one, other = members(*pair.models)
    gone = in_state(other, state="dropped", reason="the model server refused: out of memory", energy=0.0)
    pair.write(30, members=(in_state(one, buffered_tokens=7), gone))
    health = page.locator("#health")
    expect(health.locator(".dropped dd")).to_have_text("test:other: the model server refused: out of memory")
    expect(health.locator(".waiting dd")).to_have_text("7")
    expect(health.locator(".link dd")).to_have_text("open")
    pair.write(1, members=(one, gone), final=True)
    expect(health.locator(".drawn dd")).to_have_text("idle")


def test_the_health_strip_counts_drawn_and_received_frames(council: Roles, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    is_at_window(page, 90)
    health = page.locator("#health")
    per_second = "([id]) => parseInt(document.querySelector(`#health .${id} dd`).textContent) > 20"
    for name in ("drawn", "received"):
        page.wait_for_function(per_second, arg=[name])
    expect(health.locator(".late dd")).to_have_text(_DIGITS)


def test_one_member_is_stopped_and_the_other_continues(slow_council: Roles, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    ask(page, "What is a list?")
    page.get_by_role("button", name=f"Stop {WORD}").click()
    expect(page.locator("article .state").first).to_have_text("stopped")
    expect(page.locator("article .state").nth(1)).to_have_text(_RUNS)
    expect(page.get_by_role("button", name=f"Stop {WORD}")).to_be_hidden()
    expect(page.get_by_role("button", name="Stop all")).to_be_visible()


def test_one_answer_is_copied(redis: RedisServer, speaker: ScriptedProducer, open_page: Open) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "Hello")
    speaker.take_newest()
    speaker.say(" \n one ")
    speaker.say("answer\n")
    speaker.finish()
    expect(answer(page)).to_contain_text("one answer")
    page.get_by_role("button", name="Copy the answer of test:speaker").click()
    expect(page.locator("article").get_by_text("Copied")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == "one answer"


def test_a_chosen_tier_reports_the_members_that_it_leaves_out(
    council: Roles, speaker: ScriptedProducer, open_page: Open
) -> None:
    page = open_page()
    expect(page.get_by_role("checkbox")).to_have_count(3)
    page.get_by_label("Tier").select_option("low")
    ask(page, "What is a list?")
    expect(page.get_by_role("alert")).to_contain_text("low")
    expect(page.locator("article")).to_have_count(2)
    cancel(page)
