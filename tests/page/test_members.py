"""Members on the page: check boxes for the members of the settings, and awaited members."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgspec
from playwright.sync_api import expect

from schemas import keys
from schemas.entries import Cancel, decode_entry
from schemas.models import ModelFacts
from schemas.sessions import MemberSpec, Opening
from tests.page.conftest import Open
from tests.page.people import ask, in_state, members
from tests.support.redis_servers import RedisServer
from tests.support.scripted_sessions import FrameWriter, ScriptedProducer, offer_role
from tests.support.waiting import wait_until
from transport.redis.connection import Pipe
from transport.register import ProcessRegistration

OWN = (
    MemberSpec("test:speaker", "calm", temperature=0.0, seed=7),
    MemberSpec("test:speaker", "critic", temperature=0.9, system="Doubt it."),
)


def council_with(redis: RedisServer, own: tuple[MemberSpec, ...]) -> None:
    """Writes the process record of a council with these members."""
    registration = ProcessRegistration(
        "council", tier="mid", models="test:speaker", private=False, members=msgspec.json.encode(own).decode()
    )
    offer_role(redis, registration)


def entries_of(redis: RedisServer, session: str) -> list[Any]:
    entries: Any = redis.run("XRANGE", keys.tokens(session), "-", "+")
    return [decode_entry(entry[1][1]) for entry in entries]


def sessions_of(redis: RedisServer) -> list[str]:
    """All sessions, the newest last."""
    entries: Any = redis.run("XRANGE", keys.SESSIONS, "-", "+")
    return [entry[1][1].decode() for entry in entries]


def newest_opening(redis: RedisServer) -> Opening:
    (opening, *_) = entries_of(redis, sessions_of(redis)[-1])
    assert isinstance(opening, Opening)
    return opening


def test_members_of_the_settings_are_check_boxes_with_their_options(
    redis: RedisServer, speaker: ScriptedProducer, open_page: Open
) -> None:
    """They are checked; their model itself can be checked, too. Ask again opens a session with the same members."""
    council_with(redis, OWN)
    page = open_page()
    expect(page.locator(".chip")).to_have_text(["calm", "critic", "test:speaker"])
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
    titles = [chip.get_attribute("title") for chip in page.locator(".chip").all()]
    assert titles == [
        "test:speaker, temperature 0, seed 7", "test:speaker, temperature 0.9, system text: Doubt it.", "",
    ]  # fmt: skip
    ask(page, "Hello")
    expect(page.locator("article h3")).to_have_text(["1 calm", "2 critic"])
    first = newest_opening(redis)
    assert first.names == ("calm", "critic")
    assert [first.system_of(0), first.system_of(1)] == ["", "Doubt it."]
    page.get_by_role("button", name="Ask again").click()
    wait_until(lambda: len(sessions_of(redis)) == 2, "the session is opened again")
    again = newest_opening(redis)
    assert again.session != first.session
    assert [msgspec.structs.replace(member, sampling=None) for member in again.members] == [
        msgspec.structs.replace(member, sampling=None) for member in first.members
    ]
    assert [again.sampling_of(index) for index in (0, 1)] == [first.sampling_of(index) for index in (0, 1)]


def test_an_awaited_member_is_named_and_can_be_left_out(redis: RedisServer, pair: FrameWriter, open_page: Open) -> None:
    one, other = members(*pair.models)
    held, loading = in_state(one, state="held"), in_state(other, state="loading", awaited=True)
    pair.write(1, members=(held, loading))
    page = open_page()
    awaited = page.locator("#awaited")
    expect(page.locator("article")).to_have_count(2)
    expect(awaited).to_be_hidden()
    pair.write(150, members=(held, loading))
    expect(awaited).to_contain_text(
        "Waiting for test:other (loading): the others start together with it.", timeout=20_000
    )
    expect(awaited.locator(".value")).to_have_text("2 s")
    expect(page.locator("article .state").nth(1)).to_have_text("loading: the others wait")
    page.get_by_role("button", name="Continue without test:other").click()
    wait_until(
        lambda: [entry for entry in entries_of(redis, pair.session) if isinstance(entry, Cancel)],
        "the member is cancelled",
    )
    (cancel,) = [entry for entry in entries_of(redis, pair.session) if isinstance(entry, Cancel)]
    assert cancel.members == (1,)
    pair.write(20, members=(in_state(one, state="answering"), in_state(other, state="dropped", reason="cancelled")))
    expect(awaited).to_be_hidden()


def test_waiting_and_loading_members_are_named_together(pair: FrameWriter, open_page: Open) -> None:
    one, other = members(*pair.models)
    waiting, loading = in_state(one, state="waiting", awaited=True), in_state(other, state="loading", awaited=True)
    pair.write(60, members=(waiting, loading))
    page = open_page()
    expect(page.locator("#awaited")).to_contain_text(
        "Waiting for test:one (waiting for a slot or memory) and test:other (loading)."
    )
    # All running members are awaited, so no other member can continue.
    expect(page.get_by_role("button", name=re.compile("Continue without"))).to_have_count(0)


def test_an_end_that_needs_attention_is_shown_with_its_reason(pair: FrameWriter, open_page: Open) -> None:
    one, other = members(*pair.models)
    used_up = "thinking used all max_tokens (512): raise --max-tokens"
    pair.write(
        5, members=(in_state(one, state="finished", reason=used_up), in_state(other, state="finished", reason="stop"))
    )
    page = open_page()
    expect(page.locator("article .state")).to_have_text([f"finished: {used_up}", "finished"])
    expect(page.locator("article").first).to_have_class(re.compile(r"\balarm\b"))
    expect(page.locator("article").nth(1)).not_to_have_class(re.compile(r"\balarm\b"))


def test_the_last_failure_of_each_server_is_shown_below_the_models(redis: RedisServer, open_page: Open) -> None:
    """The newest one of a server, with the address, the status and the first line of the answer."""
    words = "at http://gpu:8000 answered HTTP 500"
    with contextlib.closing(Pipe(redis.url)) as pipe:
        for model, failed_ms, reason in (("a", 1_000, f"a {words}: older"), ("b", 2_000, f"b {words}: <b>boom</b>")):
            facts = ModelFacts(model, "http://gpu:8000").as_detail()
            registration = ProcessRegistration("producer", **facts, failure=reason, failed_ms=failed_ms)
            # A browser may need longer to start than a record lives.
            pipe.run([*registration.renew(), ("EXPIRE", keys.process(registration.name), 60)])
    page = open_page()
    expect(page.locator(".failure")).to_have_count(1)
    expect(page.locator(".failure")).to_contain_text(f": b {words}: <b>boom</b>")
