"""The mixture of an answer that is written by hand: at a parting, where members leave or end, without lists."""

from __future__ import annotations

import pytest

from schemas.entries import Cancel
from schemas.frames import MixtureSpan, MixtureText
from tests.support.drafts import Drafts


def begun(count: int = 2, mixture: int = 20, sync: str = "consensus") -> Drafts:
    drafts = Drafts((1.0,) * count, mixture=mixture, sync=sync)
    drafts.claim(*range(count))
    drafts.close()
    return drafts


def spans_of(drafts: Drafts) -> list[MixtureSpan]:
    return [span for frame in drafts.frames for span in frame.consensus.mixture or ()]


def test_at_a_parting_the_lists_of_the_losers_count_although_they_are_steered() -> None:
    drafts = begun()
    drafts.write(0, "The", " sky", " is", p=0.9)
    drafts.write(1, "The", " sun", " shines", p=0.7)
    drafts.close()
    assert drafts.agreed == "The sky"
    assert spans_of(drafts) == [
        MixtureSpan(0, 3, 0.8, (MixtureText("The", 0.8),)),
        # Up to the byte where they part.
        MixtureSpan(3, 5, 0.8, (MixtureText(" s", 0.8),)),
        MixtureSpan(5, 7, 0.45, (MixtureText("ky", 0.45), MixtureText("un", 0.35))),
    ]


def test_the_word_of_a_leader_that_was_dropped_is_a_span_without_a_share() -> None:
    drafts = begun(3)
    drafts.write(0, "a", " be", p=0.95)
    for member in (1, 2):
        drafts.write(member, "a", " c", " d", p=0.2)
    drafts.close()
    drafts.add(Cancel((0,)))
    drafts.close()
    assert drafts.agreed == "a be"
    assert [(span.start, span.end, span.share is None) for span in spans_of(drafts)] == [
        (0, 1, False), (1, 2, False), (2, 4, True),
    ]  # fmt: skip


@pytest.mark.parametrize(("reason", "share"), [("stop", 0.45), ("length", 0.9)])
def test_within_a_word_the_end_of_a_draft_counts_but_not_its_limit(reason: str, share: float) -> None:
    drafts = begun(3)
    drafts.write(0, "bcd", " e", p=0.9)
    drafts.write(1, "bc", p=0.8)
    drafts.finish(1, reason, p=0.6)
    drafts.write(2, "x", " y", p=0.3)
    drafts.close()
    assert drafts.agreed == "bcd"
    last = spans_of(drafts)[-1]
    assert (last.start, last.end, last.share) == (2, 3, share)
    assert ("" in [text.text for text in last.top]) == (reason == "stop")


def test_a_member_that_writes_alone_is_not_mixed() -> None:
    drafts = begun()
    drafts.write(0, "one", " two", p=0.6, others=[(" three", 0.3), ("", 0.05)])
    drafts.write(1, "one", p=0.2)
    drafts.close()
    drafts.fail(1)
    drafts.close()
    assert spans_of(drafts)[-1] == MixtureSpan(
        3, 7, 0.6, (MixtureText(" two", 0.6), MixtureText(" three", 0.3), MixtureText("", 0.05))
    )


def test_without_lists_there_are_spans_without_shares() -> None:
    drafts = begun()
    for member in range(2):
        drafts.write(member, "one", " two", p=None)
    drafts.close()
    assert spans_of(drafts) == [MixtureSpan(0, 3), MixtureSpan(3, 7)]


def test_frames_have_the_mixture_only_where_the_opening_requests_it() -> None:
    for mixture, sync, expected in ((0, "consensus", None), (3, "free", None), (3, "consensus", ())):
        assert begun(2, mixture, sync).frames[0].consensus.mixture == expected
