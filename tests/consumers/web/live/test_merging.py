"""Merged packets for slow clients: the newest numbers, and every byte of text."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from consumers.web.live.merging import merged_events, merged_frame
from consumers.web.live.packets import (
    EventPacket,
    FramePacket,
    event_packets,
    http_chunk,
    merged_event_packet,
    merged_frame_packet,
    packed_event,
    server_sent,
    websocket_text,
)
from schemas.events import (
    Coordinate,
    EnergyField,
    EnergyPayload,
    EnergyUpdate,
    ErrorEvent,
    ErrorPayload,
    Event,
    FieldPayload,
    InterferenceEvent,
    InterferencePayload,
    ResonanceEvent,
    ResonancePayload,
    TokenStream,
    TokenStreamPayload,
    encode_event,
    frame_number_of,
)
from schemas.frames import (
    ConsensusFrame,
    Decision,
    Frame,
    MemberFrame,
    MixtureSpan,
    MixtureText,
    TokenFrame,
    WindowCounts,
    encode_frame,
)
from tests.support.frames import changed_frame, made_frame

MODELS = ("one", "two")


def frame_of(window: int, texts: tuple[str, ...], thinking: str = "", energy: float = 0.5) -> Frame:
    members = tuple(
        MemberFrame(model, "answering", energy, 3.0, None, 5, 0, text, thinking, None)
        for model, text in zip(MODELS, texts, strict=True)
    )
    tokens = tuple(TokenFrame(i, "answer", window, 0, 1, None, "missing") for i, text in enumerate(texts) if text)
    return made_frame(window, members, tokens, energy=energy, late=1, dead_letters=2)


def test_a_merged_frame_of_a_council_has_the_agreed_text_and_the_decisions_of_all() -> None:
    parting = Decision(2, 4, "certain", 0, 0.6, "no", 0.4, 0.5, (1,))
    parts = [
        ConsensusFrame("ab", (Decision(0, 2, "unanimous"),)), ConsensusFrame("cd", (parting,)), ConsensusFrame("", ()),
        ConsensusFrame("e", (Decision(4, 5, "unanimous"),)), ConsensusFrame("f", (Decision(5, 6, "unanimous"),)),
    ]  # fmt: skip
    frames = [
        changed_frame(frame_of(n, ("", "")), consensus=part, superseded=n, mode="consensus")
        for n, part in enumerate(parts)
    ]
    merged = merged_frame(frames)
    whole = ConsensusFrame("abcdef", (Decision(0, 2, "unanimous"), parting, Decision(4, 6, "unanimous")))
    assert (merged.consensus, merged.counts.superseded) == (whole, 10)
    # A frame of a viewer that is still behind is merged again.
    assert merged_frame([merged_frame(frames[:4]), frames[4]]) == merged


def test_a_merged_frame_has_the_mixture_of_all() -> None:
    spans = [MixtureSpan(0, 2, 0.5, (MixtureText("ab", 0.5),)), MixtureSpan(2, 3), MixtureSpan(3, 4, 0.25)]
    parts = [
        ConsensusFrame("ab", (), tuple(spans[:1])),
        ConsensusFrame("", (), ()),
        ConsensusFrame("cd", (), tuple(spans[1:])),
    ]
    frames = [changed_frame(frame_of(n, ("", "")), consensus=part) for n, part in enumerate(parts)]
    assert merged_frame(frames).consensus == ConsensusFrame("abcd", (), tuple(spans))
    assert merged_frame([merged_frame(frames[:2]), frames[2]]) == merged_frame(frames)


texts = st.tuples(st.text(max_size=4), st.text(max_size=4))


@given(st.lists(st.tuples(texts, st.text(max_size=3), st.floats(0, 1)), min_size=1, max_size=12))
def test_a_merged_frame_is_the_newest_with_the_text_and_the_counts_of_all(
    windows: list[tuple[tuple[str, str], str, float]],
) -> None:
    frames = [frame_of(window, text, thinking, energy) for window, (text, thinking, energy) in enumerate(windows)]
    merged, newest = merged_frame(frames), frames[-1]
    assert [m.text for m in merged.members] == ["".join(f.members[i].text for f in frames) for i in (0, 1)]
    assert [m.thinking for m in merged.members] == ["".join(f.members[i].thinking for f in frames) for i in (0, 1)]
    assert merged.tokens == tuple(token for frame in frames for token in frame.tokens)
    assert merged.counts == WindowCounts(len(frames), 0, 2 * len(frames))
    # All else is the newest frame's.
    restored = tuple(
        msgspec.structs.replace(member, text=last.text, thinking=last.thinking)
        for member, last in zip(merged.members, newest.members, strict=True)
    )
    assert newest == msgspec.structs.replace(merged, members=restored, tokens=newest.tokens, counts=newest.counts)


@given(st.lists(texts, min_size=1, max_size=12), st.integers(0, 12))
def test_merging_frames_in_steps_gives_the_same_as_merging_all_at_once(
    windows: list[tuple[str, str]], cut: int
) -> None:
    packets = [FramePacket(window, encode_frame(frame_of(window, text))) for window, text in enumerate(windows)]
    first, last = packets[:cut], packets[cut:]
    if first and last:
        steps = merged_frame_packet([merged_frame_packet(first), *last])
        at_once = merged_frame_packet(packets)
        assert (steps.frame, steps.count, steps.window) == (at_once.frame, at_once.count, at_once.window)


def energy(number: int, delta: float = 0.1, tokens: int = 1) -> EnergyUpdate:
    return EnergyUpdate(number * 17, number, EnergyPayload(0.5 + number / 100, delta, tokens, 0.1, "ensemble"))


def field(number: int, kind: str) -> EnergyField:
    return EnergyField(number * 17, number, FieldPayload(kind, 0.5, (Coordinate(0, 0.5, 0.5),), "ensemble"))  # type: ignore[arg-type]


def text(model: str, *tokens: str, is_complete: bool = False) -> TokenStream:
    return TokenStream(1, TokenStreamPayload(tokens, is_complete, "s", model))


def resonance(number: int) -> ResonanceEvent:
    return ResonanceEvent(number * 17, number, ResonancePayload("fundamental", 3.0, 0.9, MODELS))


def interference(number: int) -> InterferenceEvent:
    return InterferenceEvent(number * 17, number, InterferencePayload("destructive", MODELS, 0.8, 0.1))


def error(code: str, message: str) -> ErrorEvent:
    return ErrorEvent(1, ErrorPayload("warning", code, message, "decipher"))


def test_merged_events_are_those_of_the_newest_frame_in_their_order() -> None:
    """Events of earlier frames that still hold have the newest frame number, because numbers never fall."""
    merged = merged_events(
        [
            energy(3, 0.1, 2), field(3, "stream"), text("one", "The", " sky"), error("A", "x"),
            energy(4, -0.3, 0), interference(4), error("A", "x"), error("A", "y"),
            energy(5, 0.1, 3), text("one", " is"), text("two", "No", is_complete=True),
        ]
    )  # fmt: skip
    assert [event.__struct_config__.tag for event in merged] == [
        "energy_update", "energy_field", "interference_event", "token_stream", "token_stream", "error_event",
        "error_event",
    ]  # fmt: skip
    assert [number for event in merged if (number := frame_number_of(event)) is not None] == [5, 5, 5]
    first = merged[0]
    assert isinstance(first, EnergyUpdate)
    assert (first.payload.totalEnergy, first.payload.deltaEnergy, first.payload.tokensGenerated) == (0.55, -0.1, 5)
    streams = [event.payload for event in merged if isinstance(event, TokenStream)]
    assert [(s.modelId, s.tokens, s.isComplete) for s in streams] == [
        ("one", ("The", " sky", " is"), False),
        ("two", ("No",), True),
    ]
    assert [event.payload.message for event in merged if isinstance(event, ErrorEvent)] == ["x", "y"]


def test_a_resonance_that_has_ended_is_left_out_of_merged_events() -> None:
    lasting = merged_events([energy(1), field(1, "resonance"), resonance(1), energy(2)])
    assert any(isinstance(event, ResonanceEvent) for event in lasting)
    over = merged_events([energy(1), field(1, "resonance"), resonance(1), energy(2), field(2, "stream")])
    assert not any(isinstance(event, ResonanceEvent) for event in over)


def test_merged_events_keep_the_newest_of_a_thousand_different_errors() -> None:
    merged = merged_events([energy(1), *(error("A", str(number)) for number in range(1_000))])
    kept = [event.payload.message for event in merged if isinstance(event, ErrorEvent)]
    assert kept == [str(number) for number in range(968, 1_000)]


def packet_of(window: int, *events: Event) -> EventPacket:
    packed = [packed_event(f"{window + 1}-{n}", event, encode_event(event)) for n, event in enumerate(events)]
    return EventPacket(window, packed)


def test_only_the_last_of_merged_events_has_an_id() -> None:
    """A client that continued from an id in the middle would receive events again."""
    merged = merged_event_packet([packet_of(7, energy(7), text("one", "a")), packet_of(8, energy(8), text("one", "b"))])
    assert (merged.window, merged.count) == (8, 2)
    assert [event.event_id for event in merged.events] == [None, "9-1"]
    again = merged_event_packet([merged, packet_of(9, energy(9))])
    assert [event.event_id for event in again.events] == [None, "10-0"]
    assert server_sent(merged.events).count(b"id: ") == 1


def test_entries_are_grouped_by_window_and_invalid_ones_are_counted() -> None:
    entries = [
        ("5-0", encode_event(energy(4))), ("5-1", encode_event(text("one", "a"))), ("6-0", b'{"type":"reward_event"}'),
        ("6-1", b"\xff"), ("7-0", encode_event(energy(6))),
    ]  # fmt: skip
    packets, invalid = event_packets(entries)
    assert [(packet.window, len(packet.events)) for packet in packets] == [(4, 2), (6, 1)]
    assert invalid == 2


def test_a_server_sent_event_has_its_id_and_type_and_its_data_on_one_line() -> None:
    event = text("one", "two\nlines\r")
    assert server_sent([packed_event("5-1", event, encode_event(event))]) == (
        b"id: 5-1\nevent: token_stream\ndata: " + encode_event(event) + b"\n\n"
    )
    assert b"two\\nlines\\r" in encode_event(event)
    assert http_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@given(st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000]))
def test_the_header_of_a_websocket_message_contains_its_length(size: int) -> None:
    message = websocket_text(b"x" * size)
    assert message[0] == 0x81
    lengths = {126: (2, 4), 127: (2, 10)}
    first, last = lengths.get(message[1], (1, 2))
    assert int.from_bytes(message[first:last], "big") == size == len(message) - last
