"""What if: a place in an answer and a text become the beginning of a branch, whose request is its parent's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Refused
from schemas.models import Continues, ModelFacts
from schemas.rules.admission import admit
from schemas.rules.tiers import TIERS
from schemas.rules.what_if import BranchStart, Change, WholeAnswers, branch_of, request_of, shown_answer
from schemas.sessions import (
    ENTRY_VERSION,
    MAX_PREFIX_BYTES,
    Limits,
    Member,
    MemberSpec,
    Message,
    Opening,
    Parent,
    Sampling,
    SessionRequest,
)

SKY, SEA = "\n The sky is blue today.", "The sea"
OPENING = Opening(
    ENTRY_VERSION, "s1", "Why?",
    (
        Member("a", 2.0, sampling=Sampling(64, 0.0, 7), name="calm", system="Be calm."),
        Member("b", 0.5),
    ),
    system="Be brief.", sampling=Sampling(64, 0.7, 7), sync="free", weighting="certainty",
    history=(Message("user", "Hi"), Message("assistant", "Hello")),
)  # fmt: skip


def branch(say: str, answers: tuple[str, ...] = (SKY, SEA), **place: Any) -> BranchStart:
    return branch_of(WholeAnswers(OPENING, answers, True), Change(say, **place))


def refusal(say: str, answers: tuple[str, ...] = (SKY, SEA), **place: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        branch(say, answers, **place)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("place", "say", "prefix", "byte", "instead"),
    [
        ({"word": 3}, "was", "The sky was", 8, "is"),
        ({"word": 3}, " was", "The sky was", 7, "is"),
        ({"word": 1}, "A", "A", 0, "The"),
        ({"word": 6}, "Then", "The sky is blue today. Then", 22, ""),
        ({"at": 7}, " was", "The sky was", 7, "is"),
        ({"at": 7}, "line", "The skyline", 7, "is"),
        ({"at": 8}, "was", "The sky was", 8, "is"),
        ({"at": 8}, " was", "The sky  was", 8, "is"),
        ({"at": 8}, "\n* a", "The sky \n* a", 8, "is"),
        ({"at": 5}, "ip", "The sip", 5, "ky"),
        ({"at": 0}, " A", "A", 0, "The"),
        ({"at": 22}, "\n\nThen", "The sky is blue today.\n\nThen", 22, ""),
        ({"at": 7, "member": 1}, " is", "The sea is", 7, ""),
        ({"at": 7, "member": 0}, "\n", "The sky\n", 7, "is"),
    ],
)
def test_the_answer_up_to_the_place_and_then_the_text(
    place: dict[str, int], say: str, prefix: str, byte: int, instead: str
) -> None:
    found = branch(say, **place)
    assert found.prefix == prefix
    assert (found.parent.session, found.parent.byte, found.parent.instead) == ("s1", byte, instead)


def test_the_first_member_that_has_the_place_inside_its_answer_is_meant() -> None:
    assert branch(" lies", answers=("The sea", "The sky is"), at=7).prefix == "The sky lies"
    assert branch("lies", answers=("The sea", "The sky is"), word=3).prefix == "The sky lies"
    # No answer has it inside: the first one that ends there.
    assert branch(" lies", answers=("The sea", "The sky"), at=7).prefix == "The sea lies"
    assert branch("Yes", answers=("", ""), at=0) == BranchStart("Yes", Parent("s1", 0, "Yes"))


def test_a_character_is_not_divided() -> None:
    text = "caf\u00e9 \U0001f30a"
    assert branch("X", (text,), at=4).prefix == "cafX"
    assert branch("X", (text,), at=5).prefix == "caf\u00e9X"
    assert [branch("X", (text,), at=at).parent.byte for at in range(6, 11)] == [6, 6, 6, 6, 10]


def test_a_place_that_no_answer_has_is_refused_with_its_range() -> None:
    assert refusal("x", at=23) == (
        "bad_at",
        "at is 23, and the longest answer ('calm') has 22 bytes: give a number from 0 to 22.",
    )
    assert refusal("x", at=-1)[0] == "bad_at"
    assert refusal("x", word=4, member=1) == (
        "bad_word",
        "word is 4, and the answer of 'b' has 2 words: give a number from 1 to 3.",
    )
    assert refusal("x", word=0)[0] == "bad_word"
    assert refusal("x")[0] == refusal("x", at=1, word=1)[0] == "bad_place"


def test_a_text_that_cannot_stand_in_an_answer_is_refused() -> None:
    for say, place in (("", 3), ("\ud800", 3), (" \n", 0)):
        assert refusal(say, at=place)[0] == "bad_say"


@given(st.lists(st.text(st.sampled_from("ab \né🌊")), min_size=1, max_size=2), st.text(min_size=1), st.integers(0, 30))
def test_the_prefix_is_the_answer_up_to_the_byte_and_then_the_word(answers: list[str], say: str, number: int) -> None:
    opening = Opening(ENTRY_VERSION, "s1", "Why?", tuple(map(Member, "ab"[: len(answers)])))
    for place in (Change(say, at=number, member=0), Change(say, word=number, member=0)):
        try:
            found = branch_of(WholeAnswers(opening, answers, True), place)
        except Refused:
            continue
        kept = shown_answer(answers[0]).encode()[: found.parent.byte].decode()
        assert found.prefix == kept + found.parent.word
        assert found.parent.word.strip() == say.strip()
        # A byte is exact: only its own character may be cut off, never the white space before it.
        if place.at is not None:
            assert 0 <= number - found.parent.byte < 4
        # What the rule makes is admitted.
        request, _ = request_of(opening, found, ["a", "b"], {})
        assert admit(request, "s2", [ModelFacts("a"), ModelFacts("b")], TIERS["mid"], Limits()).opening.prefix


def test_a_branch_has_the_request_of_its_parent() -> None:
    request, warnings = request_of(OPENING, branch("was", word=3), ["a", "b"], {})
    assert request == SessionRequest(
        prompt="Why?", models=(MemberSpec("a", "calm", temperature=0.0, system="Be calm."), MemberSpec("b")),
        weights={"calm": 2.0, "b": 0.5}, system="Be brief.", max_tokens=64, temperature=0.7, seed=7,
        history=OPENING.history, weighting="certainty", sync="free", prefix="The sky was",
        parent=Parent("s1", 8, "was", "is"),
    )  # fmt: skip
    assert not warnings
    opening = admit(request, "s2", [ModelFacts("a"), ModelFacts("b")], TIERS["mid"], Limits()).opening
    assert (opening.members, opening.sampling) == (OPENING.members, OPENING.sampling)
    changed, _ = request_of(OPENING, branch("was", word=3), [], {"models": ("c",), "temperature": 0.1, "sync": "step"})
    assert (changed.models, changed.weights, changed.temperature, changed.sync) == (("c",), {}, 0.1, "step")


def test_members_whose_model_is_not_served_here_are_left_out() -> None:
    request, warnings = request_of(OPENING, branch("was", word=3), ["b"], {})
    assert request.models == (MemberSpec("b"),)
    assert request.weights == {"b": 0.5}
    assert warnings == ("calm is left out: its model 'a' is not served here.",)
    with pytest.raises(Refused, match=r"No model of that session is served here \(a, b\)"):
        request_of(OPENING, branch("was", word=3), ["c"], {})


def test_a_remote_member_of_the_parent_must_be_allowed_again() -> None:
    """A recording from another person must not send anything to another machine."""
    served = [ModelFacts("a", "https://far.example", remote=True), ModelFacts("b")]
    request, _ = request_of(OPENING, branch("was", word=3), ["a", "b"], {})
    with pytest.raises(Refused) as caught:
        admit(request, "s2", served, TIERS["hybrid"], Limits())
    assert caught.value.code == "remote_not_allowed"
    request, _ = request_of(OPENING, branch("was", word=3), ["a", "b"], {"allow_remote": True})
    assert admit(request, "s2", served, TIERS["hybrid"], Limits()).opening.members[0].remote


# --- admission --------------------------------------------------------------------------------------------------------


def models(**continues: Continues) -> list[ModelFacts]:
    return [ModelFacts(name, continues=how) for name, how in continues.items()]


def admitted(served: list[ModelFacts], tier: str = "mid", **request: Any) -> tuple[list[str], tuple[str, ...]]:
    admission = admit(SessionRequest(prompt="Why?", **request), "s1", served, TIERS[tier], Limits())
    return [member.model for member in admission.opening.members], admission.warnings


def test_a_member_that_cannot_continue_a_text_is_left_out_by_name() -> None:
    served = models(a="yes", b="no", c="untried", d="yes", e="yes")
    why = ("b is left out: its model 'b' cannot continue a text.",)
    for request in ({"prefix": "Because"}, {"sync": "consensus"}):
        # The next one takes its place.
        assert admitted(served, **request) == (["a", "c", "d", "e"], why)
        assert admitted(served, models=("b", "d", "e"), weights={"b": 2.0}, **request) == (["d", "e"], why)
    assert admitted(served, models=("a", "b")) == (["a", "b"], ())


def test_too_few_members_that_continue_a_text_are_refused() -> None:
    served = models(a="yes", b="no")
    for request, code in (
        ({"models": ("b",), "prefix": "Because"}, "cannot_continue"),
        ({"models": ("b",), "sync": "consensus"}, "cannot_continue"),
        ({"sync": "consensus"}, "too_few_members"),
        ({"models": ("a",), "sync": "consensus"}, "too_few_members"),
    ):
        with pytest.raises(Refused) as caught:
            admitted(served, **request)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.status) == (code, 409)
    low = msgspec.structs.replace(TIERS["low"], max_parallel_models=1)
    with pytest.raises(Refused, match="the low tier runs one model at once"):
        admit(SessionRequest("Why?", sync="consensus"), "s", models(a="yes", c="yes"), low, Limits())


def test_members_of_a_consensus_that_write_the_same_draft_are_named() -> None:
    served = models(a="yes", b="yes")
    cold, hot = MemberSpec("a", "cold", temperature=0.1), MemberSpec("a", "hot", temperature=1.0)
    calm = MemberSpec("a", "calm", system="Be calm.")

    def named(*members: str | MemberSpec, sync: str = "consensus") -> list[str]:
        _, warnings = admitted(served, models=members, sync=sync)
        return [warning.split(" write the same draft")[0] for warning in warnings if "same draft" in warning]

    assert named(cold, hot, calm, "b") == ["cold and hot"]
    assert named(cold, calm, "b") == []
    assert named(cold, hot, sync="step") == []


@pytest.mark.parametrize(
    ("prefix", "parent", "code"),
    [
        ("x" * (MAX_PREFIX_BYTES + 1), None, "prefix_too_long"),
        ("\ud800", None, "bad_prefix"),
        ("\nSo", None, "bad_prefix"),
        ("So it", Parent("p", 2, "it"), "bad_parent"),
        ("So it", Parent("p", 3, "is"), "bad_parent"),
        ("So", Parent("p", 2, ""), "bad_parent"),
        ("", Parent("p", 0, "it"), "bad_parent"),
        ("So it", Parent("p\ud800", 3, "it"), "bad_parent"),
    ],
)
def test_a_prefix_or_parent_that_is_not_valid_is_refused(prefix: str, parent: Parent | None, code: str) -> None:
    with pytest.raises(Refused) as caught:
        admitted(models(a="yes"), prefix=prefix, parent=parent)
    assert caught.value.code == code
    assert admitted(models(a="yes"), prefix="x" * MAX_PREFIX_BYTES)[0] == ["a"]
