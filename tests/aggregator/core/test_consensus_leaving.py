"""Members of a consensus that finish, leave or return: sessions that the laws found, in their smallest form."""

from __future__ import annotations

from dataclasses import replace

from schemas.frames import encode_frame
from tests.oracle.toy_models import ToyModel
from tests.support.toy_councils import Timing, Toy, ToyRun, drawn_toy

WRITES_A = Toy(ToyModel(({"": {"a": 1.0}, "a": {"": 1.0}},)))


def test_members_that_thought_and_finished_vote() -> None:
    """They neither write nor step any more, and the answer is complete."""
    timing = Timing(detach_ms=34, waits_ms=1, events=[(0, 0, "thinks"), (0, 1, "thinks")])
    assert ToyRun([WRITES_A, WRITES_A], timing).to_the_end().agreed == "a"


def test_a_member_that_finished_its_draft_can_be_cancelled() -> None:
    timing = Timing([[(0, 2)], [], []], events=[(1, 0, "cancelled")])
    run = ToyRun([WRITES_A, WRITES_A], timing).to_the_end()
    assert [run.frames[window].members[0].state for window in (0, 1)] == ["answering", "dropped"]
    assert run.agreed == "a"


def test_a_member_whose_producer_fails_after_its_draft_is_dropped() -> None:
    run = ToyRun([WRITES_A, WRITES_A], Timing([[(0, 2)], [], []], events=[(1, 0, "fails")])).to_the_end()
    assert run.frames[1].members[0].reason == "the model failed"


def test_a_window_without_entries_is_the_same_after_a_load() -> None:
    """Member 1 has not begun, and is given the text that was agreed without it."""
    toys = [drawn_toy(0, 0, 0.2, "byte"), drawn_toy(0, 1, 0.2, "byte")]
    timing = Timing([[], [(0, 2)], []], detach_ms=34, waits_ms=1)
    run = ToyRun(toys, timing).to_the_end()
    again = ToyRun(toys, replace(timing, loaded=frozenset([0, 1]))).to_the_end()
    assert [encode_frame(frame) for frame in again.frames] == [encode_frame(frame) for frame in run.frames]


def test_a_member_that_leaves_at_its_limit_is_shown_so() -> None:
    """In a window without an entry of it."""
    toys = [drawn_toy(194, number, 0.2 if number else 0.0, "byte") for number in range(4)]
    toys[0] = replace(toys[0], most_tokens=9)
    run = ToyRun(toys, Timing(claimed_in=[0, 9], detach_ms=34, waits_ms=1), prefix="the cat").to_the_end()
    assert [member.state for member in run.frames[-1].members] == ["finished"] * 4
    assert run.frames[-1].members[0].reason == "length"
