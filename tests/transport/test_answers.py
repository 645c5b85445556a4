"""Positions of tokens: for any stream the tokens that the frames released, for any range the tokens of that range."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.intake import StreamEntry
from aggregator.core.session import Session
from schemas.entries import Cancel, Claim, Token, decode_entry, encode_entry
from schemas.frames import Frame, TokenFrame
from schemas.grid import window_of_entry
from schemas.keys import entry_ms
from schemas.sessions import Opening
from tests.golden import golden, golden_names
from tests.support.sessions import opening_of
from tests.support.streams import Recorded, recorded
from transport.answers import Answer, Answers

# White space, split characters, and special tokens, which have no bytes.
TEXTS = ("", "", " ", "\n", "a", " the", "é", "🙂", "   x")


@settings(max_examples=50)
@given(recorded(), st.data())
def test_the_tokens_of_an_answer_are_those_that_the_frames_released(found: Recorded, data: st.DataObject) -> None:
    """For any stream, and reading on after any windows: the entry and the position of each released token."""
    _check_answers(found, lambda window: data.draw(st.booleans(), label=f"read on after window {window}"))


def test_tokens_that_are_not_accepted_have_no_position() -> None:
    """Before the mark of the claim, of a losing claim, twice, too far ahead, of an unknown member, after the drop.

    member 0   claim A   B:0   claim B   A:0   B:0   B:0   B:2   B:1   | cancel |   B:2
    member -1                                                    B:1
    """
    opening = opening_of("a", "b")

    def token(member: int, claim: str, seq: int, text: str) -> Token:
        return Token(member, claim, seq, "answer", text, 0, 0)

    entries = [
        opening, Claim(0, 0), token(0, "12-0", 0, "early"), Claim(0, 0), token(0, "10-0", 0, "lost"),
        token(0, "12-0", 0, "one"), token(0, "12-0", 0, "twice"), token(0, "12-0", 2, "ahead"), Claim(1, 0),
        token(-1, "17-0", 0, "unknown"), token(1, "17-0", 0, "other"), token(0, "12-0", 1, "two"), Cancel((0,)),
        token(0, "12-0", 2, "three"),
    ]  # fmt: skip
    stream = [(f"{9 + number}-0", encode_entry(entry)) for number, entry in enumerate(entries)]
    assert _check_answers(Recorded(opening, stream, 0), lambda _window: True) == ["onetwo", "other"]


@settings(max_examples=50)
@given(recorded())
def test_the_text_up_to_a_frame_is_the_text_that_all_frames_up_to_it_released(found: Recorded) -> None:
    """In step and free, for any stream."""
    _check_texts(found)


@pytest.mark.parametrize("name", golden_names())
def test_the_text_up_to_a_frame_of_a_real_server_is_the_text_that_the_frames_released(name: str) -> None:
    entries = golden(name).entries
    opening = decode_entry(entries[0][1])
    assert isinstance(opening, Opening)
    _check_texts(Recorded(opening, entries, 0))


def _check_texts(found: Recorded) -> None:
    """Checks the texts at every frame, while it is the newest and after all later entries were read."""
    core, answers = Session(found.opening, found.stream[0][0]), Answers(found.opening, found.stream[0][0])
    answered, thought = [""] * len(found.opening.members), [""] * len(found.opening.members)
    shown: list[tuple[Frame, list[str], list[str]]] = []
    for _, entries in _windows(core, found):
        if core.record.ended:
            break
        frame = core.close(entries).frame
        answered = [text + member.text for text, member in zip(answered, frame.members, strict=True)]
        thought = [text + member.thinking for text, member in zip(thought, frame.members, strict=True)]
        shown.append((frame, answered, thought))
        answers.add_entries(entries, core.progress)
        assert answers.texts(frame) == (answered, thought)
    for frame, texts, thinking in shown:
        assert answers.texts(frame) == (texts, thinking)


def _check_answers(found: Recorded, reads_on: Callable[[int], bool]) -> list[str]:
    """Compares with the core, which reads every window; returns the texts of the answers."""
    core = Session(found.opening, found.stream[0][0])
    answers = Answers(found.opening, found.stream[0][0])
    unread: list[StreamEntry] = []
    released: list[TokenFrame] = []
    positions: list[int] = []
    for window, entries in _windows(core, found):
        if core.record.ended:
            break
        frame = core.close(entries).frame
        released += frame.tokens
        positions = [member.position_bytes for member in frame.members]
        unread += entries
        if reads_on(window):
            answers.add_entries(unread, core.progress)
            answers.release(positions)
            _check_found(found, answers, released)
            unread = []
    answers.add_entries(unread, core.progress)
    answers.release(positions)
    return _check_found(found, answers, released)


def _check_found(found: Recorded, answers: Answers, released: list[TokenFrame]) -> list[str]:
    """Checks that the found tokens are those that frames released, each with its entry; returns the members' texts."""
    texts = []
    by_id = dict(found.stream)
    for member, answer in enumerate(answers.of_member):
        read, text = [], ""
        for index in answer.overlapping(0, None):
            token = decode_entry(by_id[answer.entry_id(index)])
            assert isinstance(token, Token)
            read.append((token.member, token.lane, token.seq, *answer.bounds(index)))
            text += token.text
        expected = [t for t in released if t.member == member and t.lane == "answer"]
        assert read == [(member, t.lane, t.seq, t.start, t.end) for t in expected]
        texts.append(text)
    return texts


def _windows(core: Session, found: Recorded) -> list[tuple[int, list[StreamEntry]]]:
    """(window, its entries), up to the last window with an entry."""
    windows: dict[int, list[StreamEntry]] = {}
    for entry in found.stream[1:]:
        windows.setdefault(window_of_entry(core.origin_ns, entry_ms(entry[0])), []).append(entry)
    return [(window, windows.get(window, [])) for window in range(max(windows, default=-1) + 1)]


answers_drawn = st.lists(st.sampled_from(TEXTS), max_size=30)


def _answer_of(texts: list[str]) -> Answer:
    answer = Answer()
    for seq, text in enumerate(texts):
        answer.add(f"5-{seq}", Token(0, "1-0", seq, "answer", text, 0, 0))
    answer.release(1_000)
    return answer


def _all_bounds(answer: Answer) -> list[tuple[int, int]]:
    return [answer.bounds(index) for index in answer.overlapping(0, None)]


@given(answers_drawn, st.integers(0, 40), st.integers(0, 40))
def test_a_range_finds_the_tokens_that_overlap_it_and_those_without_bytes_inside_it(
    texts: list[str], first: int, length: int
) -> None:
    answer, last = _answer_of(texts), first + length
    bounds = _all_bounds(answer)
    inside = [
        index
        for index, (start, end) in enumerate(bounds)
        if (start < last and end > first and start < end) or (start == end and first <= start < last)
    ]
    if length:
        assert list(answer.overlapping(first, last)) == inside
    to_the_end = [index for index, (start, end) in enumerate(bounds) if end > first or start == end >= first]
    assert list(answer.overlapping(first, None)) == to_the_end
    assert list(answer.covering(first)) == [i for i, (start, end) in enumerate(bounds) if start <= first < end]


@given(answers_drawn, st.integers(1, 4), st.integers(0, 40), st.none() | st.integers(1, 40))
def test_pages_contain_every_token_once_and_in_order(
    texts: list[str], most: int, first: int, length: int | None
) -> None:
    """All pages together are the whole range. Of more than a page of tokens at one byte only the last ones are
    returned, with the one that has bytes."""
    answer, last = _answer_of(texts), None if length is None else first + length
    bounds = _all_bounds(answer)
    whole = list(answer.overlapping(first, last))
    seen: list[int] = []
    at: int | None = first
    while at is not None:
        page, following = answer.first_of(answer.overlapping(at, last), most)
        assert len(page) <= most
        assert following is None or following > at
        seen += page
        at = following
    assert seen == sorted(set(seen))
    assert set(seen) <= set(whole)
    for index in set(whole) - set(seen):
        start, end = bounds[index]
        assert start == end
        assert [bounds[other][0] for other in seen].count(start) == most


@given(answers_drawn, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_tokens_that_no_frame_has_released_are_not_found(
    texts: list[str], released: int, first: int, length: int
) -> None:
    """Only tokens whose last byte is released are found. A released token stays so; the others are found after their
    release."""
    whole, answer = _answer_of(texts), Answer()
    for seq, text in enumerate(texts):
        answer.add(f"5-{seq}", Token(0, "1-0", seq, "answer", text, 0, 0))
    assert (answer.end, list(answer.overlapping(0, None)), list(answer.covering(0))) == (0, [], [])
    for position in (released, 0):
        answer.release(position)
        out = [index for index, (_, end) in enumerate(_all_bounds(whole)) if end <= released]
        assert list(answer.overlapping(0, None)) == out
        assert answer.end == (whole.bounds(out[-1])[1] if out else 0)
        last = first + length
        assert list(answer.overlapping(first, last)) == [i for i in whole.overlapping(first, last) if i in out]
        assert list(answer.covering(first)) == [index for index in whole.covering(first) if index in out]
    answer.release(1_000)
    assert _all_bounds(answer) == _all_bounds(whole)


def test_a_token_costs_24_bytes() -> None:
    """The largest session, six members of 8,192 tokens, takes 1.2 MB."""
    answer = _answer_of(["x"] * 8_192)
    kept = [getattr(answer, name) for name in ("_starts", "_ms", "_numbers")]
    assert sum(column.itemsize * len(column) for column in kept) == 24 * 8_192
