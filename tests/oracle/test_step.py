"""The slow reference in step, compared with timelines that were worked out by hand.

Timelines are in ms from the opening, which lies on a grid point: window 0 ends at 16.7, window 1 at 33.3, window 2 at
50 to the nanosecond. `|` ends a window.
"""

from __future__ import annotations

import pytest

from schemas.entries import AnyEntry, Cancel, Claim, Finished, Loading, Token, Waiting, encode_entry
from schemas.frames import Frame
from schemas.grid import NS_PER_MS, window_start_ns
from schemas.sessions import ENTRY_VERSION, EnergyProfile, Limits, Member, Opening
from tests.oracle.frames import energy_at, oracle_frames
from tests.oracle.members import Accepted, Stream
from tests.oracle.step import Step, held_between, steps_of

OPENED_MS = 1_000
CLAIM, CLAIM_PAUSING, FINISH, CANCEL = "<claim>", "<claim, pauses>", "<finish>", "<cancel>"
WAITING, LOADING = "<waiting>", "<loading>"
# One token makes an energy of 1, which halves with each 50 ms past the first 50 ms of silence.
PROFILE = EnergyProfile(tps_max=1.0, stall_ms=50.0, smoothing=1.0, ceil_ms=100.0, half_life_ms=50.0)


def stream_of(
    members: int, *entries: tuple[int, int, str], limits: Limits | None = None, claims: str = CLAIM
) -> Stream:
    """The stream of entries given as (ms, member, text of a token or one of the marks above), in order; text in round
    brackets is thinking. Members claim at the opening unless `claims` is empty."""
    council = tuple(Member(f"model-{number}") for number in range(members))
    opening = Opening(ENTRY_VERSION, "s1", "Why?", council, profile=PROFILE, limits=limits or Limits())
    stream = [(f"{OPENED_MS}-0", encode_entry(opening))]
    claim_of, seqs = [""] * members, [0] * members
    for ms, member, text in [*((0, member, claims) for member in range(members) if claims), *entries]:
        entry_id, now_ns = f"{OPENED_MS + ms}-{len(stream)}", (OPENED_MS + ms) * NS_PER_MS
        entry: AnyEntry
        if text in (CLAIM, CLAIM_PAUSING):
            entry, claim_of[member] = Claim(member, now_ns, text == CLAIM_PAUSING), entry_id
        elif text == FINISH:
            entry = Finished(member, claim_of[member], now_ns, seqs[member])
        elif text == WAITING:
            entry = Waiting(member, claim_of[member], now_ns)
        elif text == LOADING:
            entry = Loading(member, claim_of[member], now_ns)
        elif text == CANCEL:
            entry = Cancel((member,))
        else:
            lane = "thinking" if text.startswith("(") else "answer"
            entry = Token(member, claim_of[member], seqs[member], lane, text, now_ns, now_ns)
            seqs[member] += 1
        stream.append((entry_id, encode_entry(entry)))
    return stream


def steps(stream: Stream, windows: int = 0) -> list[Step]:
    return list(steps_of(stream, windows))


def texts(frame: Frame) -> list[str]:
    return [member.text for member in frame.members]


def shown(frame: Frame) -> list[tuple[int, int]]:
    """(member, seq) of its tokens."""
    return [(token.member, token.seq) for token in frame.tokens]


def test_members_in_step_are_released_up_to_the_least_of_them() -> None:
    """0   The sky is |      |     |
    1      The        |  sky |  is |      the front: 3 | 7 | 10
    """
    stream = stream_of(2, (0, 0, "The sky is"), (0, 1, "The"), (17, 1, " sky"), (34, 1, " is"))
    assert [step.front for step in steps(stream)] == [3, 7, 10]
    frames = oracle_frames(stream, 0)
    assert [texts(frame) for frame in frames] == [["The", "The"], [" sky", " sky"], [" is", " is"]]
    assert [shown(frame) for frame in frames] == [[(1, 0)], [(1, 1)], [(0, 0), (1, 2)]]
    assert [frame.members[0].buffered_tokens for frame in frames] == [1, 1, 0]
    assert [frame.mode for frame in frames] == ["step"] * 3
    # The token 0..10 covers each frontier; the other member's tokens start at 0, 3 and 7.
    assert [frame.alignment.frontier_bytes for frame in frames] == [0, 3, 7]
    assert [frame.alignment.arrival_skew_ms for frame in frames] == [0.0, 17.0, 34.0]
    assert [frame.alignment.sync_lag_ms for frame in frames] == [0.0, 0.0, 0.0]


LATE = Limits(claim_waits_ms=50, frontier_waits_ms=100, loading_waits_ms=150)


@pytest.mark.parametrize(
    ("other", "first"),
    [
        ([], 2),
        ([(0, 1, CLAIM)], 5),
        ([(17, 1, CLAIM)], 7),
        ([(0, 1, CLAIM), (34, 1, " ")], 5),
        ([(0, 1, CLAIM), (17, 1, WAITING)], 10),
        ([(0, 1, CLAIM), (17, 1, WAITING), (50, 1, WAITING)], 10),
        ([(0, 1, CLAIM), (17, 1, LOADING), (50, 1, LOADING)], 11),
        ([(0, 1, CLAIM), (17, 1, "(hm")], 1),
        ([(17, 1, CANCEL)], 1),
    ],
    ids=[
        "claim",
        "text",
        "text since its claim",
        "bytes",
        "its first sign of waiting",
        "its first sign of waiting and not the next",
        "its last sign of loading",
        "not for thinking",
        "not for a dropped member",
    ],
)
def test_the_others_wait_for_a_first_text_until_the_time_out_of_what_is_missing(
    other: list[tuple[int, int, str]], first: int
) -> None:
    """0   claim  ab | | | | | | |      50 ms for a claim, 100 ms for text, 150 ms for a model: windows 2, 5, 10 and 11
    1      (claim)   | | | | | | |
    """
    stream = stream_of(2, (0, 0, CLAIM), (0, 0, "ab"), *other, limits=LATE, claims="")
    frames = oracle_frames(stream, first + 1)
    assert [texts(frame)[0] for frame in frames] == [""] * first + ["ab"]
    assert [frame.mode for frame in frames[:-1]] == ["step"] * first
    assert [frame.alignment.frontier_bytes for frame in frames] == [None] * first + [0]


def test_the_frontier_begins_where_all_stepping_members_have_text() -> None:
    """0   日 |    |        nothing of it is released at 1
    1      a  | bc |
    """
    frames = oracle_frames(stream_of(2, (0, 0, "日"), (0, 1, "a"), (17, 1, "bc")), 0)
    assert [(frame.mode, frame.alignment.frontier_bytes) for frame in frames] == [("step", None), ("step", 1)]


def test_with_fewer_than_two_in_step_the_frontier_waits_for_the_members_that_are_expected() -> None:
    """0   ab (hm) | | |      its text is released, but it does not step
    1              | | |      nothing, until 50 ms are over
    """
    frames = oracle_frames(stream_of(2, (0, 0, "ab"), (1, 0, "(hm"), limits=Limits(frontier_waits_ms=50)), 3)
    assert [frame.mode for frame in frames] == ["free"] * 3
    assert [frame.alignment.frontier_bytes for frame in frames] == [None, None, 0]
    assert texts(frames[0]) == ["ab", ""]


def test_a_thinking_member_holds_no_other_back_and_steps_again_once_it_has_come_as_far() -> None:
    """0   (hm) | (so) |   x | 1234 | 5 | (hm)  |
    1      a b  |  c   |     |      |   |  d e  |        front: 3 | 5 | 5 | 5 | 5 | 9
    """
    entries = ((0, 0, "(hm"), (0, 1, "a b"), (17, 0, "(so"), (17, 1, " c"), (34, 0, "x"), (51, 0, "1234"), (67, 0, "5"))
    stream = stream_of(2, *entries, (84, 0, "(hm"), (84, 1, " d e"))
    found, frames = steps(stream), oracle_frames(stream, 0)
    assert [step.front for step in found] == [3, 5, 5, 5, 5, 9]
    assert [sorted(step.stepping) for step in found] == [[1], [1], [1], [0, 1], [0, 1], [1]]
    assert [texts(frame) for frame in frames] == [
        ["", "a b"],
        ["", " c"],
        ["x", ""],
        ["1234", ""],
        ["", ""],
        ["5", " d e"],
    ]
    assert [frame.members[0].state for frame in frames] == [
        "thinking", "thinking", "detached", "answering", "answering", "thinking",
    ]  # fmt: skip
    assert [frame.mode for frame in frames] == ["free", "free", "free", "step", "step", "free"]


@pytest.mark.parametrize(("detach_ms", "first"), [(49, 2), (50, 2), (51, 3)])
def test_the_least_member_is_waited_for_as_long_as_detach_ms_and_no_window_more(detach_ms: int, first: int) -> None:
    """0   ab   | | |      1 goes on alone
    1      abcd | | |
    """
    stream = stream_of(2, (0, 0, "ab"), (0, 1, "abcd"), limits=Limits(detach_ms=detach_ms))
    frames = oracle_frames(stream, first + 1)
    assert [frame.members[0].state for frame in frames] == ["answering"] * first + ["detached"]
    assert [frame.members[1].position_bytes for frame in frames] == [2] * first + [4]
    assert [frame.mode for frame in frames] == ["step"] * first + ["free"]


def test_a_stalled_member_that_holds_no_text_back_stays_in_step() -> None:
    """Both stall at 2; then with a third, which has no text yet and is the least."""
    equals = steps(stream_of(2, (0, 0, "ab"), (0, 1, "ab"), limits=Limits(detach_ms=1)), 5)
    assert all(step.stepping == {0, 1} for step in equals)
    third = steps(stream_of(3, (0, 0, "ab"), (0, 1, "abcd"), limits=Limits(detach_ms=1)), 5)
    assert all(step.stepping == {0, 1, 2} for step in third)


def test_several_leave_in_one_window_and_step_again_when_they_reach_the_front() -> None:
    """0   a      | | | 1  bc | d |
    1      ab     | | |       |   |      both leave with window 2
    2      abcd   | | |       |   |      front: 1 | 1 | 4 | 4 | 4
    """
    entries = ((0, 0, "a"), (0, 1, "ab"), (0, 2, "abcd"), (51, 0, "bc"), (67, 0, "d"))
    stream = stream_of(3, *entries, limits=Limits(detach_ms=50))
    found, frames = steps(stream), oracle_frames(stream, 0)
    assert [step.front for step in found] == [1, 1, 4, 4, 4]
    assert [sorted(step.stepping) for step in found] == [[0, 1, 2], [0, 1, 2], [2], [2], [0, 2]]
    assert [step.released for step in found] == [(1, 1, 1), (1, 1, 1), (1, 2, 4), (3, 2, 4), (4, 2, 4)]
    assert [step.mode for step in found] == ["step", "step", "free", "free", "step"]
    # Byte 1 is compared among three, byte 3 among the two in step: released of 2 in window 2, of 0 in window 4.
    assert [frame.alignment.frontier_bytes for frame in frames] == [0, 0, 0, 1, 3]
    # They did not step together then, so this is not a lag.
    assert frames[4].alignment.sync_lag_ms is None


def test_a_member_that_answers_again_without_a_byte_does_not_step() -> None:
    """0   abcd (hm) | | | | ""       it holds more than the front, but its end has not moved for 67 ms
    1      ab        | | | | c
    """
    stream = stream_of(2, (0, 0, "abcd"), (1, 0, "(hm"), (2, 1, "ab"), (67, 0, ""), (67, 1, "c"),
                  limits=Limits(detach_ms=50))  # fmt: skip
    last = steps(stream)[-1]
    assert (last.front, last.stepping, last.states) == (3, {1}, ("detached", "answering"))


@pytest.mark.parametrize("last", ["efg", CANCEL])
def test_a_member_that_finished_early_is_shown_as_finished_with_its_last_byte(last: str) -> None:
    """0   abcdef | finish |    |
    1      ab     |        | cd | efg (or it is cancelled: then no member holds text back)
    """
    stream = stream_of(
        2, (0, 0, "abcdef"), (0, 1, "ab"), (17, 0, FINISH), (34, 1, "cd"), (51, 1, last), (52, 0, CANCEL)
    )
    frames = oracle_frames(stream, 0)
    assert [texts(frame)[0] for frame in frames] == ["ab", "", "cd", "ef"]
    assert [(frame.members[0].state, frame.members[0].reason) for frame in frames] == [
        ("answering", None), ("answering", None), ("answering", None), ("finished", "stop"),
    ]  # fmt: skip
    assert [shown(frame) for frame in frames] == [
        [(1, 0)],
        [],
        [(1, 1)],
        [(0, 0), *([(1, 2)] if last == "efg" else [])],
    ]
    assert [frame.mode for frame in frames] == ["step"] * 3 + (["single"] if last == "efg" else ["step"])
    assert [frame.final for frame in frames] == [False] * 3 + [last == CANCEL]


def test_text_is_released_in_whole_characters() -> None:
    """0   日本 |    |        three bytes each: the front at 4 lies within the second
    1      abcd | ef |
    """
    stream = stream_of(2, (0, 0, "日本"), (0, 1, "abcd"), (17, 1, "ef"))
    assert [(step.front, step.limits, step.released) for step in steps(stream)] == [
        (4, (4, 4), (3, 4)), (6, (6, 6), (6, 6)),
    ]  # fmt: skip
    frames = oracle_frames(stream, 0)
    assert [texts(frame) for frame in frames] == [["日", "abcd"], ["本", "ef"]]
    assert [shown(frame) for frame in frames] == [[(1, 0)], [(0, 0), (1, 1)]]


def test_tokens_without_bytes_keep_their_order_behind_buffered_text() -> None:
    """0   " " " ab" "" |   | b |      the first has no bytes, and nothing before it
    1                   | a |   |
    """
    stream = stream_of(2, (0, 0, " "), (1, 0, " ab"), (2, 0, ""), (17, 1, "a"), (34, 1, "b"))
    frames = oracle_frames(stream, 0)
    assert [texts(frame)[0] for frame in frames] == [" ", " a", "b"]
    assert [shown(frame) for frame in frames] == [[(0, 0)], [(1, 0)], [(0, 1), (0, 2), (1, 1)]]
    assert [frame.members[0].buffered_tokens for frame in frames] == [2, 2, 0]
    assert [(token.start, token.end) for token in frames[2].tokens] == [(0, 2), (2, 2), (1, 2)]


def test_all_text_of_a_dropped_member_is_released() -> None:
    """0   abcd | cancel |
    1      a    |        |
    """
    frames = oracle_frames(stream_of(2, (0, 0, "abcd"), (0, 1, "a"), (17, 0, CANCEL)), 0)
    assert [texts(frame) for frame in frames] == [["a", "a"], ["bcd", ""]]
    assert [shown(frame) for frame in frames] == [[(1, 0)], [(0, 0)]]
    assert (frames[1].members[0].state, frames[1].mode, frames[1].final) == ("dropped", "single", False)


def test_a_grant_is_the_front_and_a_twentieth_of_the_slowest_members_last_second() -> None:
    """0, pausing    | 60 bytes |     |      |        held from window 1 on
    1                | 40 bytes | y   | z    | zz     at 17 ms, 1,000 ms, 1,017 ms, 1,034 ms

    grant:      0 + 1    40 + 2  41 + 2 (43)   44 + 1         the bytes of window 1 count up to window 60
    """
    entries = ((0, 0, CLAIM_PAUSING), (0, 1, CLAIM), (17, 0, "x" * 60), (17, 1, "y" * 40))
    found = steps(stream_of(2, *entries, (1_000, 1, "y"), (1_017, 1, "z"), (1_034, 1, "zz"), claims=""))
    assert [found[index].grants for index in (0, 1, 59, 60, 61, 62)] == [
        (1, -1), (42, -1), (42, -1), (43, -1), (43, -1), (45, -1),
    ]  # fmt: skip
    assert [found[index].states for index in (0, 1, 62)] == [("waiting",) * 2, *[("held", "answering")] * 2]


@pytest.mark.parametrize(("again", "grant"), [([], 47), ([(1_100, 0, CLAIM_PAUSING)], 46), ([(1_100, 0, CLAIM)], -1)])
def test_a_grant_falls_for_a_new_claim_only(again: list[tuple[int, int, str]], grant: int) -> None:
    """45 bytes in window 0 make a lead of 2; a second later it is 1."""
    entries = ((0, 0, CLAIM_PAUSING), (0, 1, CLAIM), (0, 1, "y" * 45), *again)
    found = steps(stream_of(2, *entries, limits=Limits(frontier_waits_ms=1), claims=""), 70)
    assert (found[0].front, found[0].grants[0], found[-1].grants[0]) == (45, 47, grant)


def test_a_held_member_steps_again() -> None:
    """0, pausing   abcd (hm) | | | | "" |     |       held out of step: no other member moves the front
    1                    (hm) | | | |    |     |
    """
    entries = ((0, 0, CLAIM_PAUSING), (0, 1, CLAIM), (0, 0, "abcd"), (1, 0, "(hm"), (2, 1, "(hm"), (67, 0, ""))
    found = steps(stream_of(2, *entries, limits=Limits(detach_ms=50), claims=""), 6)[3:]
    assert [step.states[0] for step in found] == ["thinking", "held", "answering"]
    assert [(step.front, step.grants[0]) for step in found] == [(0, 1), (0, 1), (4, 5)]


def test_held_time_counts_for_no_decay() -> None:
    """0, pausing   abcdef |  ...   |         held from 16.7 to 100 ms: by then 1 has been waited for long enough
    1               a      |  ...   | bcdefgh   and holds text past 0, whose silence began at 83.3 ms: the last time
                                                that it was shown as held
    """
    entries = ((0, 0, CLAIM_PAUSING), (0, 1, CLAIM), (0, 0, "abcdef"), (0, 1, "a"), (101, 1, "bcdefgh"))
    stream = stream_of(2, *entries, limits=Limits(detach_ms=100), claims="")
    found, frames = steps(stream, 11), oracle_frames(stream, 11)
    assert [step.states[0] for step in found] == ["held"] * 5 + ["answering"] * 5 + ["detached"]
    assert [step.states[1] for step in found] == ["answering"] * 5 + ["detached"] + ["answering"] * 5
    assert found[-1].held == (((OPENED_MS * NS_PER_MS + window_start_ns(1), 1_100_000_000),), ())
    # It was silent for 16.7 ms before it was held, and for 83.3 ms after: 50 ms past the first 50.
    assert [frames[index].members[0].energy for index in (0, 5, 6)] == [1.0, 1.0, 1.0]
    assert frames[10].members[0].energy == pytest.approx(0.5, abs=1e-6)


def test_held_time_counts_for_no_friction() -> None:
    """Two tokens 150 ms apart, held for 100 ms of it: dt is 50 ms, no stall."""
    first, second = (
        Accepted(Token(0, "", seq, "answer", "a", ns, ns), seq, ns, 0, seq, seq + 1)
        for seq, ns in enumerate((0, 150 * NS_PER_MS))
    )
    spans = [(20 * NS_PER_MS, 120 * NS_PER_MS), (150 * NS_PER_MS, 160 * NS_PER_MS)]
    assert held_between(spans, 0, 150 * NS_PER_MS) == 100 * NS_PER_MS
    assert held_between(spans, 110 * NS_PER_MS, 155 * NS_PER_MS) == 15 * NS_PER_MS
    assert energy_at(150 * NS_PER_MS, [first, second], spans, PROFILE) == pytest.approx(1.0, abs=1e-12)
    assert energy_at(150 * NS_PER_MS, [first, second], [], PROFILE) == pytest.approx(0.7, abs=1e-12)
