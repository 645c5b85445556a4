"""Answers of sessions in which members continue a given text: of a what-if branch, and of a council that agrees on one.

Streams, progress and frames are written by hand; tests/aggregator has the same for whole councils.
"""

from __future__ import annotations

import msgspec
import pytest

from schemas.control import Progress, Steer
from schemas.entries import AnyEntry, Claim, Steered, Token, encode_entry
from schemas.frames import MemberFrame
from schemas.sessions import Opening
from tests.support.frames import made_frame
from tests.support.sessions import opening_of
from transport.answers import Answers

CLAIMS = ("11-0", "12-0")


def consensus_of(*models: str, prefix: str = "") -> Opening:
    return msgspec.structs.replace(opening_of(*models), sync="consensus", prefix=prefix)


def token(member: int, seq: int, text: str, branch: int = 0) -> Token:
    return Token(member, CLAIMS[member], seq, "answer", text, 0, 0, branch=branch)


def stream_of(*entries: AnyEntry) -> list[tuple[str, bytes]]:
    claims = (Claim(0, 0), Claim(1, 0))
    return [(f"{11 + n}-0", encode_entry(entry)) for n, entry in enumerate((*claims, *entries))]


def progress_of(*accepted: tuple[int, int], steer: Steer | None = None) -> tuple[Progress, ...]:
    """(branch, next seq) of each member; `steer` is that of member 1."""
    return tuple(
        Progress(CLAIMS[member], next_seq, False, None, branch, steer if member else None)
        for member, (branch, next_seq) in enumerate(accepted)
    )


def texts_at(answers: Answers, *positions: int) -> list[str]:
    """Each member's text where a frame has released it up to these bytes; the tokens are released too."""
    members = tuple(MemberFrame("m", "answering", 0.0, 0.0, None, end, 0, "", "", None) for end in positions)
    answers.release(positions)
    return answers.texts(made_frame(0, members, cut="99-0"))[0]


def parts_of(answers: Answers, member: int = 1) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """([start, end) of each token, [start, end) of the given text)."""
    answer = answers.of_member[member]
    found = answer.overlapping(0, None)
    return [answer.bounds(index) for index in answer.tokens_of(found)], answer.given_of(found)


def test_a_mark_replaces_what_a_member_wrote_behind_its_beginning() -> None:
    """The council agrees on "The sky is red."; member 1 wrote "The sky was blue", and was steered at byte 7.

    member 0   "The" " sky" " is"                           " red."
    member 1   "The" " sky" " was" | decided | " blue" mark        " red."
    """
    opening = consensus_of("a", "b")
    answers, steer = Answers(opening, "10-0"), Steer(7, 10, " is")
    stream = stream_of(
        token(0, 0, "The"), token(1, 0, "The"), token(0, 1, " sky"), token(1, 1, " sky"), token(1, 2, " was"),
        token(0, 2, " is"),
        token(1, 3, " blue"), Steered(1, 1, 7, " is", 3), token(1, 0, " red", branch=1), token(1, 4, " late"),
        token(0, 3, " red."), token(1, 1, ".", branch=1),
    )  # fmt: skip
    # As the frame of the decision has it: the mark is behind its cut.
    answers.add_entries(stream[:8], progress_of((0, 3), (1, 0), steer=steer))
    assert texts_at(answers, 10, 10) == ["The sky is", "The sky is"]
    assert parts_of(answers) == ([(0, 3), (3, 7)], [])
    # With the rest of the stream: the token that came before the mark was never accepted.
    answers.add_entries(stream[8:], progress_of((0, 4), (1, 2), steer=steer))
    assert texts_at(answers, 15, 15) == ["The sky is red."] * 2
    assert parts_of(answers) == ([(0, 3), (3, 7), (10, 14), (14, 15)], [(7, 10)])
    assert parts_of(answers, 0) == ([(0, 3), (3, 7), (7, 10), (10, 15)], [])
    # Of an earlier frame.
    assert answers.texts(made_frame(0, _at(3, 3), cut="14-0"))[0] == ["The", "The"]


def _at(*ends: int) -> tuple[MemberFrame, ...]:
    return tuple(MemberFrame("m", "answering", 0.0, 0.0, None, end, 0, "", "", None) for end in ends)


def test_a_member_that_is_behind_has_the_councils_text_up_to_its_own_position() -> None:
    """Member 1 thinks: it wrote nothing while the council agreed. At the end it is at the byte where it was."""
    answers = Answers(consensus_of("a", "b"), "10-0")
    answers.add_entries(
        stream_of(token(0, 0, "The"), token(1, 0, "No"), token(0, 1, " sky")), progress_of((0, 2), (0, 1))
    )
    assert texts_at(answers, 7, 0) == ["The sky", ""]
    assert texts_at(answers, 7, 2) == ["The sky", "Th"]


def test_two_marks_behind_one_cut_give_the_text_of_the_newest() -> None:
    """An aggregator that catches up commits many windows at once: all marks come behind all cuts."""
    answers = Answers(consensus_of("a", "b"), "10-0")
    stream = stream_of(
        token(0, 0, "one two"), token(1, 0, "no nothing"), Steered(1, 1, 0, "one", 1), Steered(1, 2, 3, " two", 0)
    )
    answers.add_entries(stream[:4], progress_of((0, 1), (2, 0), steer=Steer(3, 7, " two")))
    assert texts_at(answers, 7, 7) == ["one two", "one two"]
    assert parts_of(answers) == ([], [])
    answers.add_entries(stream[4:], progress_of((0, 1), (2, 0), steer=Steer(3, 7, " two")))
    assert texts_at(answers, 7, 7) == ["one two", "one two"]
    assert parts_of(answers) == ([], [(0, 7)])


@pytest.mark.parametrize(
    "mark",
    [
        Steered(1, 2, 0, "never"), Steered(1, 0, 0, "again"), Steered(7, 1, 0, "nobody"), Steered(-1, 1, 0, "nobody"),
    ],
)  # fmt: skip
def test_a_mark_that_the_council_did_not_write_changes_nothing(mark: Steered) -> None:
    answers = Answers(consensus_of("a", "b"), "10-0")
    answers.add_entries(stream_of(token(1, 0, "one"), mark, token(1, 1, " two")), progress_of((0, 0), (1, 0)))
    assert texts_at(answers, 0, 7) == ["", "one two"]


@pytest.mark.parametrize(
    ("start", "tokens", "given"), [(-3, [], [(0, 1)]), (2, [], [(0, 3)]), (99, [(0, 4), (4, 8)], [(8, 9)])]
)
def test_a_mark_of_a_damaged_stream_breaks_nothing(
    start: int, tokens: list[tuple[int, int]], given: list[tuple[int, int]]
) -> None:
    """Its place is not the end of a token, or not in the answer."""
    answers = Answers(consensus_of("a", "b"), "10-0")
    answers.add_entries(
        stream_of(token(1, 0, "four"), token(1, 1, "four"), Steered(1, 1, start, "!", 2)), progress_of((0, 0), (1, 0))
    )
    texts_at(answers, 0, 9)
    assert parts_of(answers) == (tokens, given)


def test_tokens_between_the_decision_and_its_mark_are_removed_with_and_without_text() -> None:
    """The council decided when three tokens were accepted, at the end of what member 1 had written."""
    answers = Answers(consensus_of("a", "b"), "10-0")
    thought = msgspec.structs.replace(token(1, 1, "hm"), lane="thinking")
    between = msgspec.structs.replace(token(1, 4, "so"), lane="thinking")
    stream = stream_of(
        token(1, 0, "\n"), thought, token(1, 2, "One"), token(1, 3, ""), between, token(1, 5, ""), token(1, 6, " tw"),
        Steered(1, 1, 3, " more", 3), token(1, 0, "!", branch=1),
    )  # fmt: skip
    answers.add_entries(stream, progress_of((0, 0), (1, 1)))
    assert texts_at(answers, 0, 9) == ["", "One more!"]
    assert parts_of(answers) == ([(0, 0), (0, 3), (8, 9)], [(3, 8)])
    assert answers.of_member[1].thinking_to((99, 0)) == "hm"


def test_white_space_before_an_answer_goes_with_the_token_that_is_replaced() -> None:
    answers = Answers(consensus_of("a", "b"), "10-0")
    answers.add_entries(
        stream_of(token(1, 0, "\n"), token(1, 1, " No"), Steered(1, 1, 0, "Yes", 2), token(1, 0, " sir", branch=1)),
        progress_of((0, 0), (1, 1)),
    )
    assert texts_at(answers, 0, 7) == ["", "Yes sir"]
    assert parts_of(answers) == ([(0, 0), (3, 7)], [(0, 3)])


def test_an_answer_of_a_what_if_branch_begins_with_the_prefix() -> None:
    """Its positions count from the prefix's first byte, white space or not, and no token covers it."""
    opening = msgspec.structs.replace(opening_of("a", "b"), prefix="\n The sky is")
    answers = Answers(opening, "10-0")
    answers.add_entries(stream_of(token(1, 0, " "), token(1, 1, "red")), progress_of((0, 0), (0, 2)))
    assert texts_at(answers, 12, 16) == ["\n The sky is", "\n The sky is red"]
    assert parts_of(answers) == ([(12, 13), (13, 16)], [(0, 12)])
    assert parts_of(answers, 0) == ([], [(0, 12)])
    answer = answers.of_member[1]
    assert (list(answer.covering(5)), answer.tokens_of(answer.covering(5)), answer.end) == ([0], [], 16)
