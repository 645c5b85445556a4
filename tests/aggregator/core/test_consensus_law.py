"""The laws of consensus: the core under any timing against a council without time, and what follows from the
definitions.

toy models --+--> written_together(), which has no time --------------+
             +--> ToyRun: windows, steers seen late, repeated tokens --+--> the same text, decisions and kept tokens
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from schemas.frames import Decision, encode_frame
from schemas.sessions import MAX_TOKENS_LIMIT
from tests.oracle.consensus import Agreement, Answer, written_together
from tests.oracle.toy_models import CUTS, Cut, ToyModel, drawn_chains
from tests.support.toy_councils import Timing, Toy, ToyRun, hard_timings, timings, toy_members

# Shares are rounded to 1e-9.
NEAR = 2e-9
unhurried = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


def answer_of(toys: list[Toy], max_tokens: int = MAX_TOKENS_LIMIT, seed: int | None = None) -> Answer:
    return written_together([toy.model for toy in toys], [toy.weight for toy in toys], max_tokens, seed)


def joined(decisions: list[Decision]) -> list[Decision]:
    """The decisions with neighbours joined that were unanimous: windows cut these."""
    found: list[Decision] = []
    for decision in decisions:
        if found and found[-1].kind == decision.kind == "unanimous":
            found[-1] = Decision(found[-1].at, decision.end, "unanimous")
        else:
            found.append(decision)
    return found


def check_decision(ours: Decision, agreement: Agreement) -> None:
    """The core's decision against the oracle's."""
    outcome = agreement.outcome
    assert (ours.at, ours.end) == (agreement.at, agreement.end)
    if outcome is None:
        assert ours == Decision(agreement.at, agreement.end, "unanimous")
        return
    assert outcome.is_open or ours.kind == ("certain" if outcome.certain else "estimate"), (ours, outcome)
    assert ours.by == outcome.leader, (ours, outcome)
    assert ours.against == outcome.against, (ours, outcome)
    assert ours.share is not None
    assert abs(ours.share - float(outcome.winner.low)) <= NEAR, (ours, outcome)
    assert ours.jsd is None or 0 <= ours.jsd <= 1
    if outcome.runner_up is None:
        assert ours.runner_up is ours.runner_up_share is None, (ours, outcome)
        return
    assert ours.runner_up == outcome.runner_up.text.decode(errors="replace"), (ours, outcome)
    assert ours.runner_up_share is not None
    assert abs(ours.runner_up_share - float(outcome.runner_up.low)) <= NEAR, (ours, outcome)


def check_run(run: ToyRun, answer: Answer) -> None:
    """The whole session against the oracle's answer."""
    assert run.agreed == answer.agreed.decode()
    decisions = joined(run.decisions)
    assert [(one.at, one.end) for one in decisions] == [(one.at, one.end) for one in answer.agreements]
    for ours, agreement in zip(decisions, answer.agreements, strict=True):
        check_decision(ours, agreement)
    kept = sorted((n, token.start, token.end) for n, tokens in enumerate(answer.kept) for token in tokens)
    assert run.released == kept


@settings(unhurried, max_examples=100)
@given(toy_members(), timings)
def test_the_answer_does_not_depend_on_time(toys: list[Toy], timing: Timing) -> None:
    run = ToyRun(toys, timing).to_the_end()
    check_run(run, answer_of(toys))
    # With the disagreement, which the oracle does not compute.
    assert joined(run.decisions) == joined(ToyRun(toys, Timing()).to_the_end().decisions)


@settings(unhurried, max_examples=60)
@given(toy_members(), timings, st.integers(0, 2**40))
def test_drawn_winners_do_not_depend_on_time(toys: list[Toy], timing: Timing, seed: int) -> None:
    check_run(ToyRun(toys, timing, temperature=0.7, seed=seed).to_the_end(), answer_of(toys, seed=seed))


@settings(unhurried, max_examples=60)
@given(toy_members(), timings, st.integers(1, 8))
def test_the_limit_of_the_answer_does_not_depend_on_time(toys: list[Toy], timing: Timing, max_tokens: int) -> None:
    """Agreed text counts as a token for each four bytes."""
    # Otherwise a member's own tokens reach the limit first.
    toys = [replace(toy, model=toy.model.cut_as("two")) for toy in toys]
    run = ToyRun(toys, timing, max_tokens).to_the_end()
    assert run.agreed == answer_of(toys, max_tokens).agreed.decode()


@settings(unhurried, max_examples=60)
@given(toy_members(), timings)
def test_each_token_is_in_one_frame_or_counted_as_superseded(toys: list[Toy], timing: Timing) -> None:
    run = ToyRun(toys, timing).to_the_end()
    assert max(Counter(run.released).values(), default=1) == 1
    shown = sum(len(frame.tokens) for frame in run.frames)
    assert shown + run.superseded == len(run.accepted) + run.stale


@settings(unhurried, max_examples=60)
@given(toy_members(), timings)
def test_all_members_show_the_agreed_text_and_decisions_tile_it(toys: list[Toy], timing: Timing) -> None:
    run = ToyRun(toys, timing).to_the_end()
    for frame in run.frames:
        assert frame.mode == "consensus"
        assert frame.consensus.agreed is not None
        for member in frame.members:
            assert member.text == frame.consensus.agreed
    assert [member.text for member in run.frames[-1].members]
    ends = [0, *[decision.end for decision in run.decisions]]
    assert [decision.at for decision in run.decisions] == ends[:-1]
    assert ends[-1] == len(run.agreed.encode())


@settings(unhurried, max_examples=40)
@given(toy_members(), timings, st.frozensets(st.integers(0, 7), min_size=1))
def test_dump_and_load_change_no_byte(toys: list[Toy], timing: Timing, loaded: frozenset[int]) -> None:
    run = ToyRun(toys, timing, mixture=5).to_the_end()
    again = ToyRun(toys, replace(timing, loaded=loaded), mixture=5).to_the_end()
    assert [encode_frame(frame) for frame in again.frames] == [encode_frame(frame) for frame in run.frames]
    assert again.steers == run.steers


@settings(unhurried, max_examples=40)
@given(toy_members(), timings)
def test_a_steer_keeps_own_tokens_and_gives_the_agreed_text(toys: list[Toy], timing: Timing) -> None:
    run = ToyRun(toys, timing).to_the_end()
    agreed, ends = run.agreed.encode(), [0] * len(toys)
    for member, _, steer in run.steers:
        assert agreed[: steer.end].endswith(steer.text.encode())
        assert steer.end == steer.start + len(steer.text.encode())
        assert steer.end > ends[member]
        ends[member] = steer.end


def check_tiling(run: ToyRun, begin: int) -> None:
    """The spans of the mixture tile what decisions tile, from the byte `begin` on, in each frame: whole characters."""
    text = run.agreed.encode()
    for frame in run.frames:
        spans, decisions = frame.consensus.mixture, frame.consensus.decisions
        assert spans is not None
        assert decisions is not None
        ends = [begin, *[span.end for span in spans]]
        assert [span.start for span in spans] == ends[:-1]
        assert all(text[span.start : span.end].decode() for span in spans)
        begin = ends[-1]
        assert {decision.end for decision in decisions} <= set(ends)
        assert not decisions or decisions[-1].end == begin


@settings(unhurried, max_examples=100)
@given(
    toy_members(),
    hard_timings,
    st.sampled_from(("", "", "the cat", "日本 ")),
    st.frozensets(st.integers(0, 7)),
    st.sampled_from((MAX_TOKENS_LIMIT, MAX_TOKENS_LIMIT, 2, 9)),
)
def test_members_that_come_late_stall_or_leave(
    toys: list[Toy], timing: Timing, prefix: str, loaded: frozenset[int], first_limit: int
) -> None:
    """Which text is agreed on then depends on time, and nothing else does."""
    toys = [replace(toys[0], most_tokens=first_limit), *toys[1:]]
    run = ToyRun(toys, timing, prefix=prefix, mixture=5).to_the_end()
    tokens = [token for frame in run.frames for token in frame.tokens]
    assert len(tokens) + run.superseded == len(run.accepted) + run.stale
    assert max(Counter(run.released).values(), default=1) == 1
    ends = [len(prefix.encode()), *[decision.end for decision in run.decisions]]
    assert [decision.at for decision in run.decisions] == ends[:-1]
    check_tiling(run, len(prefix.encode()))
    answer = run.agreed
    written = {(token.member, token.seq, token.text) for token in run.accepted}
    for token in tokens:
        if token.lane == "answer":
            text = answer.encode()[token.start : token.end].decode()
            assert {(token.member, token.seq, text), (token.member, token.seq, f" {text}")} & written
    for number in range(len(toys)):
        shown = "".join(frame.members[number].text for frame in run.frames)
        assert answer.startswith(shown)
        last = run.frames[-1].members[number]
        assert last.ended
        # A member that has reached its own limit leaves.
        assert last.state == "dropped" or last.reason == "length" or shown == answer
    again = ToyRun(toys, replace(timing, loaded=loaded), prefix=prefix, mixture=5).to_the_end()
    assert [encode_frame(frame) for frame in again.frames] == [encode_frame(frame) for frame in run.frames]


# --- laws about text -------------------------------------------------------------------------------------------------


@settings(unhurried, max_examples=30)
@given(toy_members(), timings, st.sampled_from(CUTS), st.sampled_from(CUTS))
def test_models_that_write_one_text_never_part(toys: list[Toy], timing: Timing, second: Cut, third: Cut) -> None:
    """One model twice, and three tokenizers of one model, are that model."""
    model = toys[0].model
    others = [model.cut_as(cut) for cut in (second, third)]
    run = ToyRun([toys[0], Toy(model, 2.0), *map(Toy, others)], timing).to_the_end()
    assert run.agreed == model.rest("")
    assert {decision.kind for decision in run.decisions} == {"unanimous"}
    assert run.steers == []


@settings(unhurried, max_examples=30)
@given(toy_members(), timings)
def test_a_member_with_all_the_weight_writes_alone(toys: list[Toy], timing: Timing) -> None:
    toys = [replace(toy, weight=float(number == 0)) for number, toy in enumerate(toys)]
    run = ToyRun(toys, timing).to_the_end()
    assert run.agreed == toys[0].model.rest("")
    assert all(member for member, _, _ in run.steers)


@settings(unhurried, max_examples=40)
@given(toy_members(), timings, st.randoms(use_true_random=False))
def test_the_order_of_members_changes_no_text(toys: list[Toy], timing: Timing, chance: random.Random) -> None:
    answer = answer_of(toys)
    assume(not any(has_a_tie(toys, agreement) for agreement in answer.partings))
    order = list(range(len(toys)))
    chance.shuffle(order)
    run = ToyRun([toys[number] for number in order], timing).to_the_end()
    assert run.agreed == answer.agreed.decode()


def has_a_tie(toys: list[Toy], agreement: Agreement) -> bool:
    """True where the order of members may choose between branches, or between leaders."""
    outcome = agreement.outcome
    assert outcome
    lows = sorted(float(branch.low) for branch in outcome.branches)
    is_even = any(two - one < 1e-9 for one, two in pairwise(lows))
    return is_even or len(outcome.winner.supporters) > 1


@settings(unhurried, max_examples=40)
@given(toy_members(), timings)
def test_a_member_that_always_loses_changes_nothing_but_shares(toys: list[Toy], timing: Timing) -> None:
    """A member that outweighs another writes as if it were alone, where it wins each parting."""
    toys = [replace(toys[0], weight=5.0), replace(toys[1], weight=1.0)]
    run = ToyRun(toys, timing).to_the_end()
    assume(all(decision.by in (None, 0) for decision in run.decisions))
    assert run.agreed == toys[0].model.rest("")


def test_toy_models_agree_and_part() -> None:
    """The laws above are not about sessions without partings."""
    partings = 0
    for seed in range(20):
        models = [ToyModel(drawn_chains(seed + number)) for number in range(2)]
        partings += len(written_together(models, [1.0, 1.0]).partings)
    assert partings > 20
