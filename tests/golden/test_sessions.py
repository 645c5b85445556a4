"""The law and the numbers' laws on token streams of real llama.cpp servers, kept as files: see tests/golden.

NAME.msgpack.xz --+--> replayed() ---------------------------------+
                  +--> a Session, dumped and loaded at each window +--> the same frames
                  +--> oracle_frames() ----------------------------+
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import NoReturn

import msgspec
import pytest

from aggregator.core import checkpoint
from aggregator.core.session import Session
from schemas import grid
from schemas.entries import Failed, Finished, Steered, Token, decode_entry, unpack_top
from schemas.frame_json import frame_json, shown_values
from schemas.frames import Frame, TokenFrame, encode_frame
from schemas.keys import entry_ms, entry_order
from schemas.rules.partings import PARTED
from schemas.sessions import Opening
from tests.aggregator.core.test_law import NEAR, assert_law, core_frames
from tests.golden import FOLDER, SUFFIX, golden, golden_names, golden_sessions
from tests.golden.plans import PLANS
from tests.oracle.members import Stream
from tests.support.expected_json import named
from tests.support.sessions import check_one_text, check_tokens

NAMES = golden_names()
# Floats of llama.cpp itself: what it computes for two slots at once differs from what it computes for one.
NEAR_OF_A_BATCH = 1e-4
MOST_BYTES = 400 * 1024
# Constructive is shown in its 18th window, and resonance in the 48th of those.
WINDOWS_TO_RESONANCE = 17 + 48

each_session = pytest.mark.parametrize("name", NAMES)


def stream_of(name: str) -> Stream:
    return golden(name).entries


@cache
def frames_of(name: str) -> list[Frame]:
    return core_frames(stream_of(name), 0)


def opening_of(name: str) -> Opening:
    opening = decode_entry(stream_of(name)[0][1])
    assert isinstance(opening, Opening)
    return opening


@cache
def tokens_of(name: str) -> list[Token]:
    decoded = (decode_entry(raw) for _, raw in stream_of(name))
    return [entry for entry in decoded if isinstance(entry, Token)]


def texts_of(name: str) -> list[str]:
    """What each member wrote, thoughts left out."""
    count = len(opening_of(name).members)
    return ["".join(frame.members[number].text for frame in frames_of(name)) for number in range(count)]


# --- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if opening_of(name).sync != "consensus"])
def test_core_and_oracle_agree_on_every_frame_of_a_recording(name: str) -> None:
    frames = assert_law(stream_of(name), 0)
    assert frames[-1].final


@each_session
def test_dump_and_load_at_every_window_changes_no_byte_of_a_recording(name: str) -> None:
    """window 0 | dump, load, restore | window 1 | dump, load, restore | ... against one session that lives
    throughout."""
    opening, stream = opening_of(name), stream_of(name)
    opened = stream[0][0]
    origin_ns = grid.next_grid_point_ns(entry_ms(opened) * grid.NS_PER_MS)
    window_of = {entry_id: grid.window_of_entry(origin_ns, entry_ms(entry_id)) for entry_id, _ in stream}
    core = Session(opening, opened)
    for frame in frames_of(name):
        raw = checkpoint.dump(core)
        core, need_from = checkpoint.load(opening, opened, raw)
        for entry_id, entry in stream if need_from is not None else ():
            if entry_order(need_from or "") <= entry_order(entry_id) <= entry_order(core.record.cut):
                core.restore(entry_id, entry)
        assert checkpoint.dump(core) == raw
        entries = [pair for pair in stream[1:] if window_of[pair[0]] == frame.window_index]
        assert encode_frame(core.close(entries).frame) == encode_frame(frame)


@each_session
def test_every_token_of_a_recording_is_shown_once_and_no_text_is_lost(name: str) -> None:
    frames, tokens = frames_of(name), tokens_of(name)
    if opening_of(name).sync == "consensus":
        # The tokens that the council has replaced are not shown.
        assert check_one_text(check_tokens(stream_of(name)))
        return
    for number, text in enumerate(texts_of(name)):
        written = [token for token in tokens if token.member == number]
        shown = [token for frame in frames for token in frame.tokens if token.member == number]
        assert [(token.lane, token.seq) for token in shown] == [(token.lane, token.seq) for token in written]
        assert text == "".join(token.text for token in written if token.lane == "answer")


# --- the numbers ------------------------------------------------------------------------------------------------------


def aligned_tokens(frames: list[Frame]) -> Iterator[tuple[Frame, list[TokenFrame]]]:
    """Each frame with a frontier, and the tokens that cover it and are released already."""
    released: list[TokenFrame] = []
    for frame in frames:
        released += [token for token in frame.tokens if token.lane == "answer"]
        if (x := frame.alignment.frontier_bytes) is not None:
            yield frame, [token for token in released if token.start <= x < token.end]


SHARES = (
    "energy",
    "diversity_index",
    "di_low",
    "di_covered",
    "coverage",
    "di_span",
    "jsd",
    "coverage_mass",
    "agreement",
    "wave",
)


@each_session
def test_every_number_of_a_recording_lies_in_its_range(name: str) -> None:
    for before, frame in pairwise([None, *frames_of(name)]):
        assert frame is not None
        for field in SHARES:
            share = shown_values(frame)[field]
            assert share is None or 0.0 <= share <= 1.0, (frame.window_index, field, share)
        for member in frame.members:
            assert 0.0 <= member.energy <= 1.0
            assert member.certainty is None or 0.0 <= member.certainty <= 1.0
        x, span = frame.alignment.frontier_bytes, frame.measures.span_bytes
        assert span is None or span >= 1
        assert before is None or (before.alignment.frontier_bytes or 0) <= (x or 0)
        interference = frame.interference
        assert not (interference.amplified and interference.dampened)
        assert not interference.resonance or (interference.amplified and interference.kind == "constructive")
        assert frame.measures.agreement is not None or interference.kind == "neutral"


@each_session
def test_the_indices_of_a_recording_are_in_their_order(name: str) -> None:
    """di_low <= DI; entropy_within <= entropy_total; with all members measured di_covered is DI."""
    for measures in (frame.measures for frame in frames_of(name)):
        assert (measures.di_source == "logprobs") == (measures.di_low is not None)
        if measures.di_low is None:
            assert measures.diversity_index == 0.5
            continue
        assert measures.di_low <= measures.diversity_index
        assert measures.di_covered == measures.diversity_index
        assert measures.coverage == 1.0
        assert measures.jsd is not None
        assert measures.entropy_within is not None
        assert measures.entropy_total is not None
        assert 0.0 <= measures.entropy_within <= measures.entropy_total + NEAR


@each_session
def test_the_byte_at_which_members_parted_is_shown(name: str) -> None:
    """`diverged_at_bytes` is the first byte at which two answers differ, and lies before the frontier."""
    answers = [text.lstrip(" \t\n\r\v\f").encode() for text in texts_of(name)]
    for alignment in (frame.alignment for frame in frames_of(name)):
        assert alignment.compares == {None: None, True: "next", False: "place"}[alignment.shared_prefix]
        assert (alignment.diverged_at_bytes is not None) == (alignment.shared_prefix is False)
        if (parted := alignment.diverged_at_bytes) is not None:
            assert alignment.frontier_bytes is not None
            assert parted < alignment.frontier_bytes
            assert len({answer[parted] for answer in answers if len(answer) > parted}) > 1


@each_session
def test_where_all_tokens_start_at_the_frontier_di_span_is_not_above_the_index(name: str) -> None:
    found = 0
    for frame, aligned in aligned_tokens(frames_of(name)):
        starts = [token.start for token in aligned]
        if frame.measures.di_span is not None and starts == [frame.alignment.frontier_bytes] * len(frame.members):
            found += 1
            assert frame.measures.di_span <= frame.measures.diversity_index + NEAR
    # In a council of words and characters few tokens start at one byte.
    assert found or name in ("drafts", "no-lists", "real-no-lists", "ngram-mixture")


@each_session
def test_json_of_a_recording_has_the_frames_values_and_never_nan(name: str) -> None:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    for frame in frames_of(name):
        assert json.loads(frame_json(frame), parse_constant=refuse) == named(frame)


# --- what a recording shows -------------------------------------------------------------------------------------------


def test_one_model_at_temperature_0_agrees_with_itself_and_resonates() -> None:
    """Three members, two of them in one server's batches: their texts are the same, their lists nearly."""
    frames, texts = frames_of("twins"), texts_of("twins")
    assert len({*texts}) == 1
    measured = [frame for frame in frames if frame.measures.agreement is not None]
    assert len(measured) > WINDOWS_TO_RESONANCE
    for frame in measured:
        assert frame.measures.agreement == pytest.approx(1.0, abs=NEAR_OF_A_BATCH)
        assert frame.measures.jsd == pytest.approx(0.0, abs=NEAR_OF_A_BATCH)
        assert frame.measures.agreement_source == "logprobs"
        assert (frame.alignment.compares, frame.alignment.shared_prefix) == ("next", True)
    assert {frame.interference.kind for frame in measured} == {"neutral", "constructive"}
    resonant = [frame.window_index for frame in frames if frame.interference.resonance]
    assert resonant
    assert resonant[0] >= measured[0].window_index + WINDOWS_TO_RESONANCE - 1


def test_one_model_agrees_with_itself_over_http_and_in_process() -> None:
    """llama-server sends the last token of a character with all of the character's bytes, and lists it with its own."""
    agreements = [a for frame in frames_of("split-twins") if (a := frame.measures.agreement) is not None]
    assert agreements == pytest.approx([1.0] * len(agreements), abs=NEAR_OF_A_BATCH)


def test_members_that_write_one_sentence_agree_on_it_with_any_tokenizers() -> None:
    """Their tokens begin and end at different bytes: this alone raises the index of pieces, and not that of spans."""
    name = "one-text-many-cuts"
    answers = [text.encode() for text in texts_of(name)]
    common = next(at for at, parts in enumerate(zip(*answers, strict=False)) if len({*parts}) > 1)
    assert common > 60
    together = [frame for frame in frames_of(name) if all(member.reason is None for member in frame.members[:2])]
    sharing = [frame for frame in together if frame.alignment.shared_prefix]
    assert max(frame.alignment.frontier_bytes or 0 for frame in sharing) > 60
    assert all((frame.alignment.frontier_bytes or 0) <= common for frame in sharing)
    assert {frame.alignment.diverged_at_bytes for frame in together} <= {None, common}
    agreements = [frame.measures.agreement for frame in sharing if frame.measures.agreement is not None]
    assert sum(agreement >= 0.6 for agreement in agreements) > len(agreements) / 2
    assert any(frame.measures.diversity_index - (frame.measures.di_span or 1.0) > 0.2 for frame in sharing)


def test_a_member_without_lists_leaves_the_index_unmeasured_and_the_rest_covered() -> None:
    frames = frames_of("no-lists")
    aligned = [frame.measures for frame in frames if frame.measures.coverage is not None]
    assert {measures.di_source for measures in aligned if measures.coverage != 1.0} == {"fallback"}
    assert any(m.coverage == pytest.approx(2 / 3) and m.di_covered is not None for m in aligned)
    assert {measures.agreement_source for measures in aligned} & {"mixed", "text"}


def test_a_killed_server_ends_its_member_and_the_others_go_on() -> None:
    frames = frames_of("killed")
    victim, *others = frames[-1].members
    assert (victim.state, [member.state for member in others]) == ("dropped", ["finished"] * 2)
    assert "broke off the connection" in (victim.reason or "")
    assert max(frame.alignment.frontier_bytes or 0 for frame in frames) > victim.position_bytes


@pytest.mark.parametrize("name", ["real-together", "ngram-together", "ngram-mixture", "ngram-what-if"])
def test_a_council_that_writes_one_answer_has_decided_where_its_drafts_parted(name: str) -> None:
    decisions = [decision for frame in frames_of(name) for decision in frame.consensus.decisions or ()]
    parted = [decision for decision in decisions if decision.kind in PARTED]
    assert {decision.kind for decision in parted} == {*PARTED}
    assert all(decision.against and 0.0 < (decision.share or 0.0) <= 1.0 for decision in parted)
    assert any(isinstance(decode_entry(raw), Steered) for _, raw in stream_of(name))
    assert sum(frame.counts.superseded for frame in frames_of(name)) > 10


def test_the_mixture_of_a_council_tiles_its_answer_and_has_the_texts_that_were_agreed_on() -> None:
    frames, answer = frames_of("ngram-mixture"), texts_of("ngram-mixture")[0].encode()
    spans = [span for frame in frames for span in frame.consensus.mixture or ()]
    assert "".join(answer[span.start : span.end].decode() for span in spans).encode() == answer
    for span in spans:
        shares = {text.text: text.share for text in span.top}
        assert shares.get(answer[span.start : span.end].decode(), span.share) == span.share
        assert sum(shares.values()) <= 1 + NEAR
    shares_of = [span.share or 0.0 for span in spans]
    assert sum(share > 0.5 for share in shares_of) > len(spans) / 2
    assert max(len(span.top) for span in spans) == 20


def test_a_branch_continues_the_answer_of_its_parent_with_another_word() -> None:
    parent, branch = opening_of("ngram-together"), opening_of("ngram-what-if")
    assert branch.parent
    assert branch.parent.session == parent.session
    answer, other = texts_of("ngram-together")[0].encode(), texts_of("ngram-what-if")[0].encode()
    at, word = branch.parent.byte, branch.parent.word.encode()
    assert other.startswith(branch.prefix.encode())
    assert branch.prefix.encode() == answer[:at] + word
    assert answer[at:].lstrip().startswith(branch.parent.instead.encode())
    assert len(other) > len(branch.prefix)


# --- the files --------------------------------------------------------------------------------------------------------

SEEN: dict[str, Callable[[Token], bool]] = {
    "a character whose earlier bytes another token had": lambda token: _continues(token),
    "a token that ends no character": lambda token: not token.text and bool(token.piece) and token.lane == "answer",
    "a stand-in for bytes that are no character": lambda token: "\ufffd" in token.text,
    "a sampled token that is not in its list": lambda token: _is_measured(token) and _own(token) not in _listed(token),
    "a token without a name in a list": lambda token: b"" in _listed(token),
    "bytes in a list that are no characters": lambda token: any(_is_broken(piece) for piece in _listed(token)),
    "a list of three": lambda token: len(_listed(token)) == 3,
    "no numbers": lambda token: token.quality == "missing",
    "an answer that begins with white space": lambda token: token.seq == 0 and token.text.startswith((" ", "\n")),
    "a thought": lambda token: token.lane == "thinking",
}


@cache
def _pieces(top: bytes) -> frozenset[bytes]:
    return frozenset(piece for piece, _ in unpack_top(msgspec.Raw(top)))


def _listed(token: Token) -> frozenset[bytes]:
    return _pieces(bytes(token.top))


def _own(token: Token) -> bytes:
    return token.piece or token.text.encode()


def _is_measured(token: Token) -> bool:
    return token.quality == "real" and bool(_listed(token))


def _is_broken(piece: bytes) -> bool:
    return piece.decode(errors="replace").encode() != piece


def _continues(token: Token) -> bool:
    return _is_measured(token) and any(
        _is_broken(piece) and token.text.encode().endswith(piece) and len(token.text) == 1 for piece in _listed(token)
    )


@pytest.mark.parametrize("sight", SEEN)
def test_the_recordings_contain_what_real_servers_send(sight: str) -> None:
    """Cases that no test should make up. A session may be recorded again only where all of them are still there."""
    assert any(SEEN[sight](token) for name in NAMES for token in tokens_of(name))


def test_the_recordings_contain_every_way_in_which_a_member_ends() -> None:
    entries = [decode_entry(raw) for stream in golden_sessions().values() for _, raw in stream]
    assert {entry.reason for entry in entries if isinstance(entry, Finished)} == {"stop", "length"}
    assert any(isinstance(entry, Failed) for entry in entries)


@each_session
def test_a_recording_names_what_made_it_and_its_members(name: str) -> None:
    session, opening = golden(name), opening_of(name)
    assert session.about
    assert session.made_with.startswith("llama.cpp of xllamacpp ")
    assert list(session.members) == [member.model for member in opening.members]
    assert all("llama.cpp" in described or "n-gram" in described for described in session.members.values())
    order = [entry_order(entry_id) for entry_id, _ in session.entries]
    assert order == sorted({*order})


def test_every_plan_has_its_recording_and_together_they_are_small() -> None:
    assert {*PLANS} <= {*NAMES}
    assert sum(path.stat().st_size for path in FOLDER.glob(f"*{SUFFIX}")) < MOST_BYTES
