"""One answer written together: what is agreed, who is steered, and who has a vote. Each story is computed twice, once
with a core that is loaded again from its checkpoint after each window."""

from __future__ import annotations

import pytest

from aggregator.core.consensus import LEAD_BYTES, LEFT_BEHIND
from schemas.control import Steer
from schemas.entries import Alive, Beat, Cancel
from schemas.sessions import Limits, Sampling
from tests.support.drafts import Drafts

SECOND = 60


def begun(weights: tuple[float, ...] = (1.0, 1.0), **options: object) -> Drafts:
    drafts = Drafts(weights, **options)  # type: ignore[arg-type]
    drafts.claim(*range(len(weights)))
    drafts.close()
    return drafts


def test_equal_drafts_are_agreed_without_a_decision() -> None:
    drafts = begun()
    drafts.write(0, "The", " sky", " is")
    drafts.write(1, "The sky", " i", "s blue")
    frame = drafts.close().frame
    assert (frame.consensus.agreed, frame.mode) == ("The sky is", "consensus")
    assert [(d.at, d.end, d.kind, d.by) for d in frame.consensus.decisions or ()] == [(0, 10, "unanimous", None)]
    assert [member.position_bytes for member in frame.members] == [10, 10]
    assert [member.buffered_tokens for member in frame.members] == [0, 1]
    assert [(token.member, token.start, token.end) for token in frame.tokens] == [
        (0, 0, 3), (0, 3, 7), (0, 7, 10), (1, 0, 7), (1, 7, 9),
    ]  # fmt: skip


def test_a_parting_is_decided_the_leaders_word_is_taken_and_the_other_is_steered() -> None:
    drafts = begun()
    drafts.write(0, "The", " sky", p=0.9)
    drafts.write(1, "The", " sun", " shines", p=0.7)
    drafts.close()
    # The leader's word is not complete: only what both wrote is released.
    assert drafts.agreed == "The s"
    drafts.write(0, " is")
    closed = drafts.close()
    assert drafts.agreed == "The sky"
    assert drafts.texts == ["The sky", "The sky"]
    (decision,) = drafts.partings
    assert (decision.at, decision.end, decision.by, decision.against) == (5, 7, 0, (1,))
    # Half of 0.9. What the two lists left out, 0.1 and 0.3, may all belong to " su": so it is an estimate.
    assert (decision.kind, decision.share, decision.runner_up) == ("estimate", 0.45, "u")
    assert decision.runner_up_share == pytest.approx(0.35)
    assert drafts.steer(1) == Steer(3, 7, " sky")
    assert [(mark.member, mark.branch, mark.start, mark.text) for mark in closed.steered] == [(1, 1, 3, " sky")]
    assert closed.frame.counts.superseded == 2
    assert closed.frame.alignment.frontier_bytes == 5
    assert closed.frame.alignment.compares == "next"
    assert decision.jsd == closed.frame.measures.jsd


def test_tokens_of_an_earlier_branch_are_counted_and_do_not_count() -> None:
    drafts = begun()
    drafts.write(0, "a ", "b", " c", p=0.9)
    drafts.write(1, "a ", "x", " y", p=0.6)
    drafts.close()
    drafts.write(1, " late", branch=0)
    drafts.write(1, " c")
    drafts.close()
    assert drafts.agreed == "a b c"
    assert drafts.superseded == 3
    assert drafts.shown + drafts.superseded == 8


@pytest.mark.parametrize("is_end", [True, False])
def test_the_end_is_a_branch_like_any_other(is_end: bool) -> None:
    drafts = begun()
    drafts.write(0, "Yes")
    drafts.write(1, "Yes", ", it", " is")
    drafts.finish(0, p=0.9 if is_end else 0.3)
    drafts.close()
    frame = drafts.frames[-1]
    (decision,) = drafts.partings
    assert frame.final == is_end
    if is_end:
        assert (decision.at, decision.end, decision.by, decision.runner_up) == (3, 3, 0, ",")
        assert [member.reason for member in frame.members] == ["stop", "stop"]
        assert drafts.texts == ["Yes", "Yes"]
        assert drafts.superseded == 2
    else:
        assert (decision.end, decision.by, decision.runner_up) == (4, 1, "")
        assert drafts.steer(0) == Steer(3, 4, ",")
        drafts.write(0, " it is")
        drafts.close()
        assert drafts.agreed == "Yes, it is"


def test_all_at_their_end_is_the_end() -> None:
    drafts = begun()
    for member in range(2):
        drafts.write(member, "Yes.")
        drafts.finish(member)
    assert drafts.close().frame.final
    assert (drafts.agreed, drafts.partings) == ("Yes.", [])


def test_a_slow_member_loses_its_vote_and_is_steered_when_it_writes_again() -> None:
    drafts = begun((1.0, 1.0, 1.0))
    for member in range(3):
        drafts.write(member, "one")
    drafts.close()
    for _ in range(2 * SECOND):
        drafts.write(0, " more")
        drafts.write(1, " more")
        drafts.close()
    # Member 2 stopped at byte 3; it was waited for, and then detached.
    assert drafts.frames[-1].members[2].state == "detached"
    assert drafts.frames[-1].members[2].position_bytes == 3
    agreed = drafts.agreed
    assert agreed.startswith("one more more")
    drafts.write(2, " less")
    drafts.write(0, " and", " so")
    drafts.write(1, " and", " so")
    drafts.close()
    assert drafts.steer(2) == Steer(3, len(drafts.agreed), drafts.agreed[3:])
    assert drafts.texts[2] == drafts.agreed
    # Now it has a vote: the others do not go on without it.
    agreed = drafts.agreed
    drafts.write(0, " then")
    drafts.write(1, " then")
    drafts.close()
    assert drafts.agreed == agreed
    drafts.write(2, " so", " then")
    drafts.close()
    assert drafts.agreed == agreed + " so then"[: len(drafts.agreed) - len(agreed)]
    assert len(drafts.agreed) > len(agreed)


def test_a_late_member_is_given_the_whole_text_at_the_end_of_a_word() -> None:
    drafts = Drafts((1.0, 1.0, 1.0), Limits(claim_waits_ms=200))
    drafts.claim(0, 1)
    drafts.windows(20)
    for member in (0, 1):
        drafts.write(member, "Once", " upon", " a", " ti")
    drafts.close()
    assert drafts.agreed == "Once upon a ti"
    drafts.claim(2)
    drafts.close()
    assert drafts.progress(2).branch == 0
    for member in (0, 1):
        drafts.write(member, "me", " there")
    drafts.close()
    assert drafts.steer(2) == Steer(0, 16, "Once upon a time")
    # It has no vote before its first text: the others go on, and it is steered again then.
    for member in (0, 1):
        drafts.write(member, " was")
    drafts.close()
    assert drafts.agreed == "Once upon a time there was"
    drafts.write(2, " there", " is")
    drafts.close()
    for member in (0, 1):
        drafts.write(member, " a", " king")
    drafts.close()
    assert drafts.progress(2).branch == 2
    assert drafts.texts[2] == drafts.agreed
    drafts.write(2, " queen")
    drafts.write(0, " of")
    drafts.write(1, " of")
    drafts.close()
    assert drafts.partings


def test_the_last_members_text_is_agreed_as_it_comes() -> None:
    drafts = begun()
    drafts.write(0, "The", " sk")
    drafts.write(1, "The", " sk")
    drafts.fail(1)
    drafts.close()
    drafts.write(0, "y i")
    frame = drafts.close().frame
    assert (drafts.agreed, frame.mode) == ("The sky i", "single")
    assert [(d.kind, d.by) for d in frame.consensus.decisions or ()] == [("followed", 0)]
    drafts.finish(0)
    assert drafts.close().frame.final


def test_a_leader_that_is_dropped_leaves_the_word_that_it_wrote() -> None:
    drafts = begun((1.0, 1.0, 1.0))
    drafts.write(0, "a", " be", p=0.95)
    drafts.write(1, "a", " c", " d")
    drafts.write(2, "a", " c", " d", p=0.2)
    drafts.close()
    drafts.add(Cancel((0,)))
    drafts.close()
    assert drafts.agreed == "a be"
    assert [drafts.steer(member) for member in (1, 2)] == [Steer(1, 4, " be")] * 2
    assert drafts.frames[-1].members[0].state == "dropped"


def test_the_word_of_a_dropped_leader_is_waited_for_by_those_that_began_it() -> None:
    drafts = begun((1.0, 1.0, 1.0))
    drafts.write(0, "a", " be", p=0.95)
    drafts.write(1, "a", " b", p=0.9)
    drafts.write(2, "a", " c", " d", p=0.5)
    drafts.close()
    drafts.add(Cancel((0,)))
    drafts.windows(3)
    assert drafts.agreed == "a "
    drafts.write(1, "e", " ", "it")
    drafts.close()
    assert (drafts.agreed, drafts.progress(1).branch, drafts.steer(2)) == ("a be", 0, Steer(1, 4, " be"))


def test_cancelling_the_session_ends_it_with_what_was_agreed() -> None:
    drafts = begun()
    drafts.write(0, "a b")
    drafts.write(1, "a c")
    drafts.close()
    assert drafts.agreed == "a "
    # Their decision waits for the leader's word, which is never complete.
    drafts.add(Cancel())
    assert drafts.close().frame.final
    assert (drafts.agreed, drafts.texts) == ("a ", ["a ", "a "])
    assert drafts.shown + drafts.superseded == 2


def test_a_thinking_member_has_no_vote() -> None:
    drafts = begun()
    drafts.write(1, "hm", lane="thinking")
    drafts.write(0, "yes", " it", " is")
    drafts.close()
    assert drafts.agreed == "yes it"
    drafts.write(1, "no")
    drafts.close()
    assert drafts.steer(1) == Steer(0, 6, "yes it")
    assert "".join(frame.members[1].thinking for frame in drafts.frames) == "hm"


def test_max_tokens_bounds_the_agreed_text_by_its_bytes() -> None:
    drafts = begun(sampling=Sampling(max_tokens=2, temperature=0.0))
    for member in range(2):
        drafts.write(member, "123456é89")
    assert drafts.close().frame.final
    assert drafts.agreed == "123456é"
    assert [member.reason for member in drafts.frames[-1].members] == ["length", "length"]


def test_a_member_at_its_own_limit_has_no_vote_for_the_end() -> None:
    drafts = begun()
    for member in range(2):
        drafts.write(member, "one two")
    drafts.finish(0, "length")
    drafts.write(1, " three", " four")
    drafts.close()
    drafts.finish(1)
    assert drafts.close().frame.final
    assert (drafts.agreed, drafts.partings) == ("one two three four", [])
    assert [member.reason for member in drafts.frames[-1].members] == ["length", "stop"]


def test_members_that_were_waited_for_in_vain_are_named_at_the_end() -> None:
    drafts = Drafts((1.0, 1.0, 1.0), Limits(claim_waits_ms=200))
    drafts.claim(0, 1)
    drafts.windows(20)
    for member in (0, 1):
        drafts.write(member, "yes")
        drafts.finish(member)
    frame = drafts.close().frame
    assert frame.final
    assert (frame.members[2].state, frame.members[2].reason) == ("dropped", LEFT_BEHIND)


def test_weights_decide_and_a_member_of_weight_0_changes_nothing() -> None:
    for weights, text in (((1.0, 3.0), "b"), ((3.0, 1.0), "a"), ((1.0, 0.0), "a"), ((0.0, 1.0), "b")):
        drafts = begun(weights)
        drafts.write(0, "a", " .", p=0.4, others=[("b", 0.3)])
        drafts.write(1, "b", " .", p=0.6, others=[("a", 0.35)])
        drafts.close()
        assert drafts.agreed == text, weights


def test_with_weights_by_certainty_the_surer_member_counts_more() -> None:
    def said(weighting: str) -> str:
        drafts = begun(weighting=weighting)
        drafts.write(0, "a", " .", p=0.6, others=[("b", 0.3)])
        drafts.write(1, "b", " .", p=0.2, others=[("c", 0.001)])
        drafts.close()
        return drafts.agreed

    # Member 0 has two likely pieces, member 1 one among unknown ones.
    assert (said("fixed"), said("certainty")) == ("a", "b")


def test_above_temperature_0_the_winner_is_drawn_by_seed_and_place() -> None:
    def said(seed: int) -> str:
        drafts = begun(sampling=Sampling(temperature=1.0, seed=seed))
        drafts.write(0, "a", " .", p=0.9)
        drafts.write(1, "b", " .", p=0.3)
        drafts.close()
        return drafts.agreed

    found = [said(seed) for seed in range(200)]
    assert found == [said(seed) for seed in range(200)]
    # Member 1 has a quarter of what both give.
    assert 30 <= found.count("b") <= 70


def test_positions_count_from_the_prefix() -> None:
    for sync in ("consensus", "step", "free"):
        drafts = begun(sync=sync, prefix="The sky")
        assert drafts.texts == ["The sky", "The sky"]
        assert [member.position_bytes for member in drafts.frames[0].members] == [7, 7]
        for member in range(2):
            drafts.write(member, " is", " blue")
        frame = drafts.close().frame
        assert drafts.texts == ["The sky is blue"] * 2
        assert [(token.start, token.end) for token in frame.tokens] == [(7, 10), (10, 15)] * 2
        assert frame.alignment.frontier_bytes == 10
        assert frame.alignment.shared_prefix
        if sync == "consensus":
            assert drafts.agreed == "The sky is blue"


def test_the_prefix_is_shown_before_a_producer_has_taken_a_member() -> None:
    for sync in ("consensus", "step", "free"):
        drafts = Drafts((1.0, 1.0), sync=sync, prefix="The sky")
        drafts.close()
        drafts.close()
        assert drafts.texts == ["The sky", "The sky"]


@pytest.mark.parametrize("sync", ["consensus", "step", "free"])
def test_text_of_the_first_window_follows_the_prefix(sync: str) -> None:
    drafts = Drafts((1.0, 1.0), sync=sync, prefix="The sky")
    drafts.claim(0, 1)
    for member in range(2):
        drafts.write(member, " is")
    drafts.close()
    assert drafts.texts == ["The sky is"] * 2


def test_a_member_without_text_behind_the_prefix_is_not_compared() -> None:
    drafts = Drafts((1.0, 1.0, 1.0), Limits(claim_waits_ms=200), sync="free", prefix="The sky")
    drafts.claim(0, 1)
    drafts.windows(20)
    for member in range(2):
        drafts.write(member, " is", " blue")
    alignment = drafts.close().frame.alignment
    assert (alignment.frontier_bytes, alignment.shared_prefix) == (10, True)


def test_members_wait_for_each_other_behind_a_prefix() -> None:
    """In step: nothing of a member is released before the others begin, as without a prefix."""
    drafts = begun(sync="step", prefix="The sky")
    drafts.write(0, " is", " blue")
    drafts.close()
    assert drafts.texts == ["The sky", "The sky"]
    drafts.write(1, " was")
    drafts.close()
    assert drafts.texts == ["The sky is ", "The sky was"]


def test_a_model_that_pauses_may_draft_past_the_longest_word() -> None:
    drafts = Drafts((1.0, 1.0))
    drafts.claim(0, 1, pauses=True)
    drafts.close()
    assert [drafts.progress(member).grant for member in range(2)] == [LEAD_BYTES] * 2


def test_a_steered_member_whose_producer_is_gone_is_dropped() -> None:
    drafts = begun()
    drafts.write(0, "a", " b", p=0.9)
    drafts.write(1, "c", " d", p=0.5)
    drafts.close()
    assert drafts.progress(1).branch == 1
    for _ in range(5):
        drafts.add(Beat())
        drafts.write(0, " more")
        drafts.windows(SECOND)
    assert drafts.frames[-1].members[1].reason == "producer gone"
    assert drafts.agreed.startswith("a b more")


@pytest.mark.parametrize("way", ["failed", "cancelled", "silent"])
def test_a_member_whose_draft_has_ended_can_still_be_dropped(way: str) -> None:
    """Its producer writes signs of life, fails, or dies; or a person cancels the session."""
    drafts = begun()
    drafts.write(1, "a" * 40)
    drafts.finish(1)
    for _ in range(7):
        drafts.add(Beat())
        drafts.add(Alive(1, drafts.progress(1).claim, 0))
        drafts.write(0, "a")
        drafts.windows(SECOND)
    assert drafts.frames[-1].members[1].state != "dropped"
    if way == "failed":
        drafts.fail(1)
    elif way == "cancelled":
        drafts.add(Cancel((), "cancelled"))
    else:
        for _ in range(5):
            drafts.add(Beat())
            drafts.write(0, "a")
            drafts.windows(SECOND)
    drafts.close()
    member = drafts.frames[-1].members[1]
    reasons = {"failed": "its server said so", "cancelled": "cancelled", "silent": "producer gone"}
    assert (member.state, member.reason) == ("dropped", reasons[way])
    assert drafts.frames[-1].final == (way == "cancelled")


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_steered_members_silence_counts_from_the_mark_of_its_steer(is_committed: bool) -> None:
    """After a pause the aggregator closes many windows at once: until they are committed, no producer knows of them."""
    drafts = begun()
    drafts.is_committed = is_committed
    drafts.write(0, "a", " b", " c", p=0.9)
    drafts.write(1, "c", " d", p=0.5)
    steered = drafts.close().steered
    drafts.windows(2 * SECOND)
    assert (drafts.frames[-1].members[1].state == "detached") == is_committed
    drafts.is_committed = True
    drafts.add(steered[0])
    drafts.windows(2 * SECOND)
    assert drafts.frames[-1].members[1].state == "detached"
