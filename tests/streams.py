"""Whole token streams of one session, drawn at random: mostly as producers write them, and now and then as nobody
should.

A step of a stream is one or a few entries; most are the next tokens of a member, so that what needs accepted and
aligned tokens happens often. Times favour the edges of windows and of limits, where `<` and `<=` differ.

In half of the streams members speak: each says one text in cuts of its own, and many say the same one for a while.

    one text     the | cat | sat          words      all of it reaches the same places, so that members with different
                 t h e _ c a t _ s a      characters tokenizers stand at one frontier, agree, part, and are compared
                 th|e_|ca|t_|sa|t         pairs of bytes, of which a character may need two

In the others each token is a word by chance.
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass, field
from typing import Any

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

MAX_STEPS = 50
WORDS = (" the", "the", " cat", " sat", "a", " on", "é", " 日本", "\n", " ", "\t x", "", "   ", "\u00a0", "🙂!", "\x85")
# Gaps in ms between steps: often none, often the edge of a window (50 ms are three of them), at times a stall.
GAPS_MS = (0, 0, 0, 1, 1, 3, 5, 16, 17, 17, 20, 33, 34, 50, 50, 80, 100, 150, 400, 401, 500, 1_000)
# With these, and an opening on a grid point, times meet limits exactly.
ROUND_GAPS_MS = (0, 0, 0, 50, 50, 100, 450, 500, 900, 950, 1_000)
# Bursts, and silences that let what holds in between last for 18, 30 or 48 windows.
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
class _Speech:
    """What a member has to say, in its own cuts: over and over."""

    cuts: list[bytes]
    next: int = 0
    decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def ahead(self) -> bytes:
        """What it says from here on, some of it."""
        return b"".join((self.cuts * 2)[self.next % len(self.cuts) :][:8])

    def said(self) -> tuple[bytes, str]:
        """The next cut, and the text that it completes."""
        cut = self.cuts[self.next % len(self.cuts)]
        self.next += 1
        return cut, self.decoder.decode(cut)


@dataclass
class _Producer:
    """What a good producer of one member knows: its claim, the next seq, its last token's arrival, its speech."""

    speech: _Speech
    claim: str = ""
    seq: int = 0
    arrival_ns: int = 0


@dataclass
class _Writer:
    """Writes entries at a clock of its own, in ids that only rise."""

    ms: int
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


def _often(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Five times of six the usual value."""
    return st.sampled_from((usual,) * 5 * len(others) + others)


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
    first_token_ms=_often(60_000, 50, 300, 1_500),
    loading_ms=_often(300_000, 100, 450),
    beats_without_entry=_often(5, 1, 2),
    beats_without_claim=_often(5, 1, 3),
    allowed_lateness_ms=st.sampled_from((20, 1)),
    life_ms=_often(3_600_000, 100, 1_000, 2_499),
    unaligned_tokens=_often(4_096, 1, 2, 4),
    waiting_ms=_often(600_000, 100, 400),
    frontier_waits_ms=st.sampled_from((5_000, 1, 1, 50, 100, 400, 1_000)),
)


@st.composite
def openings(draw: st.DrawFn) -> Opening:
    members = tuple(
        Member(f"model-{number}", draw(weights), draw(_often(False, True)))
        for number in range(draw(st.sampled_from((1, 2, 2, 2, 3, 3, 4))))
    )
    return Opening(
        ENTRY_VERSION, "s1", "Why?", members, tier="high", profile=draw(profiles), limits=draw(limits),
        ladder=draw(st.sampled_from(LADDERS)), weighting=draw(st.sampled_from(("fixed", "fixed", "certainty"))),
    )  # fmt: skip


_piece = st.sampled_from((*(word.encode() for word in WORDS[:12]), b"\xff\xfe", b" \xf0"))
_drawn_top = st.lists(st.tuples(_piece, st.sampled_from(LOGPROBS)), max_size=5)


@st.composite
def tops(draw: st.DrawFn) -> msgspec.Raw:
    """A packed top list: short with shared pieces, 20 long with one slope, or something that is none."""
    kind = draw(st.sampled_from(("short", "short", "short", "long", "other")))
    if kind == "short":
        return msgspec.Raw(msgspec.msgpack.encode(draw(_drawn_top)))
    if kind == "long":
        slope = draw(st.sampled_from((0.0, 0.1, 0.4, 1.5)))
        pieces = [*(word.encode() for word in WORDS[:4]), *(b"w%d" % number for number in range(16))]
        return msgspec.Raw(msgspec.msgpack.encode([(piece, -0.4 - slope * rank) for rank, piece in enumerate(pieces)]))
    return draw(st.sampled_from(TOPS))


TEXTS = ("the cat sat on 日本, é and 🙂! ", "the cat sat \tin a\u00a0hat ", "a dog ran off\n\n", "日本語は the é")
CUTS = {"words": r"\s*\S+|\s+", "characters": r".", "pairs of bytes": r"..?", "triples of bytes": r"..?.?"}
STAND_IN = "\ufffd".encode()
SURE, HALF, FIFTH = 0.0, math.log(0.5), math.log(0.2)


def _cuts(text: bytes, how: str) -> list[bytes]:
    """The text as one tokenizer would cut it; characters that are not whole are cut away first where it knows none."""
    if how.endswith("bytes"):
        return re.findall(CUTS[how].encode(), text, re.DOTALL)
    return [cut.encode() for cut in re.findall(CUTS[how], text.decode(errors="ignore"), re.DOTALL)]


@st.composite
def _speeches(draw: st.DrawFn) -> _Speech:
    """Half of the members say the first text; some leave it after a while, some begin with white space."""
    common, own = TEXTS[0], draw(st.sampled_from(TEXTS))
    parts_at = draw(st.sampled_from((len(common), len(common), 2, 4, 9)))
    text = draw(_often("", " ", "\n  ")) + common[:parts_at] + own[parts_at:]
    return _Speech(_cuts(text.encode(), draw(st.sampled_from(tuple(CUTS)))))


def _top_around(kind: str, drawn: bytes, rivals: list[bytes]) -> list[tuple[bytes, float]]:
    """A list as a server may send it, of which `drawn` is the piece that was sampled."""
    first, second, third = (rivals * 3)[:3]
    return {
        "sure": [(drawn, SURE)],
        "nearly sure": [(drawn, -1e-4), (first, -9.5), (second, -9999.0)],
        "one": [(drawn, HALF)],
        "halves": [(drawn, HALF), (first, HALF)],
        "fifths": [(piece, FIFTH) for piece in dict.fromkeys((drawn, first, second, third, b" the", b"a"))][:5],
        "marks": [(drawn, HALF), (b"", FIFTH), (STAND_IN, FIFTH)],
        "unsorted, without it": [(first, -2.3), (second, -0.7), (third, -math.inf), (b" on", 0.3)],
        "twice": [(drawn, -1.6), (first, HALF), (drawn, FIFTH)],
        "too much": [(drawn, -0.1), (first, -0.2), (b"", -0.3)],
        "none": [],
        "twenty": [(drawn, -0.7), *((b" w%d" % number, -2.0 - 0.1 * number) for number in range(19))],
        "two hundred": [(first, -0.9), *((b"%d" % number, -3.0 - 0.02 * number) for number in range(199))],
    }[kind]


# The certain ones more often: so that members agree, and that what they say differs by more than what is left out.
TOP_KINDS = (
    *("sure", "nearly sure", "halves", "fifths") * 2,
    *("one", "marks", "unsorted, without it", "twice", "too much", "none", "twenty", "two hundred"),
)


def _write_speech(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """The next token of a good producer whose member speaks."""
    ahead = producer.speech.ahead()
    cut, text = producer.speech.said()
    # What members with other tokenizers would say here.
    rivals = [piece for how in CUTS for piece in _cuts(ahead, how)[:1] if piece != cut] or [b"b"]
    # A server that knows no bytes sends a stand-in for part of a character.
    drawn = STAND_IN if cut != text.encode() and draw(_often(False, False, True)) else cut
    top = _top_around(draw(st.sampled_from(TOP_KINDS)), drawn, rivals)
    listed = next((logprob for piece, logprob in top if piece == drawn), -1.6)
    logprob = draw(st.sampled_from(LOGPROBS)) if draw(_often(False, False, True)) else listed
    quality: Quality = draw(_often("real", "real", "missing", "real", "placeholder"))
    producer.arrival_ns = draw(_arrivals(writer.ms * NS_PER_MS, producer.arrival_ns))
    piece = drawn if drawn != text.encode() else b""
    token = Token(
        member, producer.claim, producer.seq, "answer", text, producer.arrival_ns, writer.ms * NS_PER_MS,
        logprob, quality, piece, pack_top(top) if quality != "missing" else NO_TOP,
    )  # fmt: skip
    writer.write(token)
    producer.seq += 1


def _write_talk(draw: st.DrawFn, writer: _Writer, producers: list[_Producer]) -> None:
    """Everyone's next tokens at one moment."""
    count = draw(st.sampled_from((1, 1, 2, 3)))
    for member, producer in enumerate(producers):
        for _ in range(count):
            _write_speech(draw, writer, member, producer)


def _write_token(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """The next token of a good producer."""
    lane: Lane = draw(_often("answer", "thinking"))
    quality: Quality = draw(_often("real", "missing", "placeholder"))
    producer.arrival_ns = draw(_arrivals(writer.ms * NS_PER_MS, producer.arrival_ns))
    writer.write(
        Token(
            member,
            producer.claim,
            producer.seq,
            lane,
            draw(st.sampled_from(WORDS)),
            producer.arrival_ns,
            writer.ms * NS_PER_MS,
            draw(st.sampled_from(LOGPROBS)),
            quality,
            draw(_often(b"", b" the", b"\xff")),
            draw(tops()) if quality != "missing" else NO_TOP,
        )
    )
    producer.seq += 1


def _arrivals(now_ns: int, last_ns: int) -> st.SearchStrategy[int]:
    return st.sampled_from((now_ns - 1, now_ns - 1, now_ns - 700_001, last_ns, last_ns, now_ns - 450 * NS_PER_MS, 0))


def _write_claim(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A producer takes the member; from the first token on it is one too many, and the good producer goes on."""
    claim = writer.write(Claim(member, writer.ms * NS_PER_MS))
    if not producer.seq:
        producer.claim = claim


def _write_mark(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    kinds: tuple[type[Alive | Waiting | Loading], ...] = (Alive, Waiting, Loading, Loading)
    writer.write(draw(st.sampled_from(kinds))(member, draw(_claims(writer, producer)), _written_ns(draw, writer)))


def _write_end(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    claim, written_ns = draw(_claims(writer, producer)), _written_ns(draw, writer)
    if draw(st.booleans()):
        count = max(0, producer.seq + draw(_often(0, -1, 1)))
        writer.write(Finished(member, claim, written_ns, count, draw(st.sampled_from(("stop", "length")))))
    else:
        writer.write(Failed(member, claim, written_ns, "the model failed"))


def _write_starved(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    writer.write(
        Starved(member, draw(_claims(writer, producer)), _written_ns(draw, writer), "no memory", draw(st.booleans()))
    )


def _write_odd_token(draw: st.DrawFn, writer: _Writer, member: int, producer: _Producer) -> None:
    """A token out of order, of another claim, of nobody, or late."""
    writer.write(
        Token(
            draw(_often(member, -1, 4, 2**40)),
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
    nobody = Alive(draw(st.sampled_from((-1, 4, 99))), "5-0", 0)
    unclaimed = Alive(member, draw(st.sampled_from(NO_CLAIMS)), 0)
    writes: tuple[AnyEntry | bytes, ...] = (*GARBAGE, second, nobody, unclaimed)
    writer.write(draw(st.sampled_from(writes)))


def _claims(writer: _Writer, producer: _Producer) -> st.SearchStrategy[str]:
    """Mostly the good producer's; else of the first claim possible, of one that is still to come, or no entry id."""
    return _often(producer.claim, "1-0", f"{writer.ms}-{writer.number}", f"{writer.ms + 9}-0", "007-0", "x")


def _written_ns(draw: st.DrawFn, writer: _Writer) -> int:
    """Just now, or as late as is allowed, to the nanosecond."""
    late_ns: int = draw(_often(0, 1 * NS_PER_MS, 20 * NS_PER_MS, 20 * NS_PER_MS + 1, -5 * NS_PER_MS))
    return writer.ms * NS_PER_MS - late_ns


_MARK_STEPS = (
    *(_write_claim, _write_mark, _write_mark, _write_odd_token, _write_odd_token),
    *(_write_council, _write_end, _write_garbage, _write_starved),
)
_CHANCE_STEPS = (*(_write_token,) * 24, *_MARK_STEPS)
_SPEECH_STEPS = (*(_write_speech,) * 48, _write_token, *_MARK_STEPS)


@st.composite
def recorded(draw: st.DrawFn, *, starves: bool = True) -> Recorded:
    """A stream of one session. Nearly every member is claimed at once. Without `starves` nobody finds no memory: who
    makes room among equals is a matter of order."""
    speaks = draw(st.booleans())
    steps = [step for step in (_SPEECH_STEPS if speaks else _CHANCE_STEPS) if starves or step is not _write_starved]
    opening = draw(openings())
    writer = _Writer(draw(st.sampled_from((1_000, 60_000, 1_700_000_000_000)) | st.integers(1, 10**13)))
    writer.write(opening)
    # Where the gaps are short, most tokens share a window.
    gaps_ms = BURST_GAPS_MS if speaks else draw(st.sampled_from((GAPS_MS, GAPS_MS[:12], ROUND_GAPS_MS)))
    producers = [_Producer(draw(_speeches()) if speaks else _Speech([b"?"])) for _ in opening.members]
    for member, producer in enumerate(producers):
        writer.wait(draw(st.sampled_from(gaps_ms[:6])))
        if draw(_often(True, False)):
            _write_claim(draw, writer, member, producer)
    # With a favourite one member runs ahead of the others.
    favourite = draw(st.integers(0, len(producers) - 1))
    speakers = st.sampled_from((*range(len(producers)), *(favourite,) * draw(st.sampled_from((0, 0, 5)))))
    for _ in range(draw(st.integers(0, MAX_STEPS))):
        writer.wait(draw(st.sampled_from(gaps_ms)))
        if speaks and draw(_often(False, True)):
            _write_talk(draw, writer, producers)
        member = draw(speakers)
        draw(st.sampled_from(steps))(draw, writer, member, producers[member])
    return Recorded(opening, writer.stream, draw(_often(0, 1, 40, 200)))
