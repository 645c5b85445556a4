"""DECIPHER: events are composed from frames, each once, whatever happens to the process."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.decipher.composer import Composer
from consumers.decipher.pieces import pieces
from schemas import keys
from schemas.errors import RedisRefuses, SessionGone
from schemas.events import (
    ENSEMBLE,
    EnergyField,
    EnergyUpdate,
    ErrorEvent,
    Event,
    InterferenceEvent,
    ResonanceEvent,
    SentError,
    TokenStream,
    encode_event,
    protocol_model_ids,
)
from schemas.frames import Frame, MemberFrame, TokenFrame, decode_frame
from schemas.grid import window_index_at, window_start_ns
from schemas.sessions import Opening
from tests.golden import golden, golden_names
from tests.golden.test_sessions import frames_of
from tests.golden.test_sessions import opening_of as golden_opening
from tests.support.frames import made_frame
from tests.support.protocol import checked, events_of, numbers_of, texts_by_model, without_end
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles
from tests.support.scripted_sessions import FrameWriter
from tests.support.sessions import committed_frames, opening_of, until_ended, written_texts
from tests.support.waiting import until
from transport.commit import end_session
from transport.events import EventBatch, WrittenBatch, find_composed, read_checkpoint, write_events
from transport.redis.connection import AsyncPipe, Pipe
from transport.sessions import find_session, open_session, read_opening

ORIGIN_NS = window_start_ns(60 * 1_700_000_000)
FIRST_NUMBER = 60 * 1_700_000_000


def member_of(text: str = "", state: str = "answering", **said: Any) -> MemberFrame:
    size = len(text.encode())
    member = MemberFrame("llama3:8b", state, 0.25, 3.0, None, size, 0, text, "", None)  # type: ignore[arg-type]
    return msgspec.structs.replace(member, **said)


def frame_of(window: int, members: tuple[MemberFrame, ...], **said: Any) -> Frame:
    """A frame of free members, with a token of each member that has text."""
    tokens = tuple(
        TokenFrame(index, "answer", window, 0, member.position_bytes, None, "missing")
        for index, member in enumerate(members)
        if member.text
    )  # fmt: skip
    return made_frame(window, members, tokens, **{"energy": 0.25, "tier": "mid"} | said)


def composer_of(*models: str) -> Composer:
    return Composer(opening_of(*models), ORIGIN_NS)


def events_composed(composer: Composer, frame: Frame, elapsed_ms: float = 0.5) -> list[Event]:
    """The frame's events. Each is valid for the protocol."""
    composer.add(frame)
    events = composer.compose(frame, lambda: elapsed_ms)
    for event in events:
        assert checked(encode_event(event)) == event
    return events


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event.payload for event in events if isinstance(event, kind)]


# --- what a frame becomes ---------------------------------------------------------------------------------------------


def test_a_frame_becomes_the_events_of_the_protocol() -> None:
    composer = composer_of("llama3:8b")
    first = events_composed(composer, frame_of(0, (member_of("Hi"),)))
    assert [msgspec.json.decode(encode_event(event)) for event in first] == [
        {
            "type": "energy_update", "channel": "energy", "timestamp": 1_700_000_000_016, "frameNumber": FIRST_NUMBER,
            "payload": {
                "totalEnergy": 0.25, "deltaEnergy": 0.25, "tokensGenerated": 1, "processingTime": 0.5,
                "modelId": "ensemble",
            },
        },
        {
            "type": "energy_field", "channel": "energy", "timestamp": 1_700_000_000_016, "frameNumber": FIRST_NUMBER,
            "payload": {
                "fieldType": "lightning", "intensity": 0.25, "coordinates": [{"x": 0.0, "y": 0.25, "energy": 0.25}],
                "modelId": "ensemble",
            },
        },
        {
            "type": "token_stream", "channel": "experience", "timestamp": 1_700_000_000_016,
            "payload": {"tokens": ["Hi"], "isComplete": False, "sessionId": "s", "modelId": "llama3-8b"},
        },
    ]  # fmt: skip
    quiet = events_composed(composer, frame_of(1, (member_of(position_bytes=2),), energy=0.245))
    assert [type(event) for event in quiet] == [EnergyUpdate]
    assert of_kind(quiet, EnergyUpdate)[0].deltaEnergy == -0.005
    complete = events_composed(composer, frame_of(2, (member_of("", "finished"),)))
    assert [payload.isComplete for payload in of_kind(complete, TokenStream)] == [True]
    assert of_kind(events_composed(composer, frame_of(3, (member_of("", "finished"),))), TokenStream) == []


def test_a_frame_that_takes_longer_than_it_lasts_has_an_error_event() -> None:
    events = events_composed(composer_of("a"), frame_of(0, (member_of(),)), elapsed_ms=20.5)
    assert of_kind(events, EnergyUpdate)[0].processingTime == 16.67
    (error,) = of_kind(events, ErrorEvent)
    assert (error.code, error.severity, error.component, error.recoverable) == (
        "FRAME_OVERRUN", "warning", "decipher", True,
    )  # fmt: skip
    assert error.details == {"elapsedMs": 20.5, "frameNumber": FIRST_NUMBER}


def test_model_ids_are_of_the_protocol_and_all_different() -> None:
    assert protocol_model_ids(("llama3:8b", "llama3-8b", "a/b c", "ü")) == ("llama3-8b", "llama3-8b_2", "a-b-c", "-")
    assert protocol_model_ids(("ensemble", "ensemble")) == ("ensemble_2", "ensemble_3")


@given(st.lists(st.text(st.sampled_from("aé日🙂 \n"), max_size=4), max_size=8), st.data())
def test_the_pieces_of_a_text_end_where_its_tokens_end_and_are_complete(texts: list[str], data: st.DataObject) -> None:
    """Any tokens, of any bytes a character; any part of them released before, and any part still waiting."""
    whole = "".join(texts).encode()
    stripped = whole.lstrip(b" \n")
    space = len(whole) - len(stripped)
    ends, at = [], 0
    for text in texts:
        at += len(text.encode())
        ends.append(max(0, at - space))
    boundaries = [n for n in range(len(stripped) + 1) if n == len(stripped) or stripped[n] & 0xC0 != 0x80]
    first, last = sorted((data.draw(st.sampled_from(boundaries)), data.draw(st.sampled_from(boundaries))))
    released = whole[space + first if first else 0 : space + last]
    tokens = [
        TokenFrame(0, "answer", seq, 0, end, None, "missing") for seq, end in enumerate(ends) if first <= end <= last
    ]
    member = member_of(released.decode(), position_bytes=last)
    found = pieces(member, tokens)
    assert "".join(found) == released.decode()
    assert all(found)
    cuts = {end for end in ends if first < end < last}
    assert len(found) == (len(cuts) + 1 if released else 0)


def test_field_and_pattern_of_compared_members_are_sent_when_they_change() -> None:
    """neutral | destructive | 17 windows the same | energies move | a third joins | nobody is compared any more"""
    composer = composer_of("a", "b", "c")
    both = (member_of(model="a", position_bytes=9), member_of(model="b", position_bytes=9))
    silent = member_of(model="c", state="thinking", position_bytes=0)
    compared: dict[str, Any] = {"frontier_bytes": 5, "agreement": 0.5, "agreement_source": "logprobs"}
    first = events_composed(composer, frame_of(0, (*both, silent), **compared))
    assert of_kind(first, EnergyField)[0].fieldType == "stream"
    assert [(p.patternType, p.models) for p in of_kind(first, InterferenceEvent)] == [("neutral", ("a", "b"))]
    parted = compared | {"agreement": 0.1, "interference": "destructive"}
    events = events_composed(composer, frame_of(1, (*both, silent), **parted))
    (pattern,) = of_kind(events, InterferenceEvent)
    assert (pattern.patternType, pattern.models, pattern.intensity, pattern.coherenceScore) == (
        "destructive", ("a", "b"), 0.8, 0.1,
    )  # fmt: skip
    (field,) = of_kind(events, EnergyField)
    assert (field.fieldType, field.intensity) == ("interference", 0.8)
    assert [(c.x, c.y) for c in field.coordinates] == [(0.0, 0.25), (0.5, 0.25), (1.0, 0.25)]
    for window in range(2, 19):
        again = events_composed(composer, frame_of(window, (*both, silent), **parted | {"agreement": 0.104}))
        assert [type(event) for event in again] == [EnergyUpdate]
    livelier = (msgspec.structs.replace(both[0], energy=0.26), both[1])
    events = events_composed(composer, frame_of(19, (*livelier, silent), **parted))
    assert [type(event) for event in events] == [EnergyUpdate, EnergyField]
    third = msgspec.structs.replace(silent, state="answering", position_bytes=9)
    events = events_composed(composer, frame_of(20, (*livelier, third), **parted))
    assert [payload.models for payload in of_kind(events, InterferenceEvent)] == [("a", "b", "c")]
    events = events_composed(composer, frame_of(21, (*livelier, third)))
    assert of_kind(events, InterferenceEvent) == []
    assert of_kind(events, EnergyField)[0].fieldType == "stream"
    assert "interference_event" in composer.over


def test_a_resonance_is_sent_once_with_how_often_the_frontier_moved_while_it_built_up() -> None:
    """The frontier moves in every sixth window: ten times a second. Resonance is shown in the 48th."""
    composer = composer_of("a", "b")
    found: list[ResonanceEvent] = []
    for window in range(120):
        x = window // 6
        members = (member_of(model="a", position_bytes=x + 3), member_of(model="b", position_bytes=x + 3))
        said: dict[str, Any] = {"frontier_bytes": x, "agreement": 1.0, "interference": "constructive", "wave": 0.9}
        frame = frame_of(window, members, resonance=47 <= window < 100, **said)
        events = events_composed(composer, frame)
        found += [event for event in events if isinstance(event, ResonanceEvent)]
        kinds = [payload.fieldType for payload in of_kind(events, EnergyField)]
        assert kinds == {0: ["interference"], 47: ["resonance"], 100: ["interference"]}.get(window, [])
        assert ("resonance_event" in composer.over) == (not frame.interference.resonance)
    (event,) = found
    assert event.frameNumber == FIRST_NUMBER + 47
    payload = event.payload
    assert (payload.resonanceType, payload.participants, payload.amplitude) == ("fundamental", ("a", "b"), 0.9)
    assert payload.frequency == pytest.approx(10.0, abs=1.3)


def test_each_trouble_is_sent_once_with_a_code_and_a_sentence() -> None:
    composer = composer_of("a", "b")
    one, other = member_of(model="a"), member_of(model="b")
    dropped = msgspec.structs.replace(one, state="dropped", reason="the server refused: " + "x" * 2_000)
    stopped = msgspec.structs.replace(other, state="dropped", reason="cancelled")
    assert of_kind(events_composed(composer, frame_of(0, (one, other))), ErrorEvent) == []
    errors = of_kind(events_composed(composer, frame_of(1, (dropped, other), tier="low", dead_letters=3)), ErrorEvent)
    assert [(e.code, e.severity, e.component, e.recoverable) for e in errors] == [
        ("MEMBER_DROPPED", "warning", "model", True),
        ("TIER_FELL", "warning", "orchestrator", True),
        ("DEAD_LETTERS", "warning", "orchestrator", True),
    ]
    assert errors[0].message.startswith("a: the server refused: xxx")
    assert len(errors[0].message) == 1_000
    assert errors[0].details == {"modelId": "a", "model": "a"}
    assert errors[2].details == {"count": 3}
    (last,) = of_kind(events_composed(composer, frame_of(2, (dropped, stopped), tier="low", final=True)), ErrorEvent)
    assert (last.code, last.severity, last.recoverable, last.message) == (
        "MEMBER_DROPPED",
        "info",
        False,
        "b: cancelled",
    )


# --- exactly once -----------------------------------------------------------------------------------------------------


def composed(
    opening: Opening, origin_ns: int, frames: list[Frame], *, reloads: bool = False
) -> list[tuple[str, Event]]:
    """The events of an undisturbed DECIPHER; with `reloads` another one continues after each frame."""
    composer, found = Composer(opening, origin_ns), list[tuple[str, Event]]()
    for frame in frames:
        if reloads:
            composer = Composer(opening, origin_ns, composer.dump())
        composer.add(frame)
        events = composer.compose(frame, lambda: 0.0)
        found += [(f"{frame.window_index + 1}-{n}", event) for n, event in enumerate(events)]
    end = frames[-1].window_index + 1
    return [*found, *((f"{end + 1}-{n}", event) for n, event in enumerate(composer.close(end)))]


def without_time(events: list[tuple[str, Event]]) -> list[tuple[str, Event]]:
    """The events without how long composing took."""
    return [
        (entry_id, msgspec.structs.replace(event, payload=msgspec.structs.replace(event.payload, processingTime=0.0)))
        if isinstance(event, EnergyUpdate)
        else (entry_id, event)
        for entry_id, event in events
    ]


@pytest.mark.parametrize("name", golden_names())
def test_another_decipher_continues_from_a_checkpoint_with_the_same_events(name: str) -> None:
    """Frames of real models, with another DECIPHER after each."""
    opening, frames = golden_opening(name), frames_of(name)
    origin_ns = ORIGIN_NS
    events = composed(opening, origin_ns, frames)
    assert composed(opening, origin_ns, frames, reloads=True) == events
    said = texts_by_model([event for _, event in events])
    names = protocol_model_ids(tuple(member.model for member in opening.members))
    if opening.sync == "consensus":
        # Members have no text of their own.
        assert said == {**dict.fromkeys(names, ""), ENSEMBLE: "".join(frame.consensus.agreed or "" for frame in frames)}
        names = ()
    for index, model in enumerate(names):
        assert said.get(model, "") == "".join(frame.members[index].text for frame in frames)
    assert len({entry_id for entry_id, _ in events}) == len(events)
    for _, event in events:
        assert checked(encode_event(event)) == event


def test_the_resonance_of_twins_is_sent() -> None:
    """Two of one model that write the same text."""
    assert "twins" in golden_names()
    events = [event for _, event in composed(golden_opening("twins"), ORIGIN_NS, frames_of("twins"))]
    resonances = of_kind(events, ResonanceEvent)
    frames = frames_of("twins")
    assert sum(b and not a for a, b in pairwise(frame.interference.resonance for frame in frames)) == 1
    # Once when it begins; and when one of the three has ended, with the two that are left.
    assert [payload.participants for payload in resonances] == [("left", "right", "other"), ("left", "right")]
    assert all(payload.frequency > 0 for payload in resonances)
    assert golden("twins").entries


async def test_every_frame_is_composed_once_though_decipher_is_killed(roles: Roles, pipe: AsyncPipe) -> None:
    """Two DECIPHERs; the owner may be killed in mid-session, and a third one starts: no event twice, none missing, and
    all as an undisturbed DECIPHER writes them."""
    roles.ready("aggregator")
    for model in ("word-3", "char-6"):
        roles.ready("producers", f"ngram:{model}", "--tokens-per-s", "60")
    first = roles.ready("consumers.decipher")
    roles.ready("consumers.decipher")
    opening = opening_of("ngram:word-3", "ngram:char-6", max_tokens=150)
    await open_session(pipe, opening)

    async def is_composed(window: int) -> bool:
        return keys.entry_order((await find_session(pipe, opening.session)).decipher)[0] > window

    await until(lambda: is_composed(40), "DECIPHER has composed some frames")
    first.kill()
    roles.start("consumers.decipher")
    state = await until_ended(pipe, opening.session)
    await until(lambda: is_composed(state.window), "DECIPHER has composed every frame")
    frames = [decode_frame(raw) for _, raw in await committed_frames(pipe, opening.session)]
    events = await events_of(pipe, opening.session)
    expected = composed(await read_opening(pipe, state), state.origin_ns, frames)
    assert without_time(events) == without_time(expected)
    numbers = numbers_of([event for _, event in events])
    assert numbers == sorted(numbers)
    origin = window_index_at(state.origin_ns)
    before_end = without_end([event for _, event in events])
    assert [e.frameNumber for e in before_end if isinstance(e, EnergyUpdate)] == list(
        range(origin, origin + len(frames))
    )
    said = texts_by_model([event for _, event in events])
    written = await written_texts(pipe, opening.session)
    names = protocol_model_ids(tuple(member.model for member in opening.members))
    assert said == {name: written[member] for member, name in enumerate(names)}
    found = await find_composed(pipe, opening.session)
    assert (found.phase, found.is_over, found.window) == ("DRAINED", True, state.window)
    last = max((event for _, event in events if isinstance(event, EnergyUpdate)), key=lambda event: event.frameNumber)
    assert checked(found.standing["energy_update"]) == last


async def test_a_session_that_fails_has_one_error_event_after_its_end(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    """frames 0 1 2 | the aggregator ends the session with a reason and no final frame | another DECIPHER starts"""
    recorder = FrameWriter(redis)
    recorder.announce()
    recorder.write(3)
    redis.run("HSET", keys.state(recorder.session), "window", 2)
    first = roles.ready("consumers.decipher")
    with contextlib.closing(Pipe(redis.url)) as direct:
        direct.run([end_session(recorder.session, 0, "The session cannot be computed.")])

    async def is_over() -> bool:
        return (await find_composed(pipe, recorder.session)).is_over

    await until(is_over, "DECIPHER says its last word")
    first.kill()
    roles.ready("consumers.decipher")
    events = await events_of(pipe, recorder.session)
    assert [entry_id for entry_id, _ in events[-3:]] == ["4-0", "4-1", "4-2"]
    without_end([event for _, event in events])
    event = events[-1][1]
    assert isinstance(event, ErrorEvent)
    assert (event.payload.code, event.payload.severity, event.payload.recoverable) == (
        "SESSION_FAILED",
        "critical",
        False,
    )
    assert event.payload.message == "The session cannot be computed."
    assert sum(isinstance(event, ErrorEvent) for _, event in events) == 1


def batch_of(before: str, after: str, *ids: str, final: bool = False) -> EventBatch:
    event = encode_event(events_composed(composer_of("a"), frame_of(0, (member_of(),)))[0])
    return EventBatch(
        before, after, [(entry_id, event) for entry_id in ids], final, b"memory", {"energy_update": event}, "FLOWING"
    )


async def test_events_are_written_once_with_their_cursor(each_redis: RedisServer) -> None:
    """Two DECIPHERs compose the same frames: the slower one writes nothing, and gets the cursor."""
    pipe, opening = AsyncPipe(each_redis.url), opening_of("a")
    session = opening.session
    await open_session(pipe, opening)
    assert await write_events(pipe, session, batch_of("0-0", "2-0", "1-0", "2-0")) == WrittenBatch(True, "2-0", -1)
    assert await write_events(pipe, session, batch_of("0-0", "1-0", "1-0")) == WrittenBatch(False, "2-0", -1)
    found = await read_checkpoint(pipe, session)
    assert (found.cursor, found.composer, list(found.standing), found.errors) == (
        "2-0",
        b"memory",
        ["energy_update"],
        [],
    )
    assert not (await find_composed(pipe, session)).is_over
    with_errors = batch_of("2-0", "3-0", "3-0", final=True)
    with_errors.errors = errors = [SentError(2, "A", b"{}")]
    assert await write_events(pipe, session, with_errors) == WrittenBatch(True, "3-0", -1)
    assert (await find_composed(pipe, session)).is_over
    assert (await find_composed(pipe, session)).errors == (await read_checkpoint(pipe, session)).errors == errors
    # Where a batch has none, they stay.
    assert (await write_events(pipe, session, batch_of("3-0", "4-0"))).is_written
    assert (await find_composed(pipe, session)).errors == errors
    entries = await pipe.one("XRANGE", keys.events(session), "-", "+")
    assert [entry[0] for entry in entries] == [b"1-0", b"2-0", b"3-0"]
    await pipe.one("DEL", keys.state(session))
    for work in (
        write_events(pipe, session, batch_of("4-0", "5-0")),
        find_composed(pipe, session),
        read_checkpoint(pipe, session),
    ):
        with pytest.raises(SessionGone):
            await work
    await pipe.close()


async def test_events_that_exist_already_are_skipped(each_redis: RedisServer) -> None:
    """Redis ended in the middle of the script: its file has the beginning of what it wrote, and not the cursor."""
    pipe, opening = AsyncPipe(each_redis.url), opening_of("a")
    session = opening.session
    await open_session(pipe, opening)
    batch = batch_of("0-0", "1-0", "1-0", "1-1", "1-2")
    for entry_id, raw in batch.events[:2]:
        await pipe.one("XADD", keys.events(session), "NOMKSTREAM", entry_id, "e", raw)
    assert (await write_events(pipe, session, batch)).is_written
    entries = await pipe.one("XRANGE", keys.events(session), "-", "+")
    assert [entry[0] for entry in entries] == [b"1-0", b"1-1", b"1-2"]
    await pipe.close()


async def test_without_memory_for_events_the_cursor_stays(each_redis: RedisServer) -> None:
    pipe, opening = AsyncPipe(each_redis.url), opening_of("a")
    await open_session(pipe, opening)
    each_redis.run("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(RedisRefuses):
            await write_events(pipe, opening.session, batch_of("0-0", "1-0", "1-0"))
    finally:
        each_redis.run("CONFIG", "SET", "maxmemory", "0")
    assert await pipe.one("XLEN", keys.events(opening.session)) == 0
    assert (await find_composed(pipe, opening.session)).cursor == "0-0"
    assert (await write_events(pipe, opening.session, batch_of("0-0", "1-0", "1-0"))).is_written
    await pipe.close()
