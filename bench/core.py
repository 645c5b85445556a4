"""The pure core alone, without Redis or a clock: what closing a window costs, beside what msgpack takes for its frame.

Six members that have written for a second, and then for another one, which is measured:

    no token     nobody writes: energies are taken, the frontier rests
    no move      all members but one write; that one holds the frontier where it is
    move         all members write, and what they say is compared anew as the frontier moves
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import msgspec

from aggregator.session import Session, StreamEntry
from bench.report import Report, quantile, table_of
from bench.speech import TOP_K, drawn_pieces
from schemas.entries import Claim, Token, encode_entry, pack_top
from schemas.frames import decode_frame, encode_frame
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, next_grid_point_ns, window_of_entry
from schemas.keys import entry_ms
from schemas.sessions import ENTRY_VERSION, Member, Opening
from schemas.tiers import PROFILES

_MEMBERS = 6
_TOKENS_PER_S = 100
_LONGEST_S = 10.0
_OPENED_MS = 1_700_000_000_000
_ORIGIN_NS = next_grid_point_ns(_OPENED_MS * NS_PER_MS)
_RHYTHMS = {"no token": (), "no move": tuple(range(1, _MEMBERS)), "move": tuple(range(_MEMBERS))}
_CAPTION = (
    f"aggregator.session.Session.close for {_MEMBERS} members whose tokens carry {TOP_K} top entries, "
    f"{_TOKENS_PER_S} tokens/s each: CPU microseconds of a window (time.thread_time_ns over 60 windows, the median "
    "of many such seconds). msgpack: encode_frame and decode_frame of the same frames, second by second in turn. A "
    "token is what `no move` costs above `no token`, by its tokens; a move what `move` costs above that, by its "
    "moves."
)

_OPENING = Opening(
    ENTRY_VERSION,
    "bench",
    "How long does it take?",
    tuple(Member(f"bench:member-{number}") for number in range(1, _MEMBERS + 1)),
    profile=PROFILES["studio"],
)

_Windows = list[list[StreamEntry]]


class _Cost(msgspec.Struct):
    """CPU microseconds of a window, one for each measured second. `moves` and `tokens` are those of one such second."""

    close_us: list[float] = []
    msgpack_us: list[float] = []
    moves: int = 0
    tokens: int = 0


def measure(seconds: float) -> Report:
    """Takes min(seconds, 10) in all."""
    share_s = min(seconds, _LONGEST_S) / len(_RHYTHMS)
    return _report({name: _cost(writers, share_s) for name, writers in _RHYTHMS.items()})


def _cost(writers: tuple[int, ...], seconds: float) -> _Cost:
    first_second, measured = _windows(_first_second()), _windows(_tokens(writers, 1))
    cost, until = _Cost(tokens=sum(map(len, measured))), time.monotonic() + seconds
    while not cost.close_us or time.monotonic() < until:
        session = Session(_OPENING, f"{_OPENED_MS}-0")
        for entries in first_second:
            session.close(entries)
        _add_second(cost, session, measured)
    cost.moves = _moves(first_second, measured)
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


def _moves(first_second: _Windows, measured: _Windows) -> int:
    """How many of the measured windows move the frontier."""
    session, moves = Session(_OPENING, f"{_OPENED_MS}-0"), 0
    for index, entries in enumerate(first_second + measured):
        before = session.record.alignment.x
        session.close(entries)
        moves += index >= len(first_second) and session.record.alignment.x != before
    return moves


def _first_second() -> Iterator[StreamEntry]:
    for member in range(_MEMBERS):
        yield _claim(member), encode_entry(Claim(member, _OPENED_MS * NS_PER_MS))
    yield from _tokens(range(_MEMBERS), 0)


def _claim(member: int) -> str:
    return f"{_OPENED_MS}-{member + 1}"


def _tokens(writers: Iterable[int], second: int) -> Iterator[StreamEntry]:
    """What these members write in that second, in the stream's order; no two of them at the same time."""
    pieces = {member: drawn_pieces(member) for member in writers}
    for seq in range(second * _TOKENS_PER_S, (second + 1) * _TOKENS_PER_S):
        for member, drawn in pieces.items():
            at_ns = _ORIGIN_NS + (seq * _MEMBERS + member) * NS_PER_S // (_TOKENS_PER_S * _MEMBERS)
            piece = drawn[seq % len(drawn)]
            token = Token(
                member, _claim(member), seq, "answer", piece.text, at_ns, at_ns, piece.logprob, piece.quality, b"",
                pack_top(list(piece.top)),
            )  # fmt: skip
            # The sequence part keeps ids of one millisecond in order, and clear of the claims.
            yield f"{at_ns // NS_PER_MS}-{_MEMBERS + 1 + member}", encode_entry(token)


def _windows(entries: Iterable[StreamEntry]) -> _Windows:
    """A second's entries by window."""
    windows: _Windows = [[] for _ in range(FRAME_RATE_HZ)]
    for entry in entries:
        windows[window_of_entry(_ORIGIN_NS, entry_ms(entry[0])) % FRAME_RATE_HZ].append(entry)
    return windows


def _report(costs: dict[str, _Cost]) -> Report:
    columns = ("windows", "tokens each", "frontier moves", "close us", "msgpack us", "close / msgpack")
    table = table_of("The core: closing a window", _CAPTION, columns)
    close_us = {name: quantile(cost.close_us, 0.5) for name, cost in costs.items()}
    for name, cost in costs.items():
        msgpack_us = quantile(cost.msgpack_us, 0.5)
        table.add_row(
            name,
            f"{cost.tokens / FRAME_RATE_HZ:.1f}",
            f"{cost.moves} of {FRAME_RATE_HZ}",
            f"{close_us[name]:.1f}",
            f"{msgpack_us:.1f}",
            f"{close_us[name] / msgpack_us:.1f}",
        )
    table.add_section()
    token_us = (close_us["no move"] - close_us["no token"]) / costs["no move"].tokens * FRAME_RATE_HZ
    tokens_us = token_us * costs["move"].tokens / FRAME_RATE_HZ
    table.add_row("a token accepted", "", "", f"{token_us:.1f}", "", "")
    move_us = (close_us["move"] - close_us["no token"] - tokens_us) / costs["move"].moves * FRAME_RATE_HZ
    table.add_row("a move of the frontier", "", "", f"{move_us:.1f}", "", "")
    return Report((table,))
