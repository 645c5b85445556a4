"""The decision at a parting against the oracle, which was written from the definitions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.numbers.deciding import Voter, decide
from aggregator.numbers.proposal import Proposal
from tests.oracle.deciding import TIE, Vote, decided
from tests.support.speeches import often

NEAR = 2e-9
DRAFTS = ("a", "ab", "ac", "abc", "b", "ba", "é", "éa", "è", "日本", "日", "🙂", "🙃x", " a", "aé", "aè")
WRITTEN = (b"", b"", b"", b"x", b"xy", "é".encode())
PIECES = (*(draft.encode() for draft in DRAFTS), b"\xc3", b"\xf0\x9f", b"c", b"x", b"xa", b"xab", b"xya", b"xb")


@st.composite
def voters(draw: st.DrawFn) -> list[Vote]:
    """Members whose drafts are the same before x, and often share their beginning after it."""
    written, votes = draw(st.sampled_from(WRITTEN)), []
    for _ in range(draw(st.integers(2, 4))):
        weight = draw(st.sampled_from((1.0, 1.0, 1.0, 2.0, 0.5, 0.1, 0.0)))
        text = draw(st.sampled_from(DRAFTS)).encode() if draw(often(True, False)) else b""
        q = written[: draw(st.integers(0, len(written)))] if text else b""
        listed = None
        rest = 1.0
        if draw(often(True, False)):
            counts = draw(
                st.dictionaries(
                    st.sampled_from((q, b"", q[:1], *PIECES, *(q + piece for piece in PIECES))),
                    st.integers(1, 5),
                    max_size=6,
                )
            )
            counts[q + text] = draw(st.integers(1, 8))
            total = sum(counts.values()) + draw(st.sampled_from((0, 0, 1, 10)))
            listed = {piece: count / total for piece, count in counts.items()}
            rest = max(0.0, 1.0 - sum(listed.values()))
        votes.append(
            Vote(weight, text + draw(st.sampled_from((b"", b"b", b" c"))) if text else b"", len(text), q, listed, rest)
        )
    return votes


def voter_of(vote: Vote) -> Voter:
    own = vote.written + vote.draft[: vote.left]
    proposal = (
        Proposal(own, dict(vote.listed), vote.rest, has_logprobs=True) if vote.listed is not None else Proposal(own)
    )
    return Voter(vote.weight, vote.draft, vote.left, len(vote.written), proposal)


@settings(max_examples=250, deadline=None)
@given(voters(), st.none() | st.floats(0, 1, exclude_max=True))
def test_a_decision_is_that_of_the_oracle(votes: list[Vote], draw: float | None) -> None:
    outcome, verdict = decided(votes, draw), decide([voter_of(vote) for vote in votes], draw)
    winner, second = outcome.winner, outcome.runner_up
    assert (verdict.alternative, verdict.is_end) == (winner.text, not winner.text)
    assert verdict.leader == outcome.leader
    assert outcome.is_open or verdict.certain == outcome.certain
    assert abs(verdict.share - float(winner.low)) <= NEAR
    assert verdict.against == outcome.against
    assert verdict.runner_up == (second.text if second else None)
    assert verdict.runner_up_is_end == (second is not None and not second.text)
    assert abs((verdict.runner_up_share or 0.0) - float(second.low if second else TIE)) <= NEAR
