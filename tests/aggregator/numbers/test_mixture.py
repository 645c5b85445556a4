"""The mixture at one place, from lists that are made by hand."""

from __future__ import annotations

import pytest

from aggregator.numbers.deciding import Voter
from aggregator.numbers.mixture import mixture_span, span_bytes
from aggregator.numbers.proposal import Proposal
from schemas.frames import MixtureSpan, MixtureText


def listing(own: str, weight: float = 1.0, offset: int = 0, **listed: float) -> Voter:
    """A voter whose token is `own`, of which `offset` bytes are before the place; `_` is a space in the names of its
    pieces, `end` the end."""
    pieces = {b"" if name == "end" else name.replace("_", " ").encode(): p for name, p in listed.items()}
    proposal = Proposal(own.encode(), pieces, rest=1.0 - sum(pieces.values()), has_logprobs=True)
    draft = own.encode()[offset:]
    return Voter(weight, draft, len(draft), offset, proposal)


def silent(own: str, weight: float = 1.0) -> Voter:
    return Voter(weight, own.encode(), len(own.encode()), 0, Proposal(own.encode()))


def shown(span: MixtureSpan) -> dict[str, float]:
    return {text.text: text.share for text in span.top}


ONE = listing(" sky", _sky=0.5, _sea=0.2, _skin=0.1)
OTHER = listing(" sky is", _seaside=0.1, **{"_sky_is": 0.7})


def test_texts_that_begin_with_the_span_are_added_up_and_shown_as_far_as_they_are_the_same() -> None:
    """The example in docs/maths.md."""
    assert span_bytes(b" sky is", [ONE, OTHER]) == 4
    span = mixture_span(3, b" sky", [ONE, OTHER], 20)
    assert (span.start, span.end, span.share) == (3, 7, 0.6)
    assert span.top == (MixtureText(" sky", 0.6), MixtureText(" sea", 0.15), MixtureText(" skin", 0.05))
    assert mixture_span(3, b" sky", [ONE, OTHER], 2).top == span.top[:2]


def test_the_mixture_of_one_member_is_its_own_list() -> None:
    voter = listing(" sky", _sky=0.5, _sea=0.25, end=0.125)
    span = mixture_span(0, b" sky", [voter], 20)
    assert (span.share, shown(span)) == (0.5, {" sky": 0.5, " sea": 0.25, "": 0.125})


def test_within_a_token_only_pieces_that_agree_with_what_was_written_count() -> None:
    voter = listing(" sky", offset=2, _sky=0.25, _sun=0.125, _air=0.25, _=0.125)
    # Of 1, the list left out 0.25, and " " may continue otherwise: the two that agree share the rest as 2 to 1.
    span = mixture_span(4, b"ky", [voter], 20)
    assert shown(span) == {"ky": round(0.625 * 2 / 3, 9), "un": round(0.625 / 3, 9)}


def test_the_span_ends_at_a_whole_character_of_the_agreed_text() -> None:
    """A member that loses ends the span within the character that wins."""
    voters = [listing("a", a=0.75), listing("日本", **{"日本": 0.5, "日": 0.25, "月": 0.25})]
    assert span_bytes("日本".encode(), voters) == 3
    assert shown(mixture_span(0, "日".encode(), voters, 20)) == {"日": 0.375, "a": 0.375, "月": 0.125}


def test_characters_that_begin_alike_are_two_texts_and_bytes_that_are_not_text_are_one() -> None:
    voter = listing("a", a=0.5, é=0.125, è=0.0625)
    broken = Proposal(b"a", {b"a": 0.5, b"\xc3": 0.25, b"\xe6\x97": 0.25}, 0.0, has_logprobs=True)
    span = mixture_span(0, b"a", [voter, Voter(1.0, b"a", 1, 0, broken)], 20)
    assert shown(span) == {"a": 0.5, "\ufffd": 0.25, "é": 0.0625, "è": 0.03125}


def test_members_without_lists_and_without_weight_do_not_count() -> None:
    alone = mixture_span(3, b" sky", [ONE], 20)
    heavy = listing(" sea", 0.0, _sea=1.0)
    assert mixture_span(3, b" sky", [ONE, silent(" sun", 9.0), heavy], 20) == alone
    # Their tokens end the span.
    assert span_bytes(b" sky", [ONE, silent(" s")]) == 2
    assert span_bytes(b" sky", [ONE, listing(" ", 0.0, _=1.0)]) == 1
    # A member of weight 0 is not asked instead of one that has no list.
    assert mixture_span(3, b" sky", [silent(" sky"), heavy], 20) == MixtureSpan(3, 7)


def test_where_all_weights_are_0_members_count_alike() -> None:
    span = mixture_span(0, b"a", [listing("a", 0.0, a=1.0), listing("b", 0.0, b=1.0)], 20)
    assert shown(span) == {"a": 0.5, "b": 0.5}


def test_white_space_at_the_beginning_of_an_answer_is_not_its_end() -> None:
    voter = listing("The", The=0.5, end=0.25)
    first = Voter(1.0, voter.draft, 3, 0, voter.proposal, is_first=True)
    assert shown(mixture_span(0, b"The", [first], 20)) == {"The": 0.5}
    assert shown(mixture_span(5, b"The", [voter], 20)) == {"The": 0.5, "": 0.25}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_shares_are_in_the_order_of_their_texts(order: tuple[int, int]) -> None:
    voters = [listing("b", b=0.3, c=0.1), listing("a", a=0.3, c=0.1)]
    span = mixture_span(0, b"b", [voters[number] for number in order], 20)
    assert [text.text for text in span.top] == ["a", "b", "c"]
