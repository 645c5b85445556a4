"""`python -m bench.many_members URL MEASURED_S`: writes for all members of many sessions, from one process.

    grid    |        window g-2        |        window g-1        |          window g
                        ^ entries of half of the members           ^ window g-2 is late unless it is committed now

It reads the sessions from its standard input, as one line of JSON. It claims every member, then writes an entry for
each in every second window: in the middle of the window, in one pipeline of parts that are packed in advance, and
without replies from Redis. A millisecond after each point of the grid it asks Redis, in another pipeline, for the last
window of each session. When all sessions have been on time for half a second, or are still late after ten seconds, it
prints "ready" and measures. Then it prints its results as JSON.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, islice

import msgspec

from bench.members import drawn_pieces, token_of
from bench.module_process import READY
from bench.waiting import sleep_until
from producers.backend import Piece
from schemas import keys
from schemas.entries import Claim, encode_entry
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, window_index_at, window_start_ns
from transport.redis.connection import Pipe, accepted, pack
from transport.tokens import write_entry

# Half of the members write in one window, the others in the next.
_WINDOWS_A_TOKEN = 2
TOKENS_PER_S = FRAME_RATE_HZ // _WINDOWS_A_TOKEN
# Placeholders in a packed token, which are replaced there: msgpack packs numbers of their size in the same width.
_SEQ, _TIME_NS = 0xFEDC, 0x7ABC_DEF0_1234_5678
_UINT16, _UINT64 = struct.Struct(">BH"), struct.Struct(">BQ")
_REPLY_S = 5.0
# After the openings the aggregator has windows to catch up on.
_SETTLED_WINDOWS = FRAME_RATE_HZ // 2
_MOST_SETTLING_WINDOWS = 10 * FRAME_RATE_HZ


class WrittenSession(msgspec.Struct, frozen=True):
    """A session to write to; `origin` is the window of the global grid in which it began."""

    session: str
    members: int
    origin: int


class MeasuredWindows(msgspec.Struct, frozen=True):
    """Results of the measured time.

    late           sessions that were late, for each point of the grid, of `sessions`
    committed      windows that were committed in all
    delays_ms      how late this process itself was, for each point of the grid
    entries, written_bytes    what it wrote
    """

    sessions: int
    late: list[int]
    committed: int
    delays_ms: list[float]
    entries: int
    written_bytes: int
    seconds: float

    @property
    def windows(self) -> int:
        return self.sessions * len(self.late)


def _seq_bytes(seq: int) -> bytes:
    return _UINT16.pack(0xCD, seq)


def _time_bytes(t_ns: int) -> bytes:
    return _UINT64.pack(0xCF, t_ns)


def _parts(member: int, claim: str, piece: Piece) -> tuple[bytes, bytes, bytes]:
    """A packed token in parts: before its seq, between the seq and the two times, and after them."""
    head, rest = encode_entry(token_of(piece, member, claim, _SEQ, _TIME_NS)).split(_seq_bytes(_SEQ), 1)
    middle, _, end = rest.split(_time_bytes(_TIME_NS), 2)
    return head, middle, end


_pieces = cache(drawn_pieces)


@cache
def _bodies(member: int) -> Sequence[tuple[bytes, bytes]]:
    """All tokens of this member, which are the same in every session, without their heads."""
    return [_parts(member, "", piece)[1:] for piece in _pieces(member)]


class _Writer:
    """One member of one session. Its entries have a head of their own, and the bodies that all such members share."""

    def __init__(self, session: str, member: int, claim: str, shift: int) -> None:
        self._head, *_ = _parts(member, claim, _pieces(member)[0])
        self._bodies, self._shift = _bodies(member), shift
        self._size = len(self._head) + len(_seq_bytes(0)) + 2 * len(_time_bytes(0))
        xadd = pack([("XADD", keys.tokens(session), "NOMKSTREAM", "*", keys.ENTRY_FIELD, b"")])
        self._begin = xadd.removesuffix(b"$0\r\n\r\n")

    def xadd(self, seq: int, packed_seq: bytes, packed_now: bytes) -> tuple[bytes, ...]:
        """The command in the protocol of Redis, in parts."""
        middle, end = self._bodies[(seq + self._shift) % len(self._bodies)]
        length = b"$%d\r\n" % (self._size + len(middle) + len(end))
        return self._begin, length, self._head, packed_seq, middle, packed_now, packed_now, end, b"\r\n"


class ManyMembers:
    """All members of these sessions on a private Redis."""

    def __init__(self, url: str, sessions: Sequence[WrittenSession]) -> None:
        self._sessions = sessions
        self._writers: list[list[_Writer]] = [[] for _ in range(_WINDOWS_A_TOKEN)]
        self._writing, self._asking = _connected(url), _connected(url)
        self._writing.sendall(b"CLIENT REPLY OFF\r\n")
        self._question = pack([("HGET", keys.state(one.session), "window") for one in sessions])
        pipe = Pipe(url)
        for number, one in enumerate(sessions):
            marks = [write_entry(one.session, Claim(member, time.time_ns())) for member in range(one.members)]
            for member, claim in enumerate(pipe.run(marks)):
                writer = _Writer(one.session, member, accepted(claim).decode(), 37 * number)
                self._writers[(number + member) % _WINDOWS_A_TOKEN].append(writer)
        pipe.close()

    def write(self, tick: int) -> tuple[int, int]:
        """Writes the entries of this tick; returns (how many, their bytes on the wire)."""
        writers, seq = self._writers[tick % _WINDOWS_A_TOKEN], tick // _WINDOWS_A_TOKEN
        packed_seq, packed_now = _seq_bytes(seq), _time_bytes(time.time_ns())
        sent = b"".join([part for writer in writers for part in writer.xadd(seq, packed_seq, packed_now)])
        self._writing.sendall(sent)
        return len(writers), len(sent)

    def committed(self) -> list[int]:
        """The last committed window of each session."""
        self._asking.sendall(self._question)
        data = b""
        # A reply has two lines: its length and itself.
        while data.count(b"\r\n") < 2 * len(self._sessions):
            received = self._asking.recv(1 << 16)
            if not received:
                raise RuntimeError("Redis closed the connection")
            data += received
        return [int(line) for line in data.split(b"\r\n")[1::2]]

    def late(self, committed: list[int], window: int) -> int:
        """How many sessions have not committed this window of the global grid."""
        return sum(last < window - one.origin for one, last in zip(self._sessions, committed, strict=True))


def _connected(url: str) -> socket.socket:
    """A plain socket: the CPU of a client library would be measured as well."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_REPLY_S)
    connection.connect(url.removeprefix("unix://"))
    return connection


class _Tick(msgspec.Struct, frozen=True):
    """One window of the grid: the sessions that were late at its start, by how many ns this process was late, and what
    it wrote."""

    late: int
    delay_ns: int
    entries: int
    written_bytes: int


def _ticks(members: ManyMembers) -> Iterator[_Tick]:
    """Asks and writes, window after window."""
    first = window_index_at(time.time_ns()) + 1
    for window in count(first):
        delay_ns = sleep_until(window_start_ns(window) + NS_PER_MS)
        late = members.late(members.committed(), window - 2)
        middle_ns = (window_start_ns(window) + window_start_ns(window + 1)) // 2
        delay_ns = max(delay_ns, sleep_until(middle_ns))
        yield _Tick(late, delay_ns, *members.write(window - first))


def run(members: ManyMembers, sessions: int, measured_s: float) -> MeasuredWindows:
    """Waits until the sessions have caught up, prints "ready", and measures."""
    ticks, settled = _ticks(members), 0
    for tick in islice(ticks, _MOST_SETTLING_WINDOWS):
        settled = 0 if tick.late else settled + 1
        if settled == _SETTLED_WINDOWS:
            break
    print(READY, flush=True)
    began_ns, before = time.time_ns(), sum(members.committed())
    measured = list(islice(ticks, int(measured_s * FRAME_RATE_HZ)))
    return MeasuredWindows(
        sessions,
        [tick.late for tick in measured],
        sum(members.committed()) - before,
        [tick.delay_ns / NS_PER_MS for tick in measured],
        sum(tick.entries for tick in measured),
        sum(tick.written_bytes for tick in measured),
        (time.time_ns() - began_ns) / NS_PER_S,
    )


def main() -> None:
    url, measured_s = sys.argv[1], float(sys.argv[2])
    sessions = msgspec.json.decode(sys.stdin.buffer.readline(), type=list[WrittenSession])
    counts = run(ManyMembers(url, sessions), len(sessions), measured_s)
    print(msgspec.json.encode(counts).decode(), flush=True)


if __name__ == "__main__":
    main()
