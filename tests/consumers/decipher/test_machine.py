"""The session's state machine, in stories. Windows are sixtieths of a second; stall_ms is 400: 24 windows."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.decipher.machine import MachineState, Pulse, SessionMachine
from schemas.frames import Frame, MemberFrame, MemberState
from schemas.sessions import Phase
from tests.consumers.decipher.test_decipher import frame_of
from tests.golden import golden_names
from tests.golden.test_sessions import frames_of
from tests.golden.test_sessions import opening_of as golden_opening

STALL_MS = 400.0
STALL = 24
ARROWS: set[tuple[Phase, Phase]] = {
    ("IDLE", "CHARGING"), ("CHARGING", "FLOWING"), ("CHARGING", "IDLE"), ("FLOWING", "STALLING"),
    ("FLOWING", "SATURATED"), ("STALLING", "FLOWING"), ("SATURATED", "FLOWING"),
    ("FLOWING", "DRAINED"), ("STALLING", "DRAINED"), ("SATURATED", "DRAINED"),
    # A first frame that is also the last one.
    ("IDLE", "IDLE"), ("IDLE", "DRAINED"), ("CHARGING", "DRAINED"),
}  # fmt: skip


class Story:
    """Frames in a row for a machine of so many members. `phases` are the phases that it went through."""

    def __init__(self, members: int = 1) -> None:
        self.machine = SessionMachine(STALL_MS, MachineState([Pulse() for _ in range(members)]))
        self.states: list[MemberState] = ["answering"] * members
        self.waiting = [0] * members
        self.energy = 0.5
        self.phases: list[Phase] = ["IDLE"]
        self.window = 0

    def go(self, *tokens: int, final: bool = False) -> Phase:
        """The next window: how many tokens each member releases."""
        members = tuple(
            MemberFrame(f"m{i}", state, 0.5, 3.0, None, 1, waiting, "x" * any(tokens[i : i + 1]), "", None)
            for i, (state, waiting) in enumerate(zip(self.states, self.waiting, strict=True))
        )  # fmt: skip
        frame = frame_of(self.window, members, energy=self.energy, final=final)
        several = tuple(t for t in frame.tokens for _ in range(tokens[t.member]))
        phase = self.machine.step(msgspec.structs.replace(frame, tokens=several))
        self.window += 1
        if phase != self.phases[-1]:
            self.phases.append(phase)
        return phase

    def rest(self, windows: int) -> Phase:
        """Windows without a token."""
        phase = self.phases[-1]
        for _ in range(windows):
            phase = self.go()
        return phase

    def every(self, gap: int, times: int) -> Phase:
        """A token of every member each `gap` windows."""
        phase = self.phases[-1]
        for _ in range(times):
            self.rest(gap - 1)
            phase = self.go(*[1] * len(self.states))
        return phase


def test_a_prompt_charges_the_first_token_flows_and_the_end_drains() -> None:
    story = Story()
    assert story.rest(300) == "CHARGING"
    assert story.go(1) == "FLOWING"
    assert story.every(6, 20) == "FLOWING"
    assert story.go(final=True) == "DRAINED"
    assert story.phases == ["IDLE", "CHARGING", "FLOWING", "DRAINED"]


def test_a_session_that_ends_without_a_token_is_idle_again() -> None:
    story = Story()
    story.rest(100)
    assert story.go(final=True) == "IDLE"


def test_one_silence_longer_than_twice_the_stall_is_a_stall() -> None:
    story = Story()
    story.go()
    story.go(1)
    assert story.rest(2 * STALL) == "FLOWING"
    assert story.rest(1) == "STALLING"


def test_two_gaps_in_a_row_that_are_too_long_are_a_stall_and_one_is_not() -> None:
    story = Story()
    story.go()
    story.go(1)
    assert story.every(STALL + 1, 1) == "FLOWING"
    assert story.every(STALL, 1) == "FLOWING"
    assert story.every(STALL + 1, 1) == "FLOWING"
    assert story.every(STALL + 1, 1) == "STALLING"


def test_a_stall_ends_with_the_first_gap_that_is_short_enough() -> None:
    """... 60 windows of silence, a token: a long gap. Another token, 24 windows later: a short gap."""
    story = Story()
    story.go()
    story.go(1)
    assert story.rest(60) == "STALLING"
    assert story.go(1) == "STALLING"
    assert story.every(STALL, 1) == "FLOWING"


def test_two_tokens_in_one_window_end_a_stall() -> None:
    story = Story()
    story.go()
    story.go(1)
    story.rest(60)
    assert story.go(2) == "FLOWING"


def test_the_council_flows_as_long_as_one_running_member_does() -> None:
    story = Story(2)
    story.go()
    story.go(1, 1)
    for _ in range(20):
        story.rest(9)
        assert story.go(0, 1) == "FLOWING"
    # The one that flows has ended: now the silent one is all there is.
    story.states[1] = "finished"
    assert story.go() == "STALLING"


def test_a_member_that_has_not_begun_does_not_stall_the_council() -> None:
    story = Story(2)
    story.states[1] = "loading"
    story.go()
    story.go(1)
    assert story.every(10, 30) == "FLOWING"


def test_when_all_that_had_begun_have_ended_their_silence_counts() -> None:
    story = Story(2)
    story.states[1] = "loading"
    story.go()
    story.go(1)
    story.states[0] = "finished"
    assert story.rest(2 * STALL) == "FLOWING"
    assert story.rest(1) == "STALLING"


def test_time_in_which_a_member_is_held_does_not_count_as_silence() -> None:
    story = Story()
    story.go()
    story.go(1)
    story.states[0] = "held"
    assert story.rest(300) == "FLOWING"
    story.states[0] = "answering"
    assert story.rest(2 * STALL) == "FLOWING"
    assert story.rest(1) == "STALLING"


def test_buffered_tokens_have_arrived() -> None:
    """A fast member in step: its tokens are buffered, and it does not stall. When they are released they do not count
    again."""
    story = Story(2)
    story.go()
    story.go(1, 1)
    for _ in range(12):
        story.rest(9)
        story.waiting[0] += 1
        assert story.go() == "FLOWING"
    story.waiting[0] = 0
    assert story.go(12, 0) == "FLOWING"
    pulse = story.machine.state.pulses[0]
    assert pulse.silence_ns > 0


def test_an_energy_of_085_for_800_ms_saturates_until_it_is_below_07() -> None:
    story = Story()
    story.go()
    story.energy = 0.85
    story.every(2, 23)
    assert story.phases[-1] == "FLOWING"
    assert story.every(2, 1) == "SATURATED"
    story.energy = 0.7
    assert story.every(2, 40) == "SATURATED"
    story.energy = 0.699
    assert story.go() == "FLOWING"


def test_a_moment_below_085_starts_the_800_ms_again() -> None:
    story = Story()
    story.go()
    story.energy = 0.9
    story.every(1, 40)
    story.energy = 0.84
    story.go(1)
    story.energy = 0.9
    assert story.every(1, 47) == "FLOWING"
    assert story.go(1) == "SATURATED"


frames = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=2, max_size=2),
        st.lists(st.integers(0, 3), min_size=2, max_size=2),
        st.lists(st.sampled_from(["answering", "held", "loading", "finished", "dropped"]), min_size=2, max_size=2),
        st.sampled_from([0.0, 0.69, 0.7, 0.85, 1.0]),
        st.integers(1, 60),
    ),
    min_size=1,
    max_size=25,
)


@given(frames)
def test_only_the_drawn_transitions_happen_and_a_loaded_machine_continues_alike(
    told: list[tuple[list[int], list[int], list[MemberState], float, int]],
) -> None:
    story, before = Story(2), "IDLE"
    for number, (tokens, waiting, states, energy, times) in enumerate(told):
        story.waiting, story.states, story.energy = waiting, states, energy
        for time in range(times):
            raw = msgspec.msgpack.encode(story.machine.state)
            story.machine = SessionMachine(STALL_MS, msgspec.msgpack.decode(raw, type=MachineState))
            is_last = number == len(told) - 1 and time == times - 1
            phase = story.go(*tokens, final=is_last)
            assert phase == before or (before, phase) in ARROWS
            before = phase
    assert before in ("DRAINED", "IDLE")


@pytest.mark.parametrize("name", golden_names())
def test_sessions_of_real_models_are_charged_flow_and_are_drained(name: str) -> None:
    opening, told = golden_opening(name), frames_of(name)
    machine = SessionMachine(opening.profile.stall_ms, MachineState([Pulse() for _ in opening.members]))
    phases: list[Phase] = [machine.step(frame) for frame in told]
    assert phases[0] == "CHARGING"
    assert phases[-1] == "DRAINED"
    assert "FLOWING" in phases
    assert not any(a != b and (a, b) not in ARROWS for a, b in pairwise(phases))
    assert isinstance(told[0], Frame)
