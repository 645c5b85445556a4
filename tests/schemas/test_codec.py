"""Structs are read as they were written; other bytes raise Malformed and no other exception."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import entries
from schemas.control import Progress, Stop, decode_control, decode_progress, encode_control, encode_progress
from schemas.entries import Token, decode_entry, encode_entry, pack_top, unpack_top
from schemas.errors import Malformed
from schemas.frame_json import FRAME_FIELDS, frame_json, frame_of_json, recorded_frame_json
from schemas.frames import (
    FRAME_VERSION,
    AlignmentFrame,
    ConsensusFrame,
    Decision,
    Frame,
    InterferenceFrame,
    Measures,
    MemberFrame,
    TokenFrame,
    WindowCounts,
    decode_frame,
    encode_frame,
)
from schemas.sessions import EnergyProfile, Limits, Member, Message, Opening, Rung, Sampling
from tests.support.expected_json import named

TEXTS = st.text(max_size=20)
NUMBERS = st.integers(0, 2**53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
CLAIMS = st.builds("{}-{}".format, NUMBERS, st.integers(0, 9))
TOPS = st.lists(st.tuples(st.binary(max_size=8), FLOATS), max_size=30)
MARKS = st.one_of(
    st.builds(entries.Claim, NUMBERS, NUMBERS, st.booleans(), TEXTS),
    st.builds(entries.Waiting, NUMBERS, CLAIMS, NUMBERS),
    st.builds(entries.Loading, NUMBERS, CLAIMS, NUMBERS),
    st.builds(entries.Alive, NUMBERS, CLAIMS, NUMBERS),
    st.builds(entries.Finished, NUMBERS, CLAIMS, NUMBERS, NUMBERS, TEXTS),
    st.builds(entries.Failed, NUMBERS, CLAIMS, NUMBERS, TEXTS),
    st.builds(entries.Starved, NUMBERS, CLAIMS, NUMBERS, TEXTS, st.booleans()),
    st.builds(entries.Cancel, st.lists(NUMBERS, max_size=4).map(tuple), TEXTS),
    st.builds(entries.Beat),
)
SAMPLINGS = st.builds(Sampling, NUMBERS, FLOATS, st.none() | NUMBERS, NUMBERS)
OPENINGS = st.builds(
    Opening,
    st.just(1),
    TEXTS,
    TEXTS,
    st.lists(st.builds(Member, TEXTS, FLOATS, st.booleans(), st.none() | SAMPLINGS), max_size=6).map(tuple),
    TEXTS,
    SAMPLINGS,
    st.sampled_from(["free", "step"]),
    TEXTS,
    st.builds(EnergyProfile, FLOATS, FLOATS, FLOATS),
    st.builds(Limits, NUMBERS),
    st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=3).map(tuple),
    st.lists(st.builds(Rung, TEXTS, NUMBERS), max_size=3).map(tuple),
)
MEMBER_FRAMES = st.builds(
    MemberFrame, TEXTS, st.sampled_from(["waiting", "answering", "dropped"]), FLOATS, FLOATS, st.none() | FLOATS,
    NUMBERS, NUMBERS, TEXTS, TEXTS, st.none() | TEXTS, st.booleans(),
)  # fmt: skip
TOKEN_FRAMES = st.builds(
    TokenFrame, NUMBERS, st.sampled_from(["answer", "thinking"]), NUMBERS, NUMBERS, NUMBERS, st.none() | FLOATS,
    st.sampled_from(["real", "placeholder", "missing"]),
)  # fmt: skip
DECISIONS = st.builds(
    Decision, NUMBERS, NUMBERS, st.sampled_from(["unanimous", "certain", "estimate", "followed"]), st.none() | NUMBERS,
    st.none() | FLOATS, st.none() | TEXTS, st.none() | FLOATS, st.none() | FLOATS,
    st.lists(NUMBERS, max_size=2).map(tuple),
)  # fmt: skip
MEASURED = [st.none() | FLOATS] * 3
FRAMES = st.builds(
    Frame, st.just(FRAME_VERSION), TEXTS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["free", "single"]), st.booleans(),
    CLAIMS, FLOATS,
    st.lists(MEMBER_FRAMES, max_size=3).map(tuple), st.lists(TOKEN_FRAMES, max_size=3).map(tuple),
    st.builds(Measures, FLOATS, st.sampled_from(["logprobs", "fallback"]), *MEASURED),
    st.builds(AlignmentFrame, st.none() | NUMBERS, st.none() | st.booleans()),
    st.builds(InterferenceFrame, FLOATS, st.booleans(), st.booleans(), st.sampled_from(["constructive", "neutral"])),
    st.builds(WindowCounts, NUMBERS, NUMBERS, NUMBERS), TEXTS, TEXTS,
    st.builds(ConsensusFrame, st.none() | TEXTS, st.none() | st.lists(DECISIONS, max_size=2).map(tuple)),
)  # fmt: skip


@given(MARKS | OPENINGS)
def test_an_entry_is_read_as_it_was_written(entry: entries.AnyEntry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@given(st.sampled_from(["answer", "thinking"]), TEXTS, st.none() | FLOATS, st.binary(max_size=6), TOPS)
def test_a_token_is_read_as_it_was_written(
    lane: entries.Lane, text: str, logprob: float | None, piece: bytes, top: list[tuple[bytes, float]]
) -> None:
    token = decode_entry(encode_entry(Token(1, "5-0", 7, lane, text, 8, 9, logprob, "real", piece, pack_top(top))))
    assert isinstance(token, Token)
    assert (token.lane, token.text, token.logprob, token.piece) == (lane, text, logprob, piece)
    assert unpack_top(token.top) == top


@given(FRAMES)
def test_a_frame_is_read_as_it_was_written_and_its_json_has_every_field(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame
    shown = msgspec.json.decode(frame_json(frame))
    assert tuple(shown) == FRAME_FIELDS
    assert frame_of_json(frame_json(frame)) == frame_of_json(recorded_frame_json(frame)) == frame
    assert [list(member) for member in shown["members"]] == [list(MemberFrame.__struct_fields__)] * len(frame.members)
    decisions = frame.consensus.decisions or ()
    assert [list(one) for one in shown["decisions"] or ()] == [list(Decision.__struct_fields__)] * len(decisions)
    assert msgspec.json.decode(msgspec.json.encode(named(frame))) == shown


@pytest.mark.parametrize("version", [0, FRAME_VERSION + 1])
@given(frame=FRAMES)
def test_the_refusal_of_a_frame_of_another_version_names_both_versions(version: int, frame: Frame) -> None:
    """Whether or not its layout is another one."""
    sentence = f"A frame has version {version}, and this program reads version {FRAME_VERSION}: "
    same_layout, other_layout = msgspec.structs.replace(frame, version=version), [version, frame.session]
    for raw in (encode_frame(same_layout), msgspec.msgpack.encode(other_layout)):
        with pytest.raises(Malformed, match=f"^{sentence}"):
            decode_frame(raw)


@given(st.lists(st.builds(Progress, CLAIMS, NUMBERS, st.booleans())).map(tuple), st.lists(NUMBERS).map(tuple), TEXTS)
def test_control_is_read_as_it_was_written(progress: tuple[Progress, ...], members: tuple[int, ...], why: str) -> None:
    assert decode_progress(encode_progress(progress)) == progress
    assert decode_control(encode_control(Stop(members, why))) == Stop(members, why)


@given(st.binary(max_size=60))
def test_other_bytes_raise_no_exception_but_malformed(raw: bytes) -> None:
    for decode in (decode_entry, decode_frame, decode_control, decode_progress):
        with contextlib.suppress(Malformed):
            decode(raw)


@given(MARKS | OPENINGS, st.data())
def test_a_cut_entry_is_malformed(entry: entries.AnyEntry, data: st.DataObject) -> None:
    raw = encode_entry(entry)
    with pytest.raises(Malformed):
        decode_entry(raw[: data.draw(st.integers(0, len(raw) - 1))])
