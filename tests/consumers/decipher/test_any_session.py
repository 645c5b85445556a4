"""The events of any session, as clients see them: what stands ends, no message contradicts itself, and a client that
connects late, reconnects or is slow knows in the end what one knows that received everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.numbers.interference import KIND_WINDOWS, Interference
from consumers.decipher.batches import BatchComposer, WorkCounts
from consumers.decipher.composer import Composer
from consumers.web.live.merging import merged_events
from consumers.web.live.snapshot import current_events, error_events
from schemas.events import (
    ENSEMBLE,
    EnergyField,
    EnergyUpdate,
    ErrorEvent,
    ErrorPayload,
    Event,
    FieldPayload,
    InterferenceEvent,
    InterferencePayload,
    ResonanceEvent,
    frame_number_of,
)
from schemas.frames import Frame, MemberFrame, encode_frame
from schemas.keys import entry_order, frame_id
from schemas.rules.interference import kind_of
from tests.consumers.decipher.test_decipher import FIRST_NUMBER, ORIGIN_NS
from tests.golden import golden_names
from tests.golden.test_sessions import frames_of
from tests.golden.test_sessions import opening_of as golden_opening
from tests.support.frames import made_frame
from tests.support.protocol import checked
from tests.support.sessions import opening_of
from transport.events import EventBatch, EventCheckpoint, WrittenBatch

NAMES = ("a", "b", "c")
AGREEMENTS = (None, 0.0, 0.1, 0.14, 0.15, 0.4, 0.5, 0.55, 0.6, 0.65, 0.9, 1.0)


class Stretch(msgspec.Struct, frozen=True):
    """Some windows with the same agreement, energy and states of the members, and a trouble in the first of them."""

    windows: int
    agreement: float | None
    energy: float = 0.5
    states: tuple[str, ...] = ("answering",) * 3
    dead_letters: int = 0
    tier: str = "mid"


def frames_from(stretches: Iterable[Stretch], *, is_final: bool = True) -> list[Frame]:
    """The frames, with the kinds and resonances that the core computes. All members end in the final one."""
    frames, interference = list[Frame](), Interference()
    ended = ["answering"] * len(NAMES)
    for stretch in stretches:
        ended = [
            before if before in ("finished", "dropped") else now
            for before, now in zip(ended, stretch.states, strict=True)
        ]
        for number in range(stretch.windows):
            frames.append(
                frame_of(len(frames), ended, stretch, interference, dead=0 if number else stretch.dead_letters)
            )
    if is_final:
        states = [state if state == "dropped" else "finished" for state in ended]
        frames.append(frame_of(len(frames), states, stretch, interference, dead=0, final=True))
    return frames


def frame_of(
    window: int, states: Sequence[str], stretch: Stretch, interference: Interference, dead: int, *, final: bool = False
) -> Frame:
    agreement, energies = stretch.agreement, [stretch.energy] * len(NAMES)
    members = tuple(
        MemberFrame(name, state, energy, 1.0, None, 9, 0, "", "", "it broke" if state == "dropped" else None)  # type: ignore[arg-type]
        for name, state, energy in zip(NAMES, states, energies, strict=True)
    )
    shown = interference.step(stretch.energy, energies, agreement)
    frame = made_frame(window, members, energy=stretch.energy, tier=stretch.tier, final=final, dead_letters=dead)
    frame = msgspec.structs.replace(frame, interference=shown)
    alignment = msgspec.structs.replace(frame.alignment, frontier_bytes=5)
    measures = msgspec.structs.replace(frame.measures, agreement=agreement)
    return msgspec.structs.replace(frame, alignment=alignment, measures=measures)


class Seen:
    """What a client knows by the rules of docs/protocol.md, from the messages that it received."""

    def __init__(self) -> None:
        self.energy: float | None = None
        self.field: FieldPayload | None = None
        self.interference: InterferencePayload | None = None
        self.resonance: tuple[str, ...] | None = None
        self.errors: list[ErrorPayload] = []

    def add(self, events: Iterable[Event]) -> Seen:
        for event in events:
            match event:
                case EnergyUpdate():
                    self.energy = event.payload.totalEnergy
                case EnergyField():
                    self.field, kind = event.payload, event.payload.fieldType
                    self.resonance = self.resonance if kind == "resonance" else None
                    self.interference = self.interference if kind in ("resonance", "interference") else None
                case InterferenceEvent():
                    # Neutral: nothing interferes.
                    self.interference = event.payload if event.payload.patternType != "neutral" else None
                case ResonanceEvent():
                    self.resonance = event.payload.participants
                case ErrorEvent():
                    self.errors.append(event.payload)
        return self

    @property
    def stands(self) -> tuple[Any, ...]:
        return self.energy, self.field, self.interference, self.resonance


def composed(
    names: tuple[str, ...], frames: list[Frame], lags: list[int], ending: str, restarts: set[int]
) -> list[tuple[EventBatch, list[tuple[int, Event]]]]:
    """The batches of a session, each with its events and their windows. `lags` are by how many frames DECIPHER is
    behind after its batches; after those in `restarts` another one continues. Without a final frame the session, or
    DECIPHER, fails at the end."""
    opening, found = opening_of(*names), list[tuple[EventBatch, list[tuple[int, Event]]]]()
    checkpoint, standing, errors, cursor = b"", dict[str, bytes](), list[Any](), "0-0"

    def keep(batch: EventBatch) -> None:
        nonlocal checkpoint, standing, errors, cursor
        assert batch.before == cursor
        checkpoint, standing, cursor = batch.checkpoint, dict(batch.standing), batch.after
        errors = errors if batch.errors is None else list(batch.errors)
        batch.errors = errors
        events = [(entry_order(entry_id)[0] - 1, checked(raw)) for entry_id, raw in batch.events]
        found.append((batch, events))  # type: ignore[arg-type]

    def loaded() -> BatchComposer:
        composer = Composer(opening, ORIGIN_NS, checkpoint)
        return BatchComposer(composer, EventCheckpoint(cursor, checkpoint, standing, errors), WorkCounts(), 7)

    composer, entries = loaded(), [(frame_id(frame.window_index), encode_frame(frame)) for frame in frames]
    while entries:
        # As many as a read returns.
        for batch in composer.batches(entries[:20]):
            keep(batch)
            lag = lags[len(found) % len(lags)]
            written = WrittenBatch(True, batch.after, entry_order(batch.after)[0] - 1 + lag)
            for _ in range(4):
                # So often in a row that it is an overload.
                composer.note(written)
        entries = [one for one in entries if entry_order(one[0]) > entry_order(cursor)]
        if len(found) in restarts:
            composer = loaded()
    if ending == "session":
        keep(composer.session_failed(len(frames) - 1, "it failed"))
    elif ending == "decipher":
        keep(composer.decipher_failed("it failed"))
    return found


def joined(batch: EventBatch, window: int) -> tuple[list[Event], int]:
    """What a client receives that connects after the batch, and has received the events up to `window`; and the last
    window of which it then has the events."""
    state = [event for event in current_events(batch.standing) if (frame_number_of(event) or 0) > FIRST_NUMBER + window]
    numbers = [number - FIRST_NUMBER for event in state if (number := frame_number_of(event)) is not None]
    return [*state, *error_events(batch.errors or [], window)], max([window, *numbers])


def check_messages(events: list[Event]) -> None:
    for event in events:
        if isinstance(event, InterferenceEvent):
            payload = event.payload
            assert kind_of(payload.coherenceScore) == payload.patternType
            assert payload.intensity == round(abs(2 * payload.coherenceScore - 1), 9)


def check_clients(batches: list[tuple[EventBatch, list[tuple[int, Event]]]], at: int, seen_until: int) -> None:
    """One client receives everything; others connect after batch `at`, reconnect there, or are slow from there on."""
    every = [pair for _, events in batches for pair in events]
    check_messages([event for _, event in every])
    full = Seen().add(event for _, event in every)
    assert full.field is not None
    assert full.field.fieldType == "lightning"
    assert full.stands[2:] == (None, None)
    assert {full.energy, full.field.intensity, *(one.energy for one in full.field.coordinates)} == {0.0}
    batch = batches[at][0]
    before = [pair for _, events in batches[: at + 1] for pair in events]
    after = [pair for _, events in batches[at + 1 :] for pair in events]
    then = Seen().add(event for _, event in before)
    late_events, last = joined(batch, -1)
    late = Seen().add(late_events)
    assert late.stands == then.stands
    assert late.errors == then.errors
    seen_until = min(seen_until, before[-1][0])
    resumed = Seen().add(event for window, event in before if window <= seen_until)
    missed, last = joined(batch, seen_until)
    assert resumed.add(missed).stands == then.stands
    for client in (late, resumed):
        client.add(event for window, event in after if window > last or frame_number_of(event) is None)
        assert client.stands == full.stands
        assert client.errors == full.errors
    slow = Seen().add(event for _, event in before).add(merged_events([event for _, event in after]) if after else [])
    assert slow.stands == full.stands
    merged = Seen().add(merged_events([event for _, event in before]))
    assert merged.stands == then.stands
    for client in (slow, merged.add(event for _, event in after)):
        assert {(error.code, error.message) for error in client.errors} == {
            (error.code, error.message) for error in full.errors
        }


states = st.tuples(
    *[st.sampled_from(["answering", "held", "thinking", "detached", "finished", "dropped"])] * len(NAMES)
)
# A resonance, an interference, and what ends them.
OFTEN = (Stretch(70, 1.0), Stretch(20, 0.1), Stretch(20, 0.5), Stretch(3, None))
stretches = st.one_of(
    st.sampled_from(OFTEN),
    st.builds(
        Stretch,
        st.sampled_from((1, 3, KIND_WINDOWS)),
        st.sampled_from(AGREEMENTS),
        st.sampled_from((0.1, 0.5, 0.9)),
        st.one_of(st.just(("answering",) * len(NAMES)), states),
        st.sampled_from((0, 0, 2)),
        st.sampled_from(("mid", "mid", "low")),
    ),
)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(stretches, min_size=1, max_size=5),
    st.lists(st.sampled_from([0, 0, 12, 40]), min_size=1, max_size=5),
    st.sampled_from(["final", "session", "decipher"]),
    st.sets(st.integers(1, 20)),
    st.integers(0, 1_000),
    st.integers(-1, 400),
)
def test_every_client_of_any_session_ends_with_the_same_state_in_which_nothing_stands(
    parts: list[Stretch], lags: list[int], ending: str, restarts: set[int], at: int, seen_until: int
) -> None:
    frames = frames_from(parts, is_final=ending == "final")
    batches = composed(NAMES, frames, lags, ending, restarts)
    check_clients(batches, at % len(batches), seen_until)


@pytest.mark.parametrize("name", golden_names())
def test_every_client_of_a_recorded_session_ends_with_the_same_state(name: str) -> None:
    frames = frames_of(name)
    batches = composed(golden_opening(name).names, frames, [0], "final", {5, 9})
    for at in (0, len(batches) // 2, len(batches) - 1):
        check_clients(batches, at, len(frames) // 3)


def events_from(frames: list[Frame], leaves_out: Callable[[Frame], bool] = lambda frame: False) -> list[Event]:
    """The events of a DECIPHER that leaves out the analysis of these frames."""
    composer, found = Composer(opening_of(*NAMES), ORIGIN_NS), list[Event]()
    for frame in frames:
        composer.add(frame)
        found += composer.compose(frame, lambda: 0.0, with_analysis=not leaves_out(frame))
    return found


def payloads(events: list[Event], kind: type) -> list[Any]:
    return [event.payload for event in events if isinstance(event, kind)]


def test_an_agreement_outside_the_band_of_the_kind_that_is_shown_is_not_sent() -> None:
    """neutral is shown for 17 windows in which the members agree already, and constructive for 17 in which they do not
    agree any more"""
    events = events_from(frames_from([Stretch(3, None), Stretch(40, 0.9), Stretch(40, 0.1)]))
    sent = [
        (event.frameNumber - FIRST_NUMBER, event.payload) for event in events if isinstance(event, InterferenceEvent)
    ]
    assert [(at, p.patternType, p.coherenceScore, p.intensity) for at, p in sent] == [
        (3 + 17, "constructive", 0.9, 0.8),
        (3 + 40 + 17, "destructive", 0.1, 0.8),
    ]
    fields = [event for event in events if isinstance(event, EnergyField)]
    assert [(e.frameNumber - FIRST_NUMBER, e.payload.fieldType) for e in fields if e.payload.fieldType != "stream"][
        :1
    ] == [(3 + 17, "interference")]


def test_a_move_of_the_coherence_by_0_05_within_a_type_is_sent_and_a_smaller_one_is_not() -> None:
    moves = [0.7, 0.74, 0.65, 0.69, 0.7, 0.9]
    parts = [Stretch(30, 0.7), *(Stretch(1, move) for move in moves)]
    coherences = [payload.coherenceScore for payload in payloads(events_from(frames_from(parts)), InterferenceEvent)]
    assert coherences == [0.7, 0.65, 0.7, 0.9]


def test_the_end_of_a_resonance_is_sent_where_there_is_no_time_for_analysis() -> None:
    parts = [Stretch(80, 1.0), Stretch(5, None), Stretch(30, 1.0)]
    events = events_from(frames_from(parts, is_final=False), lambda frame: frame.window_index > 75)
    assert [payload.fieldType for payload in payloads(events, EnergyField)] == [
        "stream", "interference", "resonance", "stream",
    ]  # fmt: skip
    assert len(payloads(events, ResonanceEvent)) == 1
    # The first field of a session ends that of the session which a client watched before.
    first = events_from(frames_from([Stretch(1, None)], is_final=False), lambda frame: True)
    assert [payload.fieldType for payload in payloads(first, EnergyField)] == ["stream"]


def test_a_session_without_a_frame_has_no_last_update() -> None:
    ((_, events),) = composed(NAMES, [], [0], "decipher", set())
    assert [type(event) for _, event in events] == [ErrorEvent]
    # A DECIPHER that cannot read the checkpoint of an earlier version ends what that one sent.
    closing = Composer(opening_of(*NAMES), ORIGIN_NS).close(7)
    assert [type(event) for event in closing] == [EnergyUpdate, EnergyField]


def test_of_each_code_the_newest_errors_are_kept_for_later_clients() -> None:
    """A hundred windows with entries that do not decode do not push out that a member was dropped."""
    dropped = ("answering", "answering", "dropped")
    parts = [Stretch(1, None, states=dropped), *[Stretch(1, None, states=dropped, dead_letters=1)] * 100]
    batches = composed(NAMES, frames_from(parts), [0], "final", {3})
    kept = [event.payload for event in error_events(batches[-1][0].errors or [], -1) if isinstance(event, ErrorEvent)]
    assert [error.code for error in kept] == ["MEMBER_DROPPED", *["DEAD_LETTERS"] * 32]
    assert kept[0].details == {"modelId": "c", "model": "c"}
    assert [error.window for error in (batches[-1][0].errors or [])[1:]] == list(range(69, 101))


def test_coordinates_are_in_the_members_order() -> None:
    composer, frame = Composer(opening_of(*NAMES), ORIGIN_NS), frames_from([Stretch(1, 0.5)], is_final=False)[0]
    members = tuple(msgspec.structs.replace(member, energy=index / 10) for index, member in enumerate(frame.members))
    composer.add(frame)
    (field,) = payloads(composer.compose(msgspec.structs.replace(frame, members=members), lambda: 0.0), EnergyField)
    assert [(one.x, one.y, one.energy) for one in field.coordinates] == [
        (0.0, 0.0, 0.0),
        (0.5, 0.1, 0.1),
        (1.0, 0.2, 0.2),
    ]
    assert field.modelId == ENSEMBLE
