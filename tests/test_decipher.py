"""DECIPHER: events are composed from frames, each once, whatever happens to the process."""

from __future__ import annotations

import msgspec
import pytest

from consumers.decipher.composer import Composer, encode_event
from schemas import keys
from schemas.errors import SessionGone
from schemas.events import EnergyUpdate, TokenStream, protocol_model_ids
from schemas.frames import FRAME_VERSION, Frame, MemberFrame, TokenFrame
from schemas.grid import window_index_at, window_start_ns
from tests.roles import Roles
from tests.sessions import committed_frames, opening_of, until_ended, written_texts
from tests.waiting import until
from transport.connection import AsyncPipe
from transport.events import EventBatch, write_events
from transport.sessions import find_session, open_session

# One strict decoder for each type: a key that the protocol does not name fails the test.
_TYPES = {"energy_update": EnergyUpdate, "token_stream": TokenStream}
Event = EnergyUpdate | TokenStream


def decoded(raw: bytes) -> Event:
    """The event, checked against its strict struct."""
    return msgspec.json.decode(raw, type=_TYPES[msgspec.json.decode(raw)["type"]])


async def events_of(pipe: AsyncPipe, session: str) -> list[tuple[str, Event]]:
    entries = await pipe.one("XRANGE", keys.events(session), "-", "+")
    return [(entry[0].decode(), decoded(entry[1][1])) for entry in entries]


def frame_of(window: int, energy: float, text: str, state: str = "answering") -> Frame:
    member = MemberFrame("llama3:8b", state, energy, 3.0, None, 5, 0, text, "", None)  # type: ignore[arg-type]
    tokens = (TokenFrame(0, "answer", window, 0, len(text), None, "missing"),) if text else ()
    start, end = window_start_ns(window), window_start_ns(window + 1)
    return Frame(
        FRAME_VERSION, "s", window, start, end, "single", state == "finished", "1-0", energy, 0.5, "fallback",
        None, None, 0, 0, 0, (member,), tokens,
    )  # fmt: skip


def test_a_frame_becomes_the_events_of_the_protocol() -> None:
    origin_ns = window_start_ns(60 * 1_700_000_000)
    composer = Composer(origin_ns)
    first = composer.compose(frame_of(0, 0.25, "Hi"), lambda: 0.5)
    assert msgspec.json.decode(encode_event(first[0])) == {
        "type": "energy_update",
        "channel": "energy",
        "timestamp": 1_700_000_000_016,
        "frameNumber": 60 * 1_700_000_000,
        "payload": {
            "totalEnergy": 0.25, "deltaEnergy": 0.25, "tokensGenerated": 1, "processingTime": 0.5,
            "modelId": "ensemble",
        },
    }  # fmt: skip
    assert msgspec.json.decode(encode_event(first[1])) == {
        "type": "token_stream",
        "channel": "experience",
        "timestamp": 1_700_000_000_016,
        "payload": {"tokens": ["Hi"], "isComplete": False, "sessionId": "s", "modelId": "llama3-8b"},
    }
    quiet = composer.compose(frame_of(1, 0.2, ""), lambda: 99.0)
    assert len(quiet) == 1
    assert isinstance(quiet[0], EnergyUpdate)
    assert (quiet[0].payload.deltaEnergy, quiet[0].payload.processingTime) == (-0.05, 16.67)
    complete = composer.compose(frame_of(2, 0.2, "", "finished"), lambda: 0.0)
    assert [event.payload.isComplete for event in complete if isinstance(event, TokenStream)] == [True]
    assert len(composer.compose(frame_of(3, 0.2, "", "finished"), lambda: 0.0)) == 1


def test_model_ids_are_of_the_protocol_and_all_different() -> None:
    assert protocol_model_ids(("llama3:8b", "llama3-8b", "a/b c", "ü")) == ("llama3-8b", "llama3-8b_2", "a-b-c", "-")


async def test_every_frame_is_composed_once_though_decipher_is_killed(roles: Roles, pipe: AsyncPipe) -> None:
    """Two DECIPHERs at once; one is killed in mid-session, a third comes: no event twice, none missing, the texts
    whole."""
    roles.ready("aggregator")
    roles.ready("producers", "ngram:word-3", "--tokens-per-s", "60")
    first = roles.ready("consumers.decipher")
    roles.ready("consumers.decipher")
    opening = opening_of("ngram:word-3", max_tokens=150)
    opened = await open_session(pipe, opening)

    async def is_composed(window: int) -> bool:
        return keys.entry_order((await find_session(pipe, opening.session)).decipher)[0] > window

    await until(lambda: is_composed(40), "DECIPHER has composed some frames")
    first.kill()
    roles.start("consumers.decipher")
    state = await until_ended(pipe, opening.session)
    await until(lambda: is_composed(state.window), "DECIPHER has composed every frame")
    frames = await committed_frames(pipe, opening.session)
    events = await events_of(pipe, opening.session)
    energies = [(entry_id, event) for entry_id, event in events if isinstance(event, EnergyUpdate)]
    assert [entry_id for entry_id, _ in energies] == [keys.frame_id(k) for k in range(len(frames))]
    numbers = [event.frameNumber for _, event in energies]
    origin = window_index_at(state.origin_ns)
    assert numbers == list(range(origin, origin + len(frames)))
    said = "".join(text for _, event in events if isinstance(event, TokenStream) for text in event.payload.tokens)
    assert said == (await written_texts(pipe, opening.session))[0] != ""
    assert sum(event.payload.tokensGenerated for _, event in energies) == state.progress[0].next_seq
    assert opened == state.opened
    assert isinstance(events[-1][1], TokenStream)
    assert events[-1][1].payload.isComplete


def test_the_strict_decoder_refuses_a_key_too_many() -> None:
    raw = encode_event(Composer(0).compose(frame_of(0, 0.1, ""), lambda: 0.0)[0])
    assert isinstance(decoded(raw), EnergyUpdate)
    with pytest.raises(msgspec.ValidationError):
        decoded(raw[:-1] + b',"extra":1}')


async def test_events_are_written_once_with_their_cursor(pipe: AsyncPipe) -> None:
    """Two DECIPHERs compose the same frames: the slower one writes nothing, and learns where the cursor stands."""
    opening = opening_of("a")
    await open_session(pipe, opening)
    batch = EventBatch("0-0", "2-0", [("1-0", b"{}"), ("2-0", b"{}")], False)
    assert await write_events(pipe, opening.session, batch) == "2-0"
    slower = EventBatch("0-0", "1-0", [("1-0", b"{}")], False)
    assert await write_events(pipe, opening.session, slower) == "2-0"
    following = EventBatch("2-0", "3-0", [("3-0", b"{}")], True)
    assert await write_events(pipe, opening.session, following) == "3-0"
    entries = await pipe.one("XRANGE", keys.events(opening.session), "-", "+")
    assert [entry[0] for entry in entries] == [b"1-0", b"2-0", b"3-0"]
    await pipe.one("DEL", keys.state(opening.session))
    with pytest.raises(SessionGone):
        await write_events(pipe, opening.session, following)
