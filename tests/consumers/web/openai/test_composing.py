"""The one text that a client sees, from scripted frames."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from consumers.web.openai.composing import ChoiceText
from schemas.frames import ConsensusFrame, Frame, MemberFrame
from tests.support.frames import made_frame

CALM, CRITIC = "calm", "critic"


def member(
    name: str, text: str = "", state: str = "answering", reason: str | None = None, **values: Any
) -> MemberFrame:
    shown = MemberFrame(name, state, 0.5, 1.0, None, 0, 0, text, values.pop("thinking", ""), reason)  # type: ignore[arg-type]
    return msgspec.structs.replace(shown, **values)


def frame(*members: MemberFrame, **values: Any) -> Frame:
    return made_frame(0, members, **values)


def test_one_member_is_its_text_and_its_thinking_as_they_come() -> None:
    text = ChoiceText([CALM], is_agreed=False, stops=[])
    shown = [
        text.add(frame(member(CALM, thinking="Hm. "))),
        text.add(frame(member(CALM, " The"))),
        text.add(frame(member(CALM, " end", "finished", "stop"), final=True)),
    ]
    assert [(one.content, one.thinking) for one in shown] == [("", "Hm. "), (" The", ""), (" end", "")]
    assert text.has_ended
    assert text.finish_reason == "stop"
    # Positions count from the first byte that is not white space.
    assert text.shown_bytes == len("The end")


def test_several_answers_follow_each_other_under_the_names_of_their_members() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=False, stops=[])
    first = text.add(frame(member(CALM, " A"), member(CRITIC, "\nB")))
    second = text.add(frame(member(CALM, " list."), member(CRITIC, " set")))
    third = text.add(frame(member(CALM, "", "finished", "stop"), member(CRITIC, ".")))
    last = text.add(frame(member(CALM, "", "finished", "stop"), member(CRITIC, "!", "finished", "length"), final=True))
    assert first.content == "**calm**\n\nA"
    assert second.content == " list."
    assert third.content == "\n\n**critic**\n\nB set."
    assert last.content == "!"
    assert (text.has_ended, text.finish_reason) == (True, "length")


def test_white_space_alone_puts_no_name_before_a_text_that_may_not_come() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=False, stops=[])
    assert text.add(frame(member(CALM, "\n"), member(CRITIC))).content == ""
    assert text.add(frame(member(CALM, "A"), member(CRITIC))).content == "**calm**\n\nA"


def test_white_space_between_thinking_and_answer_is_not_shown_below_a_name() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=False, stops=[])
    shown = [
        text.add(frame(member(CALM, thinking="Hm."), member(CRITIC))),
        text.add(frame(member(CALM, "\n\n"), member(CRITIC))),
        text.add(frame(member(CALM, "\nA"), member(CRITIC))),
        text.add(frame(member(CALM, "\n"), member(CRITIC))),
    ]
    assert [one.content for one in shown] == ["**calm**\n\n", "", "A", "\n"]


def test_a_dropped_member_among_others_is_followed_by_its_reason() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=False, stops=[])
    dropped = member(CALM, "", "dropped", "Its server is away.")
    shown = text.add(frame(dropped, member(CRITIC, "B.", "finished", "stop"), final=True))
    assert shown.content == "**calm**\n\n(Its server is away.)\n\n**critic**\n\nB."
    assert (text.finish_reason, text.failure) == ("length", "")


def test_where_every_member_was_dropped_before_it_wrote_there_is_a_failure() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=False, stops=[])
    text.add(frame(member(CALM, "", "dropped", "Away."), member(CRITIC, "", "dropped", "No memory."), final=True))
    assert text.failure == "Every member dropped: calm: Away.; critic: No memory."


def test_a_member_that_was_dropped_behind_some_text_keeps_that_text() -> None:
    text = ChoiceText([CALM], is_agreed=False, stops=[])
    shown = text.add(frame(member(CALM, "Half an", "dropped", "Away."), final=True))
    assert (shown.content, text.finish_reason, text.failure) == ("Half an", "length", "")


def test_each_answer_ends_at_its_own_stop_text() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=False, stops=["."])
    shown = text.add(frame(member(CALM, "A. And"), member(CRITIC, "B")))
    assert shown.content == "**calm**\n\nA\n\n**critic**\n\nB"
    assert (text.stopped, text.has_ended) == ({0}, False)
    # The session stops the member: that is not a failure of it.
    shown = text.add(frame(member(CALM, " more", "dropped", "stopped"), member(CRITIC, "b. ")))
    assert shown.content == "b"
    assert (text.stopped, text.has_ended, text.finish_reason) == ({0, 1}, True, "stop")


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length")])
def test_a_council_that_agrees_has_one_text(reason: str, finish: str) -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=True, stops=[])
    members = member(CALM, "The sky", thinking="Hm."), member(CRITIC, "The sky")
    shown = text.add(frame(*members, consensus=ConsensusFrame("The sky", ())))
    assert (shown.content, shown.thinking) == ("The sky", "")
    ends = member(CALM, "", "finished", reason), member(CRITIC, "", "dropped", "Away.")
    text.add(frame(*ends, consensus=ConsensusFrame("", ()), final=True))
    assert (text.has_ended, text.finish_reason, text.failure) == (True, finish, "")


def test_a_stop_text_in_the_agreed_text_stops_all_members() -> None:
    text = ChoiceText([CALM, CRITIC], is_agreed=True, stops=["sky"])
    shown = text.add(frame(member(CALM), member(CRITIC), consensus=ConsensusFrame("The sky is", ())))
    assert (shown.content, text.stopped, text.shown_bytes) == ("The ", {0, 1}, 4)
