"""Whole token streams of one session, drawn at random: mostly as producers write them, and at times with faults.

A step of a stream is one or a few entries. Most are the next tokens of a member, so that cases with accepted and
aligned tokens are frequent. Times favour the edges of windows and of limits, where `<` and `<=` differ.

In half of the streams members write speeches (tests/support/speeches.py). In the others each token is a random word.

Some steps are scenes of several entries: stepping is only tested where a member is ahead of the others, or behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from schemas.entries import (
    NO_TOP,
    Alive,
    AnyEntry,
    Beat,
    Cancel,
    Claim,
    Failed,
    Finished,
    Lane,
    Loading,
    Quality,
    Starved,
    Token,
    Waiting,
    encode_entry,
    pack_top,
)
from schemas.grid import NS_PER_MS
from schemas.sessions import ENTRY_VERSION, EnergyProfile, Limits, Member, Opening, Rung
from tests.support.speeches import CUTS, STAND_IN, TOP_KINDS, Speech, cuts_of, often, speeches, top_around

MAX_STEPS = 50
WORDS = (" the", "the", " cat", " sat", "a", " on", "é", " 日本", "\n", " ", "\t x", "", "   ", "\u00a0", "🙂!", "\x85",
         " extraordinarily prolonged", "日本語日本語日本!")  # fmt: skip
# Gaps in ms between steps: often none, often the edge of a window (50 ms are three of them), at times a stall.
GAPS_MS = (0, 0, 0, 1, 1, 3, 5, 16, 17, 17, 20, 33, 34, 50, 50, 80, 100, 150, 400, 401, 500, 1_000)
# With these, and an opening on a grid point, times meet limits exactly.
ROUND_GAPS_MS = (0, 0, 0, 50, 50, 100, 450, 500, 900, 950, 1_000)
# Bursts, with silences between them in which measures hold for 18, 30 or 48 windows.
BURST_GAPS_MS = (0, 0, 0, 0, 17, 33, 100, 300, 500, 800, 1_000)
LOGPROBS = (-0.1, -0.7, -0.7, -1.6, -2.3, -4.0, -30.0, 0.0, 0.4, -1e-10, -math.inf, math.inf, math.nan, None)
# None of these decodes into an entry.
GARBAGE = (
    b"",
    b"\xc0",
    b"\x91\xa4oops",
    b"\x93\xa1t\x00\xa31-0",
    b"\xdd\xff\xff\xff\xff",
    b"\x82\xa4type\xa1t",
    b"\x92\xa6cancel\x91\xa10",
    bytes(range(256)),
)
TOPS = (
    NO_TOP,
    msgspec.Raw(b"\xc0"),
    msgspec.Raw(b"\x91\xa1a"),
    msgspec.Raw(msgspec.msgpack.encode([(b" the", None)])),
    msgspec.Raw(msgspec.msgpack.encode([("the", -0.5)])),
    msgspec.Raw(msgspec.msgpack.encode([(b" the", -0.5, 1)])),
)
NO_CLAIMS = ("", "-", "5", "5-", "-5", "5-0-1", "x-1", "+5-0", "٣-٣", "5 -0")


@dataclass(frozen=True)
class Recorded:
    """A session's token stream, its opening, and how many windows are asked for at least."""

    opening: Opening
    stream: list[tuple[str, bytes]]
    windows: int


@dataclass
class _Producer:
    """The state of a correct producer of one member: its speech, its backend, its claim, the next seq, its last
    arrival, and how much it has written."""

    speech: Speech
    pauses: bool = False
    claim: str = ""
    seq: int = 0
    arrival_ns: int = 0
    written_bytes: int = 0


@dataclass
class _Writer:
    """Writes entries by its own clock, with ids that only rise. Scenes use its producers."""

    ms: int
    detach_ms: int
    producers: list[_Producer]
    has_speeches: bool
    number: int = 0
    stream: list[tuple[str, bytes]] = field(default_factory=list)

    def wait(self, gap_ms: int) -> None:
        if gap_ms:
            self.ms, self.number = self.ms + gap_ms, 0

    def write(self, entry: AnyEntry | bytes) -> str:
        entry_id = f"{self.ms}-{self.number}"
        self.number += 1
        self.stream.append((entry_id, entry if isinstance(entry, bytes) else encode_entry(entry)))
        return entry_id


LADDERS = ((Rung("mid", 3), Rung("low", 2)), (Rung("low", 1),), (Rung("mid", 4), Rung("low", 2)), ())
weights = st.sampled_from((1.0, 1.0, 1.0, 0.5, 3.0, 0.0, 1e-3, 7.25))
profiles = st.sampled_from(
    (
        EnergyProfile(tps_max=14.0, stall_ms=400.0, smoothing=0.35),
        EnergyProfile(tps_max=10.0, stall_ms=500.0, smoothing=0.30),
        EnergyProfile(tps_max=5.0, stall_ms=50.0, smoothing=1.0, tps_min=2.0, ceil_ms=100.0, half_life_ms=90.5),
    )
)
limits = st.builds(
    Limits,
    first_token_ms=often(60_000, 50, 300, 1_500),
    loading_ms=often(300_000, 100, 450),
    beats_without_entry=often(5, 1, 2),
    beats_without_claim=often(5, 1, 3),
    allowed_lateness_ms=st.sampled_from((20, 1)),
    life_ms=often(3_600_000, 100, 1_000, 2_499),
    unaligned_tokens=often(4_096, 1, 2, 4),
    waiting_ms=often(600_000, 100, 400),
    frontier_waits_ms=st.sampled_from((5_000, 1, 1, 50, 100, 400, 1_000)),
    claim_waits_ms=st.sampled_from((1_000, 1, 50)),
    detach_ms=st.sampled_from((400, 1_500, 50, 100, 400, 1_500)),
    loading_waits_ms=st.sampled_from((60_000, 1, 50, 100, 450, 1_000)),
)


@st.composite
def openings(draw: st.DrawFn) -> Opening:
    members = tuple(
        Member(
            f"model-{number}", draw(weights), draw(often(False, True)),
            name=draw(often("", f"name-{number}")), queues=draw(often(False, True)),
        )
        for number in range(draw(st.sampled_from((1, 2, 2, 3, 3, 3, 4))))
    )  # fmt: skip
    return Opening(
        ENTRY_VERSION, "s1", "Why?", members, tier="high", profile=draw(profiles), limits=draw(limits),
        sync=draw(st.sampled_from(("step", "step", "free"))), ladder=draw(st.sampled_from(LADDERS)),
        weighting=draw(st.sampled_from(("fixed", "fixed", "certainty"))),
    )  # fmt: skip


_piece = st.sampled_from((*(word.encode() for word in WORDS[:12]), b"\xff\xfe", b" \xf0"))
_drawn_top = st.lists(st.tuples(_piece, st.sampled_from(LOGPROBS)), max_size=5)


@st.composite
def tops(draw: st.DrawFn) -> msgspec.Raw:
    """A packed top list: short with shared pieces, 20 long with one slope, or not a list."""
    kind = draw(st.sampled_from(("short", "short", "short", "long", "other")))
    if kind == "short":
        return msgspec.Raw(msgspec.msgpack.encode(draw(_drawn_top)))
    if kind == "long":
        slope = draw(st.sampled_from((0.0, 0.1, 0.4, 1.5)))
        pieces = [*(word.encode() for word in WORDS[:4]), *(b"w%d" % number for number in range(16))]
        return msgspec.Raw(msgspec.msgpack.encode([(piece, -0.4 - slope * rank) for rank, piece in enumerate(pieces)]))
    return draw(st.sampled_from(TOPS))


def _write_speech(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """The next token of a correct producer whose member writes a speech."""
    ahead = producer.speech.ahead()
    cut, text = producer.speech.next_cut()
    # The pieces of members with other tokenizers here.
    rivals = [piece for how in CUTS for piece in cuts_of(ahead, how)[:1] if piece != cut] or [b"b"]
    # A server that does not send bytes replaces a part of a character by a stand-in.
    drawn = STAND_IN if cut != text.encode() and draw(often(False, False, True)) else cut
    top = top_around(draw(st.sampled_from(TOP_KINDS)), drawn, rivals)
    listed = next((logprob for piece, logprob in top if piece == drawn), -1.6)
    logprob = draw(st.sampled_from(LOGPROBS)) if draw(often(False, False, True)) else listed
    quality: Quality = draw(often("real", "real", "missing", "real", "placeholder"))
    producer.arrival_ns = draw(_arrivals(writer.ms * NS_PER_MS, producer.arrival_ns))
    piece = drawn if drawn != text.encode() else b""
    token = Token(
        member, producer.claim, producer.seq, "answer", text, producer.arrival_ns, writer.ms * NS_PER_MS,
        logprob, quality, piece, pack_top(top) if quality != "missing" else NO_TOP,
    )  # fmt: skip
    writer.write(token)
    producer.seq, producer.written_bytes = producer.seq + 1, producer.written_bytes + len(text.encode())


def _write_talk(draw: st.DrawFn, writer: _Writer, producers: list[_Producer]) -> None:
    """The next tokens of all members at one moment."""
    count = draw(st.sampled_from((1, 1, 2, 3)))
    for member, producer in enumerate(producers):
        for _ in range(count):
            _write_speech(draw, writer, member, producer)


def _write_token(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """The next token of a correct producer."""
    lane: Lane = draw(often("answer", "thinking"))
    text = draw(st.sampled_from(WORDS))
    quality: Quality = draw(often("real", "missing", "placeholder"))
    producer.arrival_ns = draw(_arrivals(writer.ms * NS_PER_MS, producer.arrival_ns))
    writer.write(
        Token(
            member,
            producer.claim,
            producer.seq,
            lane,
            text,
            producer.arrival_ns,
            writer.ms * NS_PER_MS,
            draw(st.sampled_from(LOGPROBS)),
            quality,
            draw(often(b"", b" the", b"\xff")),
            draw(tops()) if quality != "missing" else NO_TOP,
        )
    )
    producer.seq += 1
    producer.written_bytes += len(text.encode()) if lane == "answer" else 0


def _arrivals(now_ns: int, last_ns: int) -> st.SearchStrategy[int]:
    return st.sampled_from((now_ns - 1, now_ns - 1, now_ns - 700_001, last_ns, last_ns, now_ns - 450 * NS_PER_MS, 0))


def _write_claim(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A producer claims the member. After the first token the claim loses, and the correct producer goes on."""
    pauses = producer.pauses != draw(often(False, False, True))
    claim = writer.write(Claim(member, writer.ms * NS_PER_MS, pauses, "", draw(often(False, True))))
    if not producer.seq:
        producer.claim = claim


def _write_mark(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    kinds: tuple[type[Alive | Waiting | Loading], ...] = (Alive, Waiting, Loading, Loading)
    writer.write(draw(st.sampled_from(kinds))(member, draw(_claims(writer, producer)), _written_ns(draw, writer)))


def _write_end(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    claim, written_ns = draw(_claims(writer, producer)), _written_ns(draw, writer)
    if draw(st.booleans()):
        count = max(0, producer.seq + draw(often(0, -1, 1)))
        writer.write(Finished(member, claim, written_ns, count, draw(st.sampled_from(("stop", "length")))))
    else:
        writer.write(Failed(member, claim, written_ns, "the model failed"))


def _write_starved(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    writer.write(
        Starved(member, draw(_claims(writer, producer)), _written_ns(draw, writer), "no memory", draw(st.booleans()))
    )


def _write_odd_token(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A token out of order, of another claim, of no member, or late."""
    writer.write(
        Token(
            draw(often(member, -1, 4, 2**40)),
            draw(_claims(writer, producer)),
            producer.seq + draw(st.integers(-2, 2)),
            "answer",
            draw(st.sampled_from(WORDS)),
            writer.ms * NS_PER_MS,
            _written_ns(draw, writer),
        )
    )


def _write_council(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A beat, far more often than a cancel."""
    beat: Cancel | Beat = Beat()
    cancel = Cancel(draw(st.sampled_from(((member,), (member,), (), (member, 9), (-1,)))))
    writer.write(draw(st.sampled_from((beat, beat, beat, beat, cancel))))


def _write_garbage(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    second = Opening(ENTRY_VERSION, "s2", "Again?", (Member("model-0"),))
    no_member = Alive(draw(st.sampled_from((-1, 4, 99))), "5-0", 0)
    unclaimed = Alive(member, draw(st.sampled_from(NO_CLAIMS)), 0)
    writes: tuple[AnyEntry | bytes, ...] = (*GARBAGE, second, no_member, unclaimed)
    writer.write(draw(st.sampled_from(writes)))


def _claims(writer: _Writer, producer: _Producer) -> st.SearchStrategy[str]:
    """Mostly the correct producer's claim; else the first possible id, a later one, or a text that is not an id."""
    return often(producer.claim, "1-0", f"{writer.ms}-{writer.number}", f"{writer.ms + 9}-0", "007-0", "x")


def _written_ns(draw: st.DrawFn, writer: _Writer) -> int:
    """Now, or late by as much as is allowed, to the nanosecond."""
    late_ns: int = draw(often(0, 1 * NS_PER_MS, 20 * NS_PER_MS, 20 * NS_PER_MS + 1, -5 * NS_PER_MS))
    return writer.ms * NS_PER_MS - late_ns


# --- scenes -----------------------------------------------------------------------------------------------------------


def _write_some(draw: st.DrawFn, writer: _Writer, member: int, count: int) -> None:
    """The member's next tokens, close together."""
    for _ in range(count):
        (_write_speech if writer.has_speeches else _write_token)(draw, writer, member, writer.producers[member])
        writer.wait(draw(st.sampled_from((0, 0, 0, 1, 17))))


def _run_ahead(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """The member that is ahead goes on alone, at times with a token without bytes after its text."""
    ahead = max(range(len(writer.producers)), key=lambda number: writer.producers[number].written_bytes)
    _write_some(draw, writer, ahead, draw(st.sampled_from((2, 3, 5, 8))))
    if draw(often(False, True)):
        _write_words(writer, ahead, "answer", "")
    writer.wait(draw(st.sampled_from((17, 34, 0))))


def _leave_ahead(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A member ends with text that the others have not reached."""
    _run_ahead(draw, writer, member, producer)
    ahead = max(range(len(writer.producers)), key=lambda number: writer.producers[number].written_bytes)
    claim, seq, now_ns = writer.producers[ahead].claim, writer.producers[ahead].seq, writer.ms * NS_PER_MS
    finished, failed = Finished(ahead, claim, now_ns, seq), Failed(ahead, claim, now_ns, "the model failed")
    writer.write(draw(st.sampled_from((finished, finished, finished, failed, Cancel((ahead,))))))


def _fall_behind(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """The last member is silent, or thinks, for about `detach_ms`, while others run ahead. Then it answers again, and
    comes as far as the others or not."""
    last = min(range(len(writer.producers)), key=lambda number: writer.producers[number].written_bytes)
    for other in range(len(writer.producers)):
        _write_some(draw, writer, other, 1 if other == last else draw(st.sampled_from((2, 3, 1))))
    if draw(often(False, True)):
        _write_thought(draw, writer, last, writer.producers[last])
    writer.wait(writer.detach_ms + draw(st.sampled_from((0, 0, 1, 17, 50, -17, -1))))
    furthest = max(producer.written_bytes for producer in writer.producers)
    for _ in range(draw(st.sampled_from((12, 12, 3, 0)))):
        if writer.producers[last].written_bytes <= furthest:
            _write_some(draw, writer, last, 1)


def _write_thought(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A token of thinking in the middle of an answer."""
    _write_words(writer, member, "thinking", draw(st.sampled_from(("hm", " "))))


def _write_words(writer: _Writer, member: int, lane: Lane, text: str) -> None:
    producer, now_ns = writer.producers[member], writer.ms * NS_PER_MS
    writer.write(Token(member, producer.claim, producer.seq, lane, text, now_ns, now_ns))
    producer.seq, producer.arrival_ns = producer.seq + 1, now_ns


_SCENES = (_run_ahead, _leave_ahead, _leave_ahead, _fall_behind, _fall_behind, _write_thought)
_MARK_STEPS = (
    *(_write_claim, _write_mark, _write_mark, _write_odd_token, _write_odd_token),
    *(_write_council, _write_end, _write_garbage, _write_starved),
)
_CHANCE_STEPS = (*(_write_token,) * 24, *_MARK_STEPS, *_SCENES)
_SPEECH_STEPS = (*(_write_speech,) * 48, _write_token, *_MARK_STEPS, *_SCENES * 3)


@st.composite
def recorded(draw: st.DrawFn, *, starves: bool = True) -> Recorded:
    """A stream of one session. Nearly every member is claimed at once. Without `starves` no member starves: which of
    equal members is dropped for it depends on their order."""
    has_speeches = draw(st.booleans())
    steps = [
        step for step in (_SPEECH_STEPS if has_speeches else _CHANCE_STEPS) if starves or step is not _write_starved
    ]
    opening = draw(openings())
    opened_ms = draw(st.sampled_from((1_000, 60_000, 1_700_000_000_000)) | st.integers(1, 10**13))
    some_pause = draw(st.booleans())
    producers = [
        _Producer(draw(speeches()) if has_speeches else Speech([b"?"]), some_pause and draw(often(True, False)))
        for _ in opening.members
    ]
    writer = _Writer(opened_ms, opening.limits.detach_ms, producers, has_speeches)
    writer.write(opening)
    # Where the gaps are short, most tokens share a window.
    gaps_ms = BURST_GAPS_MS if has_speeches else draw(st.sampled_from((GAPS_MS, GAPS_MS[:12], ROUND_GAPS_MS)))
    for member, producer in enumerate(producers):
        writer.wait(draw(st.sampled_from(gaps_ms[:6])))
        if draw(often(True, False)):
            _write_claim(draw, writer, member, producer)
    if draw(often(True, False)):
        for member in range(len(producers)):
            _write_some(draw, writer, member, draw(st.sampled_from((1, 2, 4))))
    # With a favourite one member runs ahead of the others.
    favourite = draw(st.integers(0, len(producers) - 1))
    members = st.sampled_from((*range(len(producers)), *(favourite,) * draw(st.sampled_from((0, 0, 5)))))
    for _ in range(draw(st.integers(0, MAX_STEPS))):
        writer.wait(draw(st.sampled_from(gaps_ms)))
        if has_speeches and draw(often(False, True)):
            _write_talk(draw, writer, producers)
        member = draw(members)
        draw(st.sampled_from(steps))(draw, writer, member, producers[member])
    return Recorded(opening, writer.stream, draw(often(0, 1, 40, 200)))
