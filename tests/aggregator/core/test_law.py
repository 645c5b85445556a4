"""The law: frames are a pure function of the token stream. The fast core against the slow oracle, on random streams.

token stream --+--> replayed() ------------------------------+
               +--> a Session, dumped and loaded each window +--> the same frames
               +--> oracle_frames() -------------------------+
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aggregator.core import checkpoint
from aggregator.core.replay import replayed
from aggregator.core.session import Session
from schemas import grid
from schemas.entries import (
    Alive,
    AnyEntry,
    Beat,
    Cancel,
    Claim,
    Failed,
    Loading,
    Token,
    Waiting,
    decode_entry,
    encode_entry,
    pack_top,
)
from schemas.errors import Malformed
from schemas.frame_json import FRAME_FIELDS, frame_json, shown_values
from schemas.frames import Frame, MemberFrame, encode_frame
from schemas.keys import entry_ms, entry_order, is_entry_id
from schemas.sessions import ENTRY_VERSION, Limits, Member, Opening
from tests.oracle.frames import Stream, accepted_tokens, oracle_frames
from tests.oracle.members import WHITE_SPACE
from tests.support.expected_json import named
from tests.support.streams import Recorded, recorded

# Numbers in frames are rounded to 1e-9, so equal numbers can be rounded to different sides; the wave is computed from
# three of them.
NEAR = 4e-9
UNLIMITED = Limits()
# The fields about all members together, and those that do not depend on how many members propose the same.
BETWEEN = tuple(
    name
    for name in FRAME_FIELDS
    if name not in ("session", "cut", "members", "tokens", "late", "duplicates", "dead_letters")
)
BY_WEIGHT = (
    "energy", "diversity_index", "di_source", "di_low", "di_covered", "coverage", "di_span", "span_bytes",
    "entropy_total", "entropy_within", "coverage_mass", "frontier_bytes",
)  # fmt: skip
# Without the explain phase: it takes minutes, and the shrunk stream is enough.
unhurried = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


def core_frames(stream: Stream, windows: int) -> list[Frame]:
    return [closed.frame for closed in replayed(stream, windows)]


def differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Where two values differ: floats by more than NEAR, others by anything."""
    if isinstance(ours, float) and isinstance(theirs, float):
        if not abs(ours - theirs) <= NEAR:
            yield f"{path}: {ours!r} and {theirs!r}"
    elif isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from differences(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif type(ours) is not type(theirs) or ours != theirs:
        yield f"{path}: {ours!r} and {theirs!r}"


def assert_law(stream: Stream, windows: int) -> list[Frame]:
    """The core's frames, after a check that they agree with the oracle's."""
    ours, theirs = core_frames(stream, windows), oracle_frames(stream, windows)
    for index, (frame, expected) in enumerate(zip(ours, theirs, strict=False)):
        assert frame.version == expected.version
        assert list(differences(named(frame), named(expected), f"frame {index}")) == []
    assert len(ours) == len(theirs)
    return ours


def assert_same_numbers(ours: list[Frame], theirs: list[Frame], names: Sequence[str]) -> None:
    """These numbers of the frames agree; `names` are fields of a frame."""
    for index, (frame, other) in enumerate(zip(ours, theirs, strict=True)):
        one, another = shown_values(frame), shown_values(other)
        for name in names:
            assert list(differences(one[name], another[name], f"frame {index}.{name}")) == []


def rewritten(stream: Stream, opening: Opening, change: Callable[[AnyEntry], AnyEntry]) -> Stream:
    """The stream with another opening and each entry changed; what does not decode stays as it is."""
    entries: Stream = [(stream[0][0], encode_entry(opening))]
    for entry_id, raw in stream[1:]:
        try:
            entries.append((entry_id, encode_entry(change(decode_entry(raw)))))
        except Malformed:
            entries.append((entry_id, raw))
    return entries


def windows_of(session: Recorded) -> list[int]:
    """Each entry's window."""
    origin_ns = grid.next_grid_point_ns(entry_ms(session.stream[0][0]) * grid.NS_PER_MS)
    return [grid.window_of_entry(origin_ns, entry_ms(entry_id)) for entry_id, _ in session.stream]


# --- the law itself ---------------------------------------------------------------------------------------------------


# Each run draws other streams; the golden sessions and the stories are compared with the oracle as well.
@settings(unhurried, max_examples=200)
@given(recorded())
def test_core_and_oracle_agree_on_every_frame(session: Recorded) -> None:
    assert_law(session.stream, session.windows)


@settings(unhurried, max_examples=100)
@given(recorded())
def test_dump_and_load_at_every_window_changes_no_byte(session: Recorded) -> None:
    """window 0 | dump, load, restore | window 1 | dump, load, restore | ... against one session that lives
    throughout."""
    opened, windows = session.stream[0][0], windows_of(session)
    core = Session(session.opening, opened)
    for frame in core_frames(session.stream, session.windows):
        raw = checkpoint.dump(core)
        core, need_from = checkpoint.load(session.opening, opened, raw)
        for entry_id, entry in session.stream:
            if need_from is not None and entry_order(need_from) <= entry_order(entry_id) <= entry_order(
                core.record.cut
            ):
                core.restore(entry_id, entry)
        assert checkpoint.dump(core) == raw
        of_window = [
            entry for entry, window in zip(session.stream, windows, strict=True) if window == frame.window_index
        ]
        entries = of_window[1:] if frame.window_index == 0 else of_window
        assert encode_frame(core.close(entries).frame) == encode_frame(frame)


@settings(unhurried, max_examples=60)
@given(recorded(), st.data())
def test_a_frame_depends_on_nothing_after_its_window(session: Recorded, data: st.DataObject) -> None:
    frames = core_frames(session.stream, session.windows)
    count = data.draw(st.integers(0, len(frames)))
    before = [entry for entry, window in zip(session.stream, windows_of(session), strict=True) if window < count]
    again = core_frames(before or session.stream[:1], count)
    assert [encode_frame(frame) for frame in again] == [encode_frame(frame) for frame in frames[:count]]


@settings(unhurried, max_examples=100)
@given(recorded())
def test_every_accepted_token_is_in_exactly_one_frame_and_every_text_is_released_once(session: Recorded) -> None:
    """Except tokens that are buffered when the stream breaks off. In step a thought may overtake a buffered answer."""
    frames = core_frames(session.stream, session.windows)
    for number, accepted in enumerate(accepted_tokens(session.stream, session.windows)):
        shown = [token for frame in frames for token in frame.tokens if token.member == number]
        members = [frame.members[number] for frame in frames]
        tokens, waiting = [one.token for one in accepted], {"answer": members[-1].buffered_tokens, "thinking": 0}
        for lane in ("answer", "thinking"):
            seqs = [seq for seq, token in enumerate(tokens) if token.lane == lane]
            assert [token.seq for token in shown if token.lane == lane] == seqs[: len(seqs) - waiting[lane]]
            spans = [(0, 0), *((token.start, token.end) for token in shown if token.lane == lane)]
            assert all(earlier[1] == later[0] <= later[1] for earlier, later in pairwise(spans))
        text = "".join(member.text for member in members)
        assert _text(tokens, "answer").startswith(text)
        assert waiting["answer"] or text == _text(tokens, "answer")
        assert len(text.lstrip(WHITE_SPACE).encode()) == members[-1].position_bytes
        assert "".join(member.thinking for member in members) == _text(tokens, "thinking")


def _text(tokens: list[Token], lane: str) -> str:
    return "".join(token.text for token in tokens if token.lane == lane)


@pytest.mark.parametrize(
    ("limits", "mark", "window_index", "reason"),
    [
        (Limits(first_token_ms=50), Waiting, 2, "no first token within 0.05 s (limits.first_token_ms)"),
        (Limits(loading_ms=100), Loading, 5, "still loading after 0.1 s (limits.loading_ms)"),
        (Limits(waiting_ms=100), Waiting, 5, "still waiting after 0.1 s (limits.waiting_ms)"),
        (Limits(life_ms=100), Alive, 5, "the session reached its longest life of 0.00166667 min"),
    ],
)
def test_a_time_out_ends_with_the_window_that_ends_at_its_limit(
    limits: Limits, mark: type[Waiting | Loading | Alive], window_index: int, reason: str
) -> None:
    """Three windows are 50 ms to the nanosecond; opening, claim and mark all lie on the origin."""
    marks = [("1000-1", encode_entry(Claim(0, 0))), ("1000-2", encode_entry(mark(0, "1000-1", 0)))]
    frames = assert_law(_members(1, marks, limits), 100)
    assert [frame.members[0].reason for frame in frames] == [None] * window_index + [reason]
    assert frames[-1].final


def test_a_token_counts_for_tokens_per_s_in_the_windows_that_end_less_than_a_second_after_it() -> None:
    """The token comes at 50 ms, where window 3 begins; window 62 ends at 1,050 ms, to the nanosecond."""
    token = Token(0, "1000-1", 0, "answer", "so", 0, 0)
    frames = assert_law(_members(1, [("1000-1", encode_entry(Claim(0, 0))), ("1050-0", encode_entry(token))]), 70)
    assert [frame.window_index for frame in frames if frame.members[0].tokens_per_s] == list(range(3, 62))


AWKWARD_ENTRIES = {
    "text that is no UTF-8": encode_entry(Token(0, "1001-0", 0, "answer", "x", 0, 0)).replace(b"\xa1x", b"\xa1\xff"),
    "a reason that is no UTF-8": encode_entry(Cancel((), "x")).replace(b"\xa1x", b"\xa1\xff"),
    "a claim that is no UTF-8": encode_entry(Failed(0, "x", 0, "")).replace(b"\xa1x", b"\xa1\xff"),
    "a tag that is no UTF-8": b"\x91\xa1\xff",
    "a list of a hundred thousand lists, where a field is not known": b"\x92\xa4beat" + b"\x91" * 100_000 + b"\x90",
    "a list of a hundred thousand lists for a top list": (
        encode_entry(Token(0, "1001-0", 0, "answer", "x", 0, 0))[:-1] + b"\x91" * 100_000 + b"\x90"
    ),
}


@pytest.mark.parametrize("raw", AWKWARD_ENTRIES.values(), ids=AWKWARD_ENTRIES.keys())
def test_an_entry_that_does_not_decode_is_a_dead_letter_and_the_session_goes_on(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode_entry(raw)
    (frame,) = assert_law(_members(2, [("1001-0", encode_entry(Claim(0, 0))), ("1002-0", raw)]), 1)
    assert (frame.counts.dead_letters, frame.final) == (1, False)


def _members(count: int, entries: Stream, limits: Limits = UNLIMITED) -> Stream:
    members = tuple(Member(f"model-{number}") for number in range(count))
    return [("1000-0", encode_entry(Opening(ENTRY_VERSION, "s1", "Why?", members, limits=limits))), *entries]


@pytest.mark.parametrize("logprob", [None, math.nan])
@pytest.mark.parametrize("top", [[], [(b"a", -1.5), (b"b", -2.0)], [(b" the", -1.5), (b"b", math.nan)]])
def test_a_logprob_that_is_not_a_number_is_missing(logprob: float | None, top: list[tuple[bytes, float]]) -> None:
    """Only the list counts: the sampled token's own probability is unknown."""
    token = Token(0, "1001-0", 0, "answer", "the", 0, 0, logprob, "real", b"", pack_top(top))
    stream = _members(1, [("1001-0", encode_entry(Claim(0, 0))), ("1002-0", encode_entry(token))])
    (frame,) = assert_law(stream, 1)
    (shown,) = frame.tokens
    assert shown.logprob is None
    if top:
        assert frame.measures.di_source == "logprobs"
        assert frame.measures.diversity_index == pytest.approx(1.0 - math.exp(-1.5), abs=NEAR)
    else:
        assert (frame.measures.diversity_index, frame.measures.di_source) == (0.5, "fallback")


# --- the numbers ------------------------------------------------------------------------------------------------------


@settings(unhurried, max_examples=100)
@given(recorded())
def test_every_number_lies_in_its_range(session: Recorded) -> None:
    previous: Frame | None = None
    for frame in core_frames(session.stream, session.windows):
        assert 0 <= frame.start_ns < frame.end_ns
        assert min(frame.counts.late, frame.counts.duplicates, frame.counts.dead_letters) >= 0
        assert 0.0 <= frame.measures.diversity_index <= 1.0
        assert frame.measures.di_source == "logprobs" or frame.measures.diversity_index == 0.5
        for spread_ms in (frame.alignment.sync_lag_ms, frame.alignment.arrival_skew_ms):
            assert spread_ms is None or spread_ms >= 0.0
        for number, member in enumerate(frame.members):
            before = previous.members[number] if previous else None
            _assert_in_range(member, before)
        for token in frame.tokens:
            assert 0 <= token.start <= token.end
            assert token.logprob is None or -math.inf < token.logprob <= 0.0
        _assert_energy_between(frame, session.opening)
        previous = frame


def _assert_in_range(member: MemberFrame, before: MemberFrame | None) -> None:
    assert 0.0 <= member.energy <= 1.0
    assert member.certainty is None or 0.0 <= member.certainty <= 1.0
    assert member.tokens_per_s >= 0.0
    assert member.position_bytes >= (before.position_bytes if before else 0)
    assert member.buffered_tokens >= 0
    assert member.reason is None or member.buffered_tokens == 0
    assert (member.reason is None) == (member.state not in ("finished", "dropped"))
    if before is not None and before.reason is not None:
        assert (member.state, member.reason, member.text, member.thinking) == (before.state, before.reason, "", "")


def _assert_energy_between(frame: Frame, opening: Opening) -> None:
    running = [number for number, member in enumerate(frame.members) if member.reason is None]
    finished = [number for number, member in enumerate(frame.members) if member.state == "finished"]
    counted = running or finished
    if opening.weighting == "certainty" and len(counted) > 0 and frame.energy == 0.0:
        return  # no certainty is above 0: the weights sum to 0
    if any(opening.members[number].weight for number in counted):
        energies = [frame.members[number].energy for number in counted]
        assert min(energies) - NEAR <= frame.energy <= max(energies) + NEAR
    else:
        assert frame.energy == 0.0


@settings(unhurried, max_examples=100)
@given(recorded())
def test_members_in_step_are_released_within_one_window_of_each_other(session: Recorded) -> None:
    """Also where a member that was behind, thought or stalled comes into step."""
    for frame in core_frames(session.stream, session.windows):
        if frame.mode == "step" and frame.alignment.sync_lag_ms is not None:
            assert frame.alignment.sync_lag_ms <= 1_000 / 60 + NEAR


@settings(unhurried, max_examples=60)
@given(recorded(), st.sampled_from((0.5, 3.0, 1e-9, 1e9)))
def test_numbers_do_not_change_when_all_weights_are_scaled(session: Recorded, scale: float) -> None:
    members = tuple(msgspec.structs.replace(member, weight=member.weight * scale) for member in session.opening.members)
    opening = msgspec.structs.replace(session.opening, members=members)
    scaled = core_frames(rewritten(session.stream, opening, lambda entry: entry), session.windows)
    frames = core_frames(session.stream, session.windows)
    assert_same_numbers(frames, scaled, BETWEEN)


@settings(unhurried, max_examples=60)
@given(recorded(starves=False), st.randoms(use_true_random=False))
def test_numbers_do_not_change_when_members_are_listed_in_another_order(session: Recorded, random: Any) -> None:
    order = list(range(len(session.opening.members)))
    random.shuffle(order)
    moved = {old: new for new, old in enumerate(order)}

    def change(entry: AnyEntry) -> AnyEntry:
        if isinstance(entry, Opening | Beat):
            return entry
        if isinstance(entry, Cancel):
            return Cancel(tuple(moved.get(member, member) for member in entry.members), entry.reason)
        return msgspec.structs.replace(entry, member=moved.get(entry.member, entry.member))

    opening = msgspec.structs.replace(session.opening, members=tuple(session.opening.members[old] for old in order))
    reordered = core_frames(rewritten(session.stream, opening, change), session.windows)
    frames = core_frames(session.stream, session.windows)
    assert_same_numbers(frames, reordered, BETWEEN)


@settings(unhurried, max_examples=60)
@given(recorded(starves=False), st.data())
def test_diversity_does_not_change_when_a_member_is_doubled(session: Recorded, data: st.DataObject) -> None:
    """Both halves write the same at the same time, and share the weight. Without sync_lag_ms, which one member alone
    does not have; and not in step, where two members are a pair and one is not."""
    session = replace(session, opening=msgspec.structs.replace(session.opening, sync="free"))
    doubled = data.draw(st.integers(0, len(session.opening.members) - 1))
    members = [Member(member.model, member.weight or 1.0) for member in session.opening.members]
    frames = core_frames(
        rewritten(session.stream, _with_members(session, members), lambda entry: entry), session.windows
    )
    copy = len(members)
    members[doubled] = Member(members[doubled].model, members[doubled].weight / 2)
    members.append(Member("copy", members[doubled].weight))
    stream: Stream = [(session.stream[0][0], encode_entry(_with_members(session, members)))]
    for entry_id, raw in session.stream[1:]:
        stream.extend(_doubled(entry_id, raw, doubled, copy))
    assert_same_numbers(frames, core_frames(stream, session.windows), BY_WEIGHT)


def _with_members(session: Recorded, members: list[Member]) -> Opening:
    """With fixed weights: where all certainties are 0, members have equal weights."""
    return msgspec.structs.replace(session.opening, members=tuple(members), weighting="fixed")


def _doubled(entry_id: str, raw: bytes, doubled: int, copy: int) -> Stream:
    """An entry, followed by a copy for the second half where it is the doubled member's. Ids of one millisecond are
    spread to make room."""
    try:
        entry = decode_entry(raw)
    except Malformed:
        return [(_spread(entry_id, 0), raw)]
    if isinstance(entry, Cancel) and copy in entry.members:
        return [(_spread(entry_id, 0), b"")]
    if isinstance(entry, Cancel) and doubled in entry.members:
        return [(_spread(entry_id, 0), encode_entry(Cancel((*entry.members, copy), entry.reason)))]
    if isinstance(entry, Opening | Beat | Cancel):
        return [(_spread(entry_id, 0), raw)]
    if entry.member == copy:
        return [(_spread(entry_id, 0), b"")]
    out: Stream = []
    for member in (entry.member, copy) if entry.member == doubled else (entry.member,):
        half = msgspec.structs.replace(entry, member=member)
        if not isinstance(half, Claim) and is_entry_id(half.claim):
            half = msgspec.structs.replace(half, claim=_spread(half.claim, member == copy))
        out.append((_spread(entry_id, member == copy), encode_entry(half)))
    return out


def _spread(entry_id: str, half: int) -> str:
    ms, _, number = entry_id.partition("-")
    return f"{ms}-{2 * int(number) + half}"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_diversity_is_0_when_all_members_are_certain_of_one_piece(count: int) -> None:
    entries: Stream = []
    for number in range(count):
        token = Token(number, f"1001-{number}", 0, "answer", " so", 0, 0, 0.0, "real", b"", pack_top([(b"so", 0.0)]))
        entries.append((f"1001-{number}", encode_entry(Claim(number, 0))))
        entries.append((f"1001-{number + count}", encode_entry(token)))
    entries.sort(key=lambda pair: entry_order(pair[0]))
    (frame,) = assert_law(_members(count, entries), 1)
    assert (frame.measures.diversity_index, frame.measures.di_source) == (0.0, "logprobs")


# --- JSON ------------------------------------------------------------------------------------------------------------


@settings(unhurried, max_examples=60)
@given(recorded())
def test_json_has_the_frames_values_rounded_to_a_billionth_and_never_nan(session: Recorded) -> None:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    def parse_rounded(digits: str) -> float:
        number = float(digits)
        assert number == round(number, 9)
        return number

    for frame in core_frames(session.stream, session.windows):
        # A NaN becomes null in JSON, and is not equal to anything: the comparison finds it.
        shown = json.loads(frame_json(frame), parse_constant=refuse, parse_float=parse_rounded)
        assert shown == named(frame)
