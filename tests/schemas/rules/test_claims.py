"""Which tokens of which claim and branch count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.rules.claims import ClaimLedger, ClaimVerdict

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "steer", "token"]), st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 2)
    ),
    max_size=30,
)


@given(STEPS)
def test_accepted_tokens_are_dense_in_each_branch_and_of_one_claim(steps: list[tuple[str, str, int, int]]) -> None:
    ledger = ClaimLedger()
    accepted: list[tuple[str, int, int]] = []
    for kind, claim, seq, branch in steps:
        before = ledger.claim, ledger.branch, ledger.next_seq
        if kind == "claim":
            assert ledger.add_claim(claim) == (not accepted)
        elif kind == "steer":
            ledger.steer(branch)
            assert ledger.branch == max(before[1], branch)
        else:
            verdict = ledger.judge_token(claim, seq, branch)
            if verdict is ClaimVerdict.ACCEPTED:
                accepted.append((claim, branch, seq))
            else:
                assert (ledger.claim, ledger.branch, ledger.next_seq) == before
            is_own = bool(before[0]) and claim == before[0]
            assert (verdict is ClaimVerdict.SUPERSEDED) == (is_own and branch < before[1])
            assert (verdict is ClaimVerdict.AHEAD) == (is_own and (branch, seq) > before[1:])
    assert len({claim for claim, _, _ in accepted}) <= 1
    assert accepted == sorted(accepted)
    for branch in range(3):
        seqs = [seq for _, at, seq in accepted if at == branch]
        assert seqs == list(range(len(seqs)))


def test_a_member_that_is_steered_before_its_first_token_takes_a_later_claim_and_none_after_it() -> None:
    ledger = ClaimLedger("1-0")
    ledger.steer(1)
    assert ledger.judge_token("1-0", 0) is ClaimVerdict.SUPERSEDED
    assert ledger.add_claim("2-0")
    assert ledger.judge_token("1-0", 0, 1) is ClaimVerdict.DUPLICATE
    assert ledger.judge_token("2-0", 0, 1) is ClaimVerdict.ACCEPTED
    ledger.steer(2)
    assert not ledger.add_claim("3-0")
