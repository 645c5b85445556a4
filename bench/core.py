"""The pure core alone, without Redis or a clock: the cost of closing a window, beside that of msgpack for its frame.

Six members write for a second, then for another second, which is measured:

    holding       no member writes: metrics stay, energies fall
    no move       all members but one write; the frontier waits for that one
    move          one member, far behind, writes one token a window: each moves the frontier over all others' tokens
    move, agreed  the same, where all write the same text and propose the same pieces
    all write     100 tokens/s each, the most that a council of small models writes
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import msgspec

from aggregator.core.intake import StreamEntry
from aggregator.core.session import Session
from bench.members import PROMPT, TOP_K, drawn_pieces, models_of, token_of
from bench.report import Aim, BenchReport, quantile, table_of
from schemas.entries import Claim, encode_entry
from schemas.frames import decode_frame, encode_frame
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, next_grid_point_ns, window_of_entry
from schemas.keys import entry_ms
from schemas.rules.tiers import PROFILES
from schemas.sessions import ENTRY_VERSION, Member, Opening

_MEMBERS = 6
_TOKENS_PER_S = 100
_SLOW_TOKENS_PER_S = 10
_LONGEST_S = 10.0
_OPENED_MS = 1_700_000_000_000
_ORIGIN_NS = next_grid_point_ns(_OPENED_MS * NS_PER_MS)
_AIMED_MOVE_US = 60.0
_AIMED_HOLDING_US = 10.0


class _Rhythm(msgspec.Struct, frozen=True):
    """The tokens of each member in the first second and in the measured one."""

    before: tuple[int, ...]
    measured: tuple[int, ...]
    is_agreed: bool = False


_ALL = (_TOKENS_PER_S,) * _MEMBERS
_NONE = (0,) * _MEMBERS
_ONE_BEHIND = (_SLOW_TOKENS_PER_S, *_ALL[1:])
_ONE = (FRAME_RATE_HZ, *_NONE[1:])
_RHYTHMS = {
    "holding": _Rhythm(_ALL, _NONE),
    "no move": _Rhythm(_ALL, (0, *_ALL[1:])),
    "move": _Rhythm(_ONE_BEHIND, _ONE),
    "move, agreed": _Rhythm(_ONE_BEHIND, _ONE, is_agreed=True),
    "all write": _Rhythm(_ALL, _ALL),
}
_CAPTION = (
    f"Close: aggregator.core.session.Session.close for {_MEMBERS} members with top-{TOP_K} lists, CPU time of one "
    "window (time.thread_time_ns over 60 windows, the median of many such seconds). msgpack: encode_frame and "
    "decode_frame of the same frames, in turn with them. One token: what `no move` costs above `holding`, divided by "
    "its tokens. One move: what `move` costs above `holding` and its tokens, divided by its moves."
)

_OPENING = Opening(
    ENTRY_VERSION,
    "bench",
    PROMPT,
    tuple(map(Member, models_of(_MEMBERS))),
    profile=PROFILES["studio"],
)

_Windows = list[list[StreamEntry]]


class _Cost(msgspec.Struct):
    """CPU microseconds of a window, one value for each measured second. `moves` and `tokens` are of one second."""

    close_us: list[float] = []
    msgpack_us: list[float] = []
    moves: int = 0
    tokens: int = 0

    @property
    def median_us(self) -> float:
        return quantile(self.close_us, 0.5)


def measure(seconds: float) -> BenchReport:
    """Takes min(seconds, 10) in all."""
    share_s = min(seconds, _LONGEST_S) / len(_RHYTHMS)
    return _report({name: _cost(rhythm, share_s) for name, rhythm in _RHYTHMS.items()})


def _cost(rhythm: _Rhythm, seconds: float) -> _Cost:
    before, measured = _windows(_first_second(rhythm)), _windows(_second_second(rhythm))
    cost, until = _Cost(tokens=sum(rhythm.measured)), time.monotonic() + seconds
    while not cost.close_us or time.monotonic() < until:
        session = Session(_OPENING, f"{_OPENED_MS}-0")
        for entries in before:
            session.close(entries)
        _add_second(cost, session, measured)
    cost.moves = _moves(before, measured)
    return cost


def _add_second(cost: _Cost, session: Session, measured: _Windows) -> None:
    """Closes the windows of a second; encodes and decodes their frames."""
    began_ns = time.thread_time_ns()
    frames = [session.close(entries).frame for entries in measured]
    closed_ns = time.thread_time_ns()
    for frame in frames:
        decode_frame(encode_frame(frame))
    done_ns = time.thread_time_ns()
    cost.close_us.append((closed_ns - began_ns) / 1000 / len(frames))
    cost.msgpack_us.append((done_ns - closed_ns) / 1000 / len(frames))


def _moves(before: _Windows, measured: _Windows) -> int:
    """How many of the measured windows move the frontier."""
    session, moves = Session(_OPENING, f"{_OPENED_MS}-0"), 0
    for index, entries in enumerate(before + measured):
        x = session.record.alignment.x
        session.close(entries)
        moves += index >= len(before) and session.record.alignment.x != x
    return moves


def _first_second(rhythm: _Rhythm) -> Iterator[StreamEntry]:
    for member in range(_MEMBERS):
        yield _claim(member), encode_entry(Claim(member, _OPENED_MS * NS_PER_MS))
    yield from _tokens(rhythm.before, _NONE, 0, rhythm.is_agreed)


def _second_second(rhythm: _Rhythm) -> Iterator[StreamEntry]:
    return _tokens(rhythm.measured, rhythm.before, 1, rhythm.is_agreed)


def _claim(member: int) -> str:
    return f"{_OPENED_MS}-{member + 1}"


def _tokens(counts: tuple[int, ...], seqs: tuple[int, ...], second: int, is_agreed: bool) -> Iterator[StreamEntry]:
    """The tokens of that second in stream order: `counts` for each member, from its seq in `seqs` on."""
    # One millisecond past the grid's point, whose own millisecond may begin in the window before.
    began_ns = _ORIGIN_NS + second * NS_PER_S + NS_PER_MS
    placed = sorted(
        (began_ns + (index * _MEMBERS + member) * NS_PER_S // (count * _MEMBERS), member, index)
        for member, count in enumerate(counts)
        for index in range(count)
    )
    pieces = [drawn_pieces(0 if is_agreed else member) for member in range(_MEMBERS)]
    for number, (at_ns, member, index) in enumerate(placed):
        seq = seqs[member] + index
        piece = pieces[member][seq % len(pieces[member])]
        token = token_of(piece, member, _claim(member), seq, at_ns)
        # The second part of the id orders the entries of one millisecond, and differs from those of the claims.
        yield f"{at_ns // NS_PER_MS}-{_MEMBERS + 1 + number}", encode_entry(token)


def _windows(entries: Iterable[StreamEntry]) -> _Windows:
    """A second's entries by window."""
    windows: _Windows = [[] for _ in range(FRAME_RATE_HZ)]
    for entry in entries:
        windows[window_of_entry(_ORIGIN_NS, entry_ms(entry[0])) % FRAME_RATE_HZ].append(entry)
    return windows


def _report(costs: dict[str, _Cost]) -> BenchReport:
    columns = ("windows", "tokens/window", "frontier moves", "close µs", "msgpack µs", "close / msgpack")
    table = table_of("The core: closing a window", _CAPTION, columns)
    for name, cost in costs.items():
        msgpack_us = quantile(cost.msgpack_us, 0.5)
        table.add_row(
            name,
            f"{cost.tokens / FRAME_RATE_HZ:.1f}",
            f"{cost.moves} of {FRAME_RATE_HZ}",
            f"{cost.median_us:.1f}",
            f"{msgpack_us:.1f}",
            f"{cost.median_us / msgpack_us:.1f}",
        )
    table.add_section()
    holding_us = costs["holding"].median_us
    token_us = (costs["no move"].median_us - holding_us) / costs["no move"].tokens * FRAME_RATE_HZ
    table.add_row("one token", "", "", f"{token_us:.1f}", "", "")
    moves_us = [_move_us(costs[name], holding_us, token_us) for name in ("move", "move, agreed")]
    for name, move_us in zip(("one move of the frontier", "one move, agreed"), moves_us, strict=True):
        table.add_row(name, "", "", f"{move_us:.1f}", "", "")
    move_us = max(moves_us)
    return BenchReport(
        (table,),
        (
            Aim(f"a move of the frontier within {_AIMED_MOVE_US:g} µs", f"{move_us:.1f} µs", move_us <= _AIMED_MOVE_US),
            Aim(
                f"a holding frame within {_AIMED_HOLDING_US:g} µs",
                f"{holding_us:.1f} µs",
                holding_us < _AIMED_HOLDING_US,
            ),
        ),
    )


def _move_us(cost: _Cost, holding_us: float, token_us: float) -> float:
    """The cost of one move: what a rhythm costs above holding frames and its tokens, divided by its moves."""
    return (cost.median_us - holding_us - token_us * cost.tokens / FRAME_RATE_HZ) / cost.moves * FRAME_RATE_HZ
