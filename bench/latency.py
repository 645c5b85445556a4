"""From a token to its frame: how long after its window's end a reader has the frame, beside a bare hop through Redis.

t0 -XADD-> token stream    end of window -> tick: read, close, commit -> frames -XREAD-> t1
   |------------- inherent wait ------------|--------------- past the tick ---------------|
t0 -XADD-> bare stream -XREAD-> t1                           the limit, in the same run
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import msgspec

from bench.pacing import sleep_until
from bench.receipts import Notes, Reader
from bench.report import Aim, BenchReport, quantile, table_of
from bench.speech import drawn_pieces
from bench.stage import Stage
from producers.backend import Piece
from schemas.entries import Claim, Finished, Token, encode_entry, pack_top
from schemas.grid import NS_PER_MS, NS_PER_S, due_ms, window_of_entry, window_start_ns
from schemas.keys import entry_ms
from transport.redis.connection import Pipe
from transport.sessions import origin_ns
from transport.tokens import write_entry

_TOKENS_PER_S = 50
_WARM_UP_S = 1.0
_BARE_KEY = "bench:bare"
_AIMED_RATIO = 4.0
_COLUMNS = ("hop", "p50 ms", "p99 ms", "p50 / bare p50", "p99 / bare p99")
_CAPTION = (
    "One member; {count} tokens with top-20 lists at {rate}/s and at random times, each by XADD on one connection; "
    "a reader in a process of its own blocks in XREAD on the frames. Raw: from before the XADD until the reader has "
    "the frame. Past the end: from the end of the token's window. Past the tick: from the moment at which it is due, "
    "its end rounded up to the millisecond that entry ids are made of (up to 1 ms later, by design). Bare: by "
    "turns with the tokens, the same bytes by XADD to another stream, and a blocking XREAD in the same reader. Timer: "
    "how late time.sleep returns in the writer."
)


class _Written(msgspec.Struct, frozen=True):
    """Written at `t0_ns`, which was `late_ns` after its appointment, under the id that Redis gave it."""

    t0_ns: int
    late_ns: int
    entry_id: str


class _Sent(msgspec.Struct):
    """All that was written; the n-th token has the seq n."""

    tokens: list[_Written] = []
    bare: list[_Written] = []


class _Hops(msgspec.Struct):
    """Milliseconds, one for each thing written after the warm-up."""

    raw: list[float] = []
    past_end: list[float] = []
    past_tick: list[float] = []
    bare: list[float] = []
    timer: list[float] = []


def measure(seconds: float) -> BenchReport:
    """Writes for `seconds` after a second of warming up. Raises RuntimeError or KeyError where something never came."""
    with Stage() as stage:
        stage.start("aggregator", "aggregator")
        stage.wait_until_ready()
        opening, opened = stage.open_session(("bench:writer",))
        reader = Reader(stage.url, opening.session, _BARE_KEY)
        measured_from_ns = time.time_ns() + int(_WARM_UP_S * NS_PER_S)
        sent = _write(stage.pipe, opening.session, measured_from_ns + int(seconds * NS_PER_S))
        notes = reader.notes()
        stage.check_roles()
    return _report(_hops(sent, notes, origin_ns(opened), measured_from_ns))


def _write(pipe: Pipe, session: str, until_ns: int) -> _Sent:
    """Tokens and bare entries of the same bytes by turns, at random times, so that they fall anywhere in a window."""
    sent, random, pieces = _Sent(), Random(1), drawn_pieces(0)
    (reply,) = pipe.run([write_entry(session, Claim(0, time.time_ns()))])
    claim = reply.decode()
    due_ns = time.time_ns()
    while due_ns < until_ns:
        for written in (sent.tokens, sent.bare):
            due_ns += int(random.uniform(0.5, 1.5) * NS_PER_S / _TOKENS_PER_S / 2)
            late_ns = sleep_until(due_ns)
            token = _token(claim, len(sent.tokens), pieces)
            is_bare = written is sent.bare
            command = ("XADD", _BARE_KEY, "*", "e", encode_entry(token)) if is_bare else write_entry(session, token)
            t0_ns = time.time_ns()
            (reply,) = pipe.run([command])
            written.append(_Written(t0_ns, late_ns, reply.decode()))
    pipe.run([write_entry(session, Finished(0, claim, time.time_ns(), len(sent.tokens)))])
    return sent


def _token(claim: str, seq: int, pieces: Sequence[Piece]) -> Token:
    piece, now_ns = pieces[seq % len(pieces)], time.time_ns()
    top = pack_top(list(piece.top))
    return Token(0, claim, seq, "answer", piece.text, now_ns, now_ns, piece.logprob, piece.quality, b"", top)


def _hops(sent: _Sent, notes: Notes, origin: int, measured_from_ns: int) -> _Hops:
    hops = _Hops()
    read_ns = {seq: receipt.read_ns for receipt in notes.frames for _, seq in receipt.tokens}
    for seq, token in enumerate(sent.tokens):
        if token.t0_ns >= measured_from_ns:
            window = window_of_entry(origin, entry_ms(token.entry_id))
            end_ns, tick_ns = origin + window_start_ns(window + 1), due_ms(origin, window) * NS_PER_MS
            hops.raw.append((read_ns[seq] - token.t0_ns) / NS_PER_MS)
            hops.past_end.append((read_ns[seq] - end_ns) / NS_PER_MS)
            hops.past_tick.append((read_ns[seq] - tick_ns) / NS_PER_MS)
            hops.timer.append(token.late_ns / NS_PER_MS)
    for entry in sent.bare:
        if entry.t0_ns >= measured_from_ns:
            hops.bare.append((notes.bare[entry.entry_id] - entry.t0_ns) / NS_PER_MS)
    return hops


def _report(hops: _Hops) -> BenchReport:
    caption = _CAPTION.format(count=len(hops.raw), rate=_TOKENS_PER_S)
    table = table_of("Latency: from a token written to its frame readable", caption, _COLUMNS)
    bare, bare_p99 = quantile(hops.bare, 0.5), quantile(hops.bare, 0.99)
    for name, values in (
        ("raw", hops.raw),
        ("past the end", hops.past_end),
        ("past the tick", hops.past_tick),
        ("bare", hops.bare),
        ("timer", hops.timer),
    ):
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        table.add_row(name, f"{p50:.3f}", f"{p99:.3f}", f"{p50 / bare:.1f}", f"{p99 / bare_p99:.1f}")
    past = quantile(hops.past_tick, 0.5)
    measured = f"{past:.3f} ms, {past / bare:.1f} times"
    aim = Aim(f"p50 past the tick within {_AIMED_RATIO:g} times the bare hop's", measured, past <= _AIMED_RATIO * bare)
    return BenchReport((table,), (aim,))
