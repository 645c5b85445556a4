"""From a token to its frame: how long after its window's end a reader has the frame, beside one entry through Redis.

t0 -XADD-> token stream    end of window -> tick: read, close, commit -> frames -XREAD-> t1
   |------------ wait by design ------------|--------------- past the tick ---------------|
t0 -XADD-> bare stream -XREAD-> t1                           the limit, in the same run
"""

from __future__ import annotations

import time
from random import Random

import msgspec

from bench.frame_reader import Receipts, frame_reader, receipts_of
from bench.members import TOP_K, drawn_pieces, token_of
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, quantile, table_of
from bench.waiting import sleep_until
from schemas.entries import Claim, Finished, encode_entry
from schemas.grid import NS_PER_MS, NS_PER_S, due_ms, window_of_entry, window_start_ns
from schemas.keys import entry_ms
from transport.redis.connection import Pipe
from transport.sessions import origin_ns
from transport.tokens import write_entry

_TOKENS_PER_S = 50
_WARM_UP_S = 1.0
_BARE_KEY = "bench:bare"
_AIMED_RATIO = 4.0
_COLUMNS = ("", "p50 ms", "p99 ms", "p50 / bare p50", "p99 / bare p99")
_CAPTION = (
    f"One member writes {{count}} tokens with top-{TOP_K} lists, {{rate}}/s at random times, each with one XADD on "
    "one connection. A reader in a process of its own blocks in XREAD on the frames. Raw: from before the XADD until "
    "the reader has the frame. Past the end: from the end of the token's window. Past the tick: from the moment at "
    "which the window is due, its end rounded up to a millisecond, the unit of entry ids. Bare: the same bytes, in "
    "turn with the tokens, by XADD to another stream and a blocking XREAD in the same reader. Timer: how late "
    "time.sleep returns in the writer."
)


class _Written(msgspec.Struct, frozen=True):
    """An entry: when it was written, how many ns after its due time that was, and its id."""

    t0_ns: int
    late_ns: int
    entry_id: str


class _Sent(msgspec.Struct):
    """All entries; the n-th token has the seq n."""

    tokens: list[_Written] = []
    bare: list[_Written] = []


class _Delays(msgspec.Struct):
    """Milliseconds, one value for each entry written after the warm-up."""

    raw: list[float] = []
    past_end: list[float] = []
    past_tick: list[float] = []
    bare: list[float] = []
    timer: list[float] = []


def measure(seconds: float) -> BenchReport:
    """Writes for `seconds` after a second of warming up. Raises RuntimeError where a process dies, KeyError where the
    reader has not received an entry."""
    with PrivateRoles() as roles:
        roles.start("aggregator", "aggregator")
        roles.wait_until_ready()
        opening, opened = roles.open_session(("bench:writer",))
        with frame_reader(roles.url, opening.session, _BARE_KEY) as reader:
            measured_from_ns = time.time_ns() + int(_WARM_UP_S * NS_PER_S)
            sent = _write(roles.pipe, opening.session, measured_from_ns + int(seconds * NS_PER_S))
            receipts = receipts_of(reader)
        roles.check()
    return _report(_delays(sent, receipts, origin_ns(opened), measured_from_ns))


def _write(pipe: Pipe, session: str, until_ns: int) -> _Sent:
    """Writes tokens and bare entries of the same bytes in turn, at random times, so anywhere in a window."""
    sent, random, pieces = _Sent(), Random(1), drawn_pieces(0)
    (reply,) = pipe.run([write_entry(session, Claim(0, time.time_ns()))])
    claim = reply.decode()
    due_ns = time.time_ns()
    while due_ns < until_ns:
        for written in (sent.tokens, sent.bare):
            due_ns += int(random.uniform(0.5, 1.5) * NS_PER_S / _TOKENS_PER_S / 2)
            late_ns = sleep_until(due_ns)
            seq = len(sent.tokens)
            token = token_of(pieces[seq % len(pieces)], 0, claim, seq, time.time_ns())
            is_bare = written is sent.bare
            command = ("XADD", _BARE_KEY, "*", "e", encode_entry(token)) if is_bare else write_entry(session, token)
            t0_ns = time.time_ns()
            (reply,) = pipe.run([command])
            written.append(_Written(t0_ns, late_ns, reply.decode()))
    pipe.run([write_entry(session, Finished(0, claim, time.time_ns(), len(sent.tokens)))])
    return sent


def _delays(sent: _Sent, receipts: Receipts, origin: int, measured_from_ns: int) -> _Delays:
    delays = _Delays()
    read_ns = {seq: receipt.read_ns for receipt in receipts.frames for _, seq in receipt.tokens}
    for seq, token in enumerate(sent.tokens):
        if token.t0_ns >= measured_from_ns:
            window = window_of_entry(origin, entry_ms(token.entry_id))
            end_ns, tick_ns = origin + window_start_ns(window + 1), due_ms(origin, window) * NS_PER_MS
            delays.raw.append((read_ns[seq] - token.t0_ns) / NS_PER_MS)
            delays.past_end.append((read_ns[seq] - end_ns) / NS_PER_MS)
            delays.past_tick.append((read_ns[seq] - tick_ns) / NS_PER_MS)
            delays.timer.append(token.late_ns / NS_PER_MS)
    for entry in sent.bare:
        if entry.t0_ns >= measured_from_ns:
            delays.bare.append((receipts.bare[entry.entry_id] - entry.t0_ns) / NS_PER_MS)
    return delays


def _report(delays: _Delays) -> BenchReport:
    caption = _CAPTION.format(count=len(delays.raw), rate=_TOKENS_PER_S)
    table = table_of("Latency: from a token written to its frame readable", caption, _COLUMNS)
    bare, bare_p99 = quantile(delays.bare, 0.5), quantile(delays.bare, 0.99)
    for name, values in (
        ("raw", delays.raw),
        ("past the end", delays.past_end),
        ("past the tick", delays.past_tick),
        ("bare", delays.bare),
        ("timer", delays.timer),
    ):
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        table.add_row(name, f"{p50:.3f}", f"{p99:.3f}", f"{p50 / bare:.1f}", f"{p99 / bare_p99:.1f}")
    past = quantile(delays.past_tick, 0.5)
    measured = f"{past:.3f} ms, {past / bare:.1f} times"
    aim = Aim(f"p50 past the tick within {_AIMED_RATIO:g} times the bare p50", measured, past <= _AIMED_RATIO * bare)
    return BenchReport((table,), (aim,))
