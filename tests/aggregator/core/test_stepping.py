"""In step: what is released when, and which members are waited for. Stories, each computed by the oracle as well."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.frames import Frame
from schemas.grid import NS_PER_MS
from schemas.sessions import Limits
from tests.aggregator.core.test_alignment import TEXTS, cuts
from tests.aggregator.core.test_law import core_frames, unhurried
from tests.support.story import Story

WINDOW_MS = 1000 / 60


def texts_of(frames: list[Frame]) -> list[str]:
    return ["".join(frame.members[member].text for frame in frames) for member in range(len(frames[0].members))]


def at_ms(frames: list[Frame], ms: float) -> Frame:
    """The frame of the window that ends at or first after this time. The stories open on a grid point."""
    return next(frame for frame in frames if frame.end_ns >= ms * NS_PER_MS)


def paced(story: Story, paces: dict[int, tuple[int, str]], from_ms: int, to_ms: int) -> None:
    """Each member writes its word every so many milliseconds."""
    for ms in range(from_ms, to_ms):
        story.now_ms = ms
        for member, (every_ms, word) in paces.items():
            if ms % every_ms == 0:
                story.write(member, word)


def test_text_is_released_up_to_the_slowest_member() -> None:
    """Member 1 is five times as fast. Both show as much at every moment; its tokens ahead are buffered."""
    story = Story(2, sync="step")
    paced(story, {0: (100, "word "), 1: (20, "quick ")}, 1, 2_000)
    frames = story.frames()
    for frame in frames:
        slow, fast = frame.members
        assert slow.position_bytes == fast.position_bytes
        assert slow.buffered_tokens == 0
        assert frame.mode == "step"
    assert frames[-1].members[1].position_bytes == 5 * 19
    assert frames[-1].members[1].buffered_tokens == 99 - 5 * 19 // 6
    assert {frame.alignment.sync_lag_ms for frame in frames[20:]} == {0.0}
    assert frames[-1].alignment.arrival_skew_ms == pytest.approx(1_900 - 300, abs=21)


def test_a_token_is_in_the_frame_of_its_last_byte_and_its_text_may_be_released_before() -> None:
    """Member 1 writes 25 bytes at once: they are released with member 0's five words, the token with the fifth word."""
    story = Story(2, sync="step")
    story.now_ms = 20
    story.write(1, "five times five in a token")
    for ms in range(100, 700, 100):
        story.now_ms = ms
        story.write(0, "word ")
    frames = story.frames()
    assert at_ms(frames, 100).members[1].text == ""
    assert at_ms(frames, 116).members[1].text == "five "
    assert at_ms(frames, 216).members[1].text == "times"
    [with_last_byte] = [frame for frame in frames if any(token.member == 1 for token in frame.tokens)]
    assert with_last_byte is at_ms(frames, 616)
    assert texts_of(frames)[1] == "five times five in a token"


def test_text_is_released_in_whole_characters_of_any_length() -> None:
    """Member 0 has come to byte 4: one of three-byte characters is released, and one of four bytes."""
    story = Story(3, sync="step")
    story.now_ms = 20
    story.write(1, "日本語")
    story.write(2, "🙂🙂")
    for _ in range(4):
        story.write(0, "x")
    frames = story.frames(3)
    assert [member.text for member in at_ms(frames, 33).members] == ["xxxx", "日", "🙂"]
    assert [member.position_bytes for member in frames[-1].members] == [4, 3, 4]


def test_a_thinking_member_stops_no_other_and_its_thoughts_are_shown() -> None:
    """Member 1 thinks for 10 s: its thoughts are released as they come, and the two others step all the time."""
    story = Story(3, sync="step")
    for ms in range(1, 10_000, 500):
        story.now_ms = ms
        story.write(1, "hm ", lane="thinking")
        story.write(0, "word ")
        story.write(2, "word ")
    frames = story.frames()
    assert "".join(frame.members[1].thinking for frame in frames) == "hm " * 20
    assert max(len(frame.members[1].thinking) for frame in frames) == len("hm ")
    for frame in frames[1:]:
        assert frame.mode == "step"
        assert frame.members[1].state == "thinking"
        assert frame.members[0].buffered_tokens == frame.members[2].buffered_tokens == 0
    # Its answer is far behind: it is released as it comes, and no member waits for it.
    story.now_ms = 10_000
    story.write(1, "Well")
    story.write(0, "word ")
    story.write(2, "word ")
    last = story.frames()[-1]
    assert [member.state for member in last.members] == ["answering", "detached", "answering"]
    assert [member.text for member in last.members] == ["word ", "Well", "word "]


def test_a_stalled_member_is_waited_for_for_detach_ms_and_steps_again_when_it_has_caught_up() -> None:
    """Member 0 writes nothing from 1 s on for 7 s; member 1 is released again 1.5 s later.

    0       1.0      2.5                      8.0       10
    |  step  | waits  | free: 0 is detached    | behind, then level: step
    """
    story = Story(2, sync="step")
    paced(story, {0: (100, "word "), 1: (100, "word ")}, 1, 1_001)
    paced(story, {1: (100, "word ")}, 1_001, 8_000)
    frames = story.frames()
    assert at_ms(frames, 2_480).mode == "step"
    assert at_ms(frames, 2_480).members[1].position_bytes == 50
    assert at_ms(frames, 2_500).mode == "free"
    assert at_ms(frames, 2_500).members[0].state == "detached"
    for frame in frames:
        if frame.end_ns > 2_500 * NS_PER_MS:
            assert frame.members[1].buffered_tokens == 0
    story.now_ms = 8_000
    for _ in range(80):
        story.write(0, "word ")
        story.write(1, "word ") if story.now_ms == 8_000 else None
        story.now_ms += 1
    frames = story.frames()
    assert at_ms(frames, 8_040).members[0].state == "detached"
    assert frames[-1].mode == "step"
    assert frames[-1].members[0].state == "answering"


def test_a_member_that_ends_early_stops_no_other_and_is_finished_with_its_last_byte() -> None:
    """Member 1 has written all at once: its buffered text is released with member 0's."""
    story = Story(2, sync="step")
    story.now_ms = 20
    for word in ("one ", "two ", "three"):
        story.write(1, word)
    story.finish(1)
    for ms in range(100, 700, 100):
        story.now_ms = ms
        story.write(0, "abc")
    frames = story.frames()
    assert [at_ms(frames, ms).members[1].state for ms in (400, 500, 516)] == ["answering", "answering", "finished"]
    assert at_ms(frames, 416).mode == "step"
    assert at_ms(frames, 416).members[1].reason is None
    assert at_ms(frames, 516).mode == "single"
    assert texts_of(frames) == ["abcabcabcabcabcabc", "one two three"]


def test_the_final_frame_and_a_drop_release_all_text() -> None:
    """Member 1 is dropped with buffered text; member 2, which is written, keeps in step with member 0 to its end."""
    story = Story(3, sync="step")
    story.now_ms = 20
    story.write(0, "ab")
    story.write(1, "what waits")
    story.write(2, "what waits too")
    story.finish(2)
    story.now_ms = 60
    story.stop(1)
    story.now_ms = 120
    story.write(0, "cd")
    story.finish(0)
    frames = story.frames()
    dropped = at_ms(frames, 66)
    assert (dropped.members[1].state, dropped.members[1].text) == ("dropped", "at waits")
    assert dropped.members[2].position_bytes == 2
    assert frames[-1].final
    assert texts_of(frames) == ["abcd", "what waits", "what waits too"]
    assert [member.state for member in frames[-1].members] == ["finished", "dropped", "finished"]


def test_the_others_wait_for_a_first_text_for_a_limited_time() -> None:
    """Member 1 writes nothing: five seconds after its claim member 0 is released alone, and 1 may join it later."""
    story = Story(2, sync="step")
    paced(story, {0: (100, "word ")}, 1, 5_100)
    frames = story.frames()
    assert at_ms(frames, 4_980).members[0].position_bytes == 0
    assert at_ms(frames, 5_016).members[0].position_bytes == 250
    assert at_ms(frames, 5_016).mode == "free"


def test_a_member_without_a_claim_is_waited_for_for_a_second() -> None:
    story = Story(2, sync="step")
    del story.stream[-1]
    paced(story, {0: (100, "word ")}, 1, 1_200)
    frames = story.frames()
    assert at_ms(frames, 983).members[0].position_bytes == 0
    assert at_ms(frames, 1_000).members[0].position_bytes == 45


def test_a_member_that_comes_into_step_has_no_lag_for_text_released_before() -> None:
    """Member 1 begins a second late and is faster: where it reaches the front, member 0 was released a word earlier.

    0   word |word |...|word |word |
    1                  |quick| qui |       from here on both are let out together
    """
    story = Story(2, Limits(frontier_waits_ms=50), sync="step")
    for ms in range(1, 3_000):
        story.now_ms = ms
        if ms % 100 == 0:
            story.write(0, "word ")
        if ms > 1_000 and ms % 20 == 3:
            story.write(1, "quick")
    frames = story.frames()
    joined = next(frame for frame in frames if frame.mode == "step" and frame.alignment.frontier_bytes is not None)
    assert (joined.alignment.frontier_bytes, joined.alignment.sync_lag_ms) == (50, None)
    assert joined.measures.agreement is not None
    assert {frame.alignment.sync_lag_ms for frame in frames[joined.window_index + 1 :]} == {0.0}


def test_no_member_begins_before_the_others_models_are_loaded() -> None:
    """Member 1 loads for a second, member 0 does not pause, member 2 does:

    0   writes ...............|word word ...      its text is held back until member 1 begins
    1   loads ........|ready..|word word ...      awaited while it loads
    2   held .........|word.......                its model is asked when member 1 is ready
    """
    story = Story(3, sync="step", pausing=(2,))
    for ms in range(1, 1_000):
        story.now_ms = ms
        if ms % 300 == 1:
            story.load(1)
        if ms % 100 == 0:
            story.write(0, "word ")
    story.now_ms = 1_000
    story.be_ready(1)
    story.now_ms = 1_200
    story.write(1, "word word word ")
    story.write(2, "word word word ")
    frames = story.frames()
    loading = [frame for frame in frames if 20_000_000 < frame.start_ns < 980_000_000]
    assert {tuple(member.state for member in frame.members) for frame in loading} <= {
        ("waiting", "loading", "held"),
        ("answering", "loading", "held"),
    }
    assert all([member.awaited for member in frame.members] == [False, True, False] for frame in loading)
    assert all(frame.mode == "step" and not frame.members[0].position_bytes for frame in loading)
    ready = next(frame for frame in frames if frame.start_ns > 1_010_000_000)
    assert [member.state for member in ready.members] == ["answering", "waiting", "waiting"]
    assert not any(member.awaited for member in ready.members)
    assert [member.position_bytes for member in frames[-1].members] == [15, 15, 15]
    assert (frames[-1].alignment.compares, frames[-1].alignment.shared_prefix) == ("next", True)


@pytest.mark.parametrize(("sign", "gone_ns"), [("load", 1_700_000_000), ("wait_for_memory", 500_000_000)])
def test_a_model_is_awaited_from_its_last_sign_of_loading_or_its_first_of_waiting(sign: str, gone_ns: int) -> None:
    """Signs at 0, 0.3, 0.6, 0.9 and 1.2 s, and a limit of half a second; then the others go on without it."""
    story = Story(2, Limits(loading_waits_ms=500), sync="step", pausing=(0,))
    for ms in range(0, 1_201, 300):
        story.now_ms = ms
        getattr(story, sign)(1)
    frames = story.frames(120)
    begins = next(frame for frame in frames if frame.members[0].state == "waiting" and frame.window_index > 2)
    assert begins.start_ns <= gone_ns <= begins.end_ns
    assert [member.awaited for member in begins.members] == [False, False]


def test_a_token_without_text_ends_the_wait_for_a_slot() -> None:
    """Member 1 waits for a slot, and its first token is a line break: its first text is waited for from then on."""
    story = Story(2, Limits(loading_waits_ms=50), sync="step")
    story.now_ms = 10
    story.wait_for_memory(1)
    story.write(0, "word ")
    story.now_ms = 40
    story.write(1, "\n")
    story.now_ms = 400
    story.write(1, "word ")
    frames = story.frames()
    assert {frame.mode for frame in frames if frame.start_ns > 100_000_000} == {"step"}
    assert at_ms(frames, 380).members[0].position_bytes == 0
    assert [member.position_bytes for member in frames[-1].members] == [5, 5]


def test_a_member_that_ended_with_a_thought_is_answering_until_its_text_is_released() -> None:
    """Member 1 answers, thinks and ends; member 0, which it has to wait for, comes later."""
    story = Story(2, sync="step")
    story.write(1, "word ")
    story.write(1, "hm ", lane="thinking")
    story.finish(1)
    story.now_ms = 100
    story.write(0, "word ")
    frames = story.frames()
    assert at_ms(frames, 50).members[1].state == "answering"
    assert frames[-1].members[1].state == "finished"


def test_no_member_waits_for_one_that_queues_behind_it() -> None:
    """One slot for two members: the second waits until the first has answered."""
    story = Story(2, sync="step", pausing=(0, 1), queued=(1,))
    story.wait_for_memory(1)
    paced(story, {0: (100, "word ")}, 1, 500)
    frames = story.frames()
    assert frames[-1].members[0].position_bytes == 20
    assert frames[-1].mode == "free"
    assert not any(member.awaited for frame in frames for member in frame.members)


def test_a_member_that_is_held_back_for_others_is_not_dropped_for_its_first_token() -> None:
    """Its first-token time-out begins when its model may be asked."""
    story = Story(2, Limits(first_token_ms=300), sync="step", pausing=(0,))
    for ms in range(0, 1_000, 200):
        story.now_ms = ms
        story.load(1)
    story.now_ms = 1_000
    story.be_ready(1)
    story.write(1, "word")
    frames = story.frames(90)
    dropped = next(frame for frame in frames if frame.members[0].state == "dropped")
    assert 1_300_000_000 <= dropped.end_ns < 1_340_000_000
    assert dropped.members[0].reason == "no first token within 0.3 s (limits.first_token_ms)"


def test_of_several_stalled_members_the_least_detaches_first() -> None:
    """All three stall at different positions: the text of the foremost is released."""
    story = Story(3, sync="step")
    story.now_ms = 20
    for member, word in enumerate(("a", "bb", "ccc")):
        story.write(member, word)
    frames = story.frames(100)
    assert [member.position_bytes for member in frames[-1].members] == [1, 2, 3]
    assert [member.state for member in frames[-1].members] == ["detached", "detached", "answering"]


def test_a_backend_that_pauses_is_granted_a_little_past_the_front() -> None:
    """Member 1 pauses, and writes past its grant all the same: held, until member 0 has come up to it.

    Member 0 writes 60 bytes a second: a grant leads by 3 bytes once that second has passed.
    """
    story = Story(2, sync="step", pausing=(1,))
    for ms in range(10, 2_000, 100):
        story.now_ms = ms
        story.write(0, "sixsix")
        if ms < 1_500:
            story.write(1, "sixsix")
    story.write(1, "sixsix" * 6)
    frames = story.frames(200)
    assert at_ms(frames, 1_416).members[1].state == "answering"
    assert at_ms(frames, 1_933).members[1].state == "held"


def test_a_held_member_neither_stalls_nor_decays() -> None:
    """Member 1 is far past its grant for 10 s, then writes on with the same energy."""
    story = Story(2, sync="step", pausing=(1,))
    story.now_ms = 20
    story.write(1, "x" * 200)
    story.write(0, "y")
    for ms in range(500, 10_000, 100):
        story.now_ms = ms
        story.write(0, "yy")
    held = [frame for frame in story.frames() if frame.members[1].state == "held"]
    assert held[-1].end_ns > 9_900 * NS_PER_MS
    assert len({frame.members[1].energy for frame in held}) == 1
    assert held[-1].members[1].energy > 0.0


def test_held_members_stay_in_step_when_the_member_that_held_them_detaches() -> None:
    """Member 0 stalls; members 1 and 2 wait at their grants for just as long. It detaches, they stay in step.

    0  |ab|  (silent)                detached
    1  |abcdef|    held              then the least, and in step with 2
    2  |abcdefghi| held
    """
    story = Story(3, sync="step", pausing=(1, 2))
    story.now_ms = 20
    for member, word in enumerate(("ab", "abcdef", "abcdefghi")):
        story.write(member, word)
    frames = story.frames(110)
    detached = at_ms(frames, 1_533)
    assert [member.state for member in detached.members] == ["detached", "answering", "held"]
    assert detached.mode == "step"
    assert [member.position_bytes for member in detached.members] == [2, 6, 6]


@unhurried
@given(st.randoms(use_true_random=False))
def test_members_in_step_pass_each_byte_in_one_window(random: Random) -> None:
    """With any texts and tokenizers: while the stepping set stays the same, sync_lag_ms is 0, no member shows a byte
    that the slowest has not reached, and none is a character behind."""
    text = random.choice(TEXTS) * 3
    count = random.randint(2, 4)
    told = [cuts(random, text) for _ in range(count)]
    story = Story(count, sync="step")
    written = [0] * count
    while any(told):
        story.now_ms += random.choice((0, 3, 17, 40, 120, 300))
        member = random.choice([member for member in range(count) if told[member]])
        share, piece = told[member].pop(0)
        story.write(member, share, piece)
        written[member] += len(share.encode())
        if not told[member]:
            story.finish(member)
    for frame in core_frames(story.stream, 0):
        in_step = [member for member in frame.members if member.reason is None]
        if any(member.state == "detached" for member in frame.members):
            break
        assert frame.alignment.sync_lag_ms in (None, 0.0)
        ends = [member.position_bytes for member in in_step]
        if ends and frame.mode == "step":
            assert max(ends) - min(ends) <= 3
