"""The protocol of a council that writes one answer: its text once, under `ensemble`, and the ends of its members."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from consumers.decipher.composer import Composer
from consumers.web.live.merging import merged_events
from consumers.web.live.snapshot import text_events
from schemas.events import ENSEMBLE, Event, TokenStream, encode_event
from schemas.frames import ConsensusFrame, Frame, MemberFrame
from tests.support.frames import changed_frame, made_frame
from tests.support.protocol import checked
from tests.support.sessions import opening_of

NAMES = ("a", "b")


def frame_of(window: int, agreed: str, end: int, *states: str, final: bool = False) -> Frame:
    """Both members are released up to the byte `end`; `states` are theirs, where they have ended."""
    shown = [*states, *["answering"] * (2 - len(states))]
    members = tuple(
        MemberFrame(name, state, 0.5, 1.0, None, end, 0, agreed, "", None)  # type: ignore[arg-type]
        for name, state in zip(NAMES, shown, strict=True)
    )
    frame = made_frame(window, members, mode="consensus", final=final)
    return changed_frame(frame, consensus=ConsensusFrame(agreed, ()))


FRAMES = [
    frame_of(0, "The", 3), frame_of(1, "", 3), frame_of(2, " sky", 7, "dropped"), frame_of(3, ".", 8, "dropped"),
    frame_of(4, "", 8, "dropped", "finished", final=True),
]  # fmt: skip


def streams(events: list[Event]) -> list[tuple[str, tuple[str, ...], bool]]:
    """(modelId, tokens, isComplete) of each token_stream."""
    found = [event.payload for event in events if isinstance(event, TokenStream)]
    return [(one.modelId, one.tokens, one.isComplete) for one in found]


def composed(frames: list[Frame]) -> list[list[Event]]:
    composer, events = Composer(opening_of(*NAMES), 0), []
    for frame in frames:
        composer.add(frame)
        events.append(composer.compose(frame, lambda: 0.5))
        assert all(checked(encode_event(event)) == event for event in events[-1])
    return events


def test_the_agreed_text_is_that_of_the_ensemble_and_members_have_their_ends_alone() -> None:
    assert [streams(events) for events in composed(FRAMES)] == [
        [(ENSEMBLE, ("The",), False)],
        [],
        [(ENSEMBLE, (" sky",), False), ("a", (), True)],
        [(ENSEMBLE, (".",), False)],
        [(ENSEMBLE, (), True), ("b", (), True)],
    ]


@given(st.integers(1, 4))
def test_events_that_are_merged_and_frames_that_are_composed_together_have_the_same_text(cut: int) -> None:
    """For a slow client, and for a DECIPHER that is behind."""
    merged = streams(merged_events([event for events in composed(FRAMES)[:cut] for event in events]))
    assert "".join(merged[0][1]) == "".join(frame.consensus.agreed or "" for frame in FRAMES[:cut])
    composer = Composer(opening_of(*NAMES), 0)
    for frame in FRAMES[:cut]:
        composer.add(frame)
    assert streams(composer.compose(FRAMES[cut - 1], lambda: 0.5)) == merged


def test_a_client_that_connects_receives_the_agreed_text_and_one_that_reconnects_the_rest() -> None:
    last, texts = FRAMES[-1], ["The sky", "The sky."]
    assert streams(text_events(last, 0, texts)) == [(ENSEMBLE, ("The sky.",), True), ("a", (), True), ("b", (), True)]
    known = FRAMES[2]
    rest = text_events(last, 0, texts, known, ["The sky", "The sky"])
    assert streams(rest) == [(ENSEMBLE, (".",), True), ("b", (), True)]
    # After the end there is nothing left.
    assert text_events(last, 0, texts, last, texts) == []


def test_a_session_without_consensus_has_its_members_texts_after_one_with_it() -> None:
    free = msgspec.structs.replace(frame_of(0, "Hi", 2), consensus=ConsensusFrame())
    assert streams(composed([free])[0]) == [("a", ("Hi",), False), ("b", ("Hi",), False)]
    assert streams(text_events(free, 0, ["Hi", "Ho"])) == [("a", ("Hi",), False), ("b", ("Ho",), False)]
