"""A replay of frames as they are: what the web process reads of its members beside the frames."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from producers.replay.progress import RecordedProgress
from schemas.control import Progress, Steer
from schemas.entries import AnyEntry, Claim, Steered, Token, encode_entry
from schemas.frames import ConsensusFrame, Decision, Frame, MemberFrame
from schemas.sessions import Opening
from tests.support.frames import changed_frame, made_frame
from tests.support.sessions import opening_of
from transport.answers import Answers

CLAIMS = ("11-0", "12-0", "13-0")


def token(member: int, seq: int, text: str, branch: int = 0) -> Token:
    return Token(member, CLAIMS[member], seq, "answer", text, 1, 1, branch=branch)


def stream_of(*entries: AnyEntry) -> list[tuple[str, bytes]]:
    """Three claims, and then these entries; the first one has the id 14-0."""
    claims = (Claim(0, 0), Claim(1, 0), Claim(2, 0))
    return [(f"{11 + place}-0", encode_entry(entry)) for place, entry in enumerate((*claims, *entries))]


def frame_of(window: int, cut: str, agreed: str, ends: Sequence[int], *decisions: Decision) -> Frame:
    members = tuple(MemberFrame("m", "answering", 0.0, 0.0, None, end, 0, "", "", None) for end in ends)
    frame = made_frame(window, members, cut=cut, mode="consensus")
    return changed_frame(frame, consensus=ConsensusFrame(agreed, decisions))


def council() -> Opening:
    return msgspec.structs.replace(opening_of("a", "b", "c"), sync="consensus")


def texts_at(stream: list[tuple[str, bytes]], frame: Frame, progress: tuple[Progress, ...]) -> list[str]:
    """The answers of a replay that shows this frame, and has written the entries up to its cut."""
    answers = Answers(council(), "10-0")
    answers.add_entries([entry for entry in stream if int(entry[0][:2]) <= int(frame.cut[:2])], progress)
    return answers.texts(frame)[0]


def test_a_member_that_went_on_otherwise_within_the_word_is_steered_too() -> None:
    """Drafts that part twice: " gr" wins against " s", and the leader's word is " grass". Member 0 is not in `against`,
    but its " green" is not agreed either. The stream goes on with what belongs to later frames."""
    stream = stream_of(
        token(0, 0, "The"), token(1, 0, "The"), token(2, 0, "The"), token(0, 1, " gr"), token(1, 1, " gr"),
        token(2, 1, " sky"), token(0, 2, "een"), token(1, 2, "ass"), Steered(0, 1, 6, "ass", 2),
        Steered(2, 1, 3, " grass", 1), token(0, 0, " is", branch=1), token(2, 0, " was", branch=1),
        Steered(2, 2, 9, " is", 0),
    )  # fmt: skip
    progress = RecordedProgress(council())
    for entry in stream:
        progress.add(*entry)
    decisions = (Decision(0, 3, "unanimous"), Decision(3, 9, "certain", 1, 0.8, " s", 0.2, None, (2,)))
    frame = frame_of(0, "21-0", "The grass", (9, 9, 9), *decisions)
    accepted = progress.at(frame)
    assert accepted == (
        Progress(CLAIMS[0], 0, False, None, 1, Steer(6, 9, "ass")),
        Progress(CLAIMS[1], 3, False),
        Progress(CLAIMS[2], 0, False, None, 1, Steer(4, 9, "grass")),
    )
    assert texts_at(stream, frame, accepted) == ["The grass"] * 3
    # The marks come behind the next cut as well: of member 0 before it, of member 2 after it.
    accepted = progress.at(frame_of(1, "22-0", "", (9, 9, 9)))
    assert accepted[0] == Progress(CLAIMS[0], 0, False, None, 1, Steer(6, 9, "ass"))
    assert accepted[2] == Progress(CLAIMS[2], 0, False, None, 1, Steer(4, 9, "grass"))
    accepted = progress.at(frame_of(2, "25-0", "", (9, 9, 9)))
    assert accepted[0] == Progress(CLAIMS[0], 1, False, None, 1, Steer(6, 9, "ass"))
    assert accepted[2] == Progress(CLAIMS[2], 1, False, None, 1, Steer(3, 9, " grass"))
