"""`python -m bench.crowd_writer URL MEASURED_S`: what the producers of many sessions write, from one process.

    grid    |        window g-2        |        window g-1        |          window g
                        ^ entries of half of the members           ^ by now g-2 must be committed: else it is late

On its standard input it is given the sessions. It claims every member, and from then on writes an entry for each every
other window: in the middle of the window, in one pipeline, of parts that were packed beforehand, and Redis does not
reply. A millisecond after each point of the grid it asks Redis, in another pipeline, how far each session is. When all
of them have been on time for a while, or do not come to be, it says "measuring", and it ends with what it found.
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

from bench.pacing import sleep_until
from bench.speech import drawn_pieces
from producers.backend import Piece
from schemas import keys
from schemas.entries import Claim, Token, encode_entry, pack_top
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, NS_PER_S, window_index_at, window_start_ns
from transport.redis.connection import Pipe, accepted, pack
from transport.tokens import write_entry

# Half of the members write in one window, the others in the next.
_WINDOWS_A_TOKEN = 2
TOKENS_PER_S = FRAME_RATE_HZ // _WINDOWS_A_TOKEN
MEASURING = "measuring"
# Found again in a packed token, and replaced there: msgpack takes numbers as large as these at this width.
_SEQ, _TIME_NS = 0xFEDC, 0x7ABC_DEF0_1234_5678
_UINT16, _UINT64 = struct.Struct(">BH"), struct.Struct(">BQ")
_REPLY_S = 5.0
# After the openings the aggregator has windows to catch up on.
_SETTLED_WINDOWS = FRAME_RATE_HZ // 2
_MOST_SETTLING_WINDOWS = 10 * FRAME_RATE_HZ


class Told(msgspec.Struct, frozen=True):
    """A session to write to; `origin` is the window of the global grid with which it began."""

    session: str
    members: int
    origin: int


class Found(msgspec.Struct, frozen=True):
    """Of the measured time: how many sessions were asked for at each point of the grid, how many of them were late
    there, and how many windows were committed in all; how late this process was itself (ms); and what it wrote."""

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
    """Of a packed token: what stands before its seq, between that and its two times, and behind them."""
    top = pack_top(list(piece.top))
    token = Token(
        member, claim, _SEQ, "answer", piece.text, _TIME_NS, _TIME_NS, piece.logprob, piece.quality, b"", top
    )  # fmt: skip
    head, rest = encode_entry(token).split(_seq_bytes(_SEQ), 1)
    middle, _, end = rest.split(_time_bytes(_TIME_NS), 2)
    return head, middle, end


_pieces = cache(drawn_pieces)


@cache
def _bodies(member: int) -> Sequence[tuple[bytes, bytes]]:
    """All that this member of any session ever says, without the heads."""
    return [_parts(member, "", piece)[1:] for piece in _pieces(member)]


class _Speaker:
    """One member of one session. Its entries stand between a head of its own and the bodies of all such members."""

    def __init__(self, session: str, member: int, claim: str, shift: int) -> None:
        self._head, *_ = _parts(member, claim, _pieces(member)[0])
        self._bodies, self._shift = _bodies(member), shift
        self._size = len(self._head) + len(_seq_bytes(0)) + 2 * len(_time_bytes(0))
        xadd = pack([("XADD", keys.tokens(session), "NOMKSTREAM", "*", keys.ENTRY_FIELD, b"")])
        self._begin = xadd.removesuffix(b"$0\r\n\r\n")

    def xadd(self, seq: int, packed_seq: bytes, packed_now: bytes) -> tuple[bytes, ...]:
        """The command as Redis reads it, in pieces."""
        middle, end = self._bodies[(seq + self._shift) % len(self._bodies)]
        length = b"$%d\r\n" % (self._size + len(middle) + len(end))
        return self._begin, length, self._head, packed_seq, middle, packed_now, packed_now, end, b"\r\n"


class Crowd:
    """All members of some sessions on a private Redis."""

    def __init__(self, url: str, told: Sequence[Told]) -> None:
        self._told = told
        self._speakers: list[list[_Speaker]] = [[] for _ in range(_WINDOWS_A_TOKEN)]
        self._writing, self._asking = _connected(url), _connected(url)
        self._writing.sendall(b"CLIENT REPLY OFF\r\n")
        self._question = pack([("HGET", keys.state(one.session), "window") for one in told])
        pipe = Pipe(url)
        for number, one in enumerate(told):
            marks = [write_entry(one.session, Claim(member, time.time_ns())) for member in range(one.members)]
            for member, claim in enumerate(pipe.run(marks)):
                speaker = _Speaker(one.session, member, accepted(claim).decode(), 37 * number)
                self._speakers[(number + member) % _WINDOWS_A_TOKEN].append(speaker)
        pipe.close()

    def write(self, tick: int) -> tuple[int, int]:
        """The tick's entries; how many, and how many bytes on the wire."""
        speakers, seq = self._speakers[tick % _WINDOWS_A_TOKEN], tick // _WINDOWS_A_TOKEN
        packed_seq, packed_now = _seq_bytes(seq), _time_bytes(time.time_ns())
        sent = b"".join([part for speaker in speakers for part in speaker.xadd(seq, packed_seq, packed_now)])
        self._writing.sendall(sent)
        return len(speakers), len(sent)

    def committed(self) -> list[int]:
        """The last committed window of each session."""
        self._asking.sendall(self._question)
        data = b""
        # Of each answer two lines: its length and itself.
        while data.count(b"\r\n") < 2 * len(self._told):
            data += self._asking.recv(1 << 16)
        return [int(line) for line in data.split(b"\r\n")[1::2]]

    def late(self, committed: list[int], window: int) -> int:
        """How many sessions have not committed this window of the global grid."""
        return sum(last < window - one.origin for one, last in zip(self._told, committed, strict=True))


def _connected(url: str) -> socket.socket:
    """A bare connection: whatever stands between would be measured with it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_REPLY_S)
    connection.connect(url.removeprefix("unix://"))
    return connection


class _Seen(msgspec.Struct, frozen=True):
    """One window of the grid: how many sessions were late at its beginning, what this process was late by (ns) and what
    it wrote."""

    late: int
    delay_ns: int
    entries: int
    written_bytes: int


def _ticks(crowd: Crowd) -> Iterator[_Seen]:
    """Asks and writes, window after window."""
    first = window_index_at(time.time_ns()) + 1
    for window in count(first):
        delay_ns = sleep_until(window_start_ns(window) + NS_PER_MS)
        late = crowd.late(crowd.committed(), window - 2)
        middle_ns = (window_start_ns(window) + window_start_ns(window + 1)) // 2
        delay_ns = max(delay_ns, sleep_until(middle_ns))
        yield _Seen(late, delay_ns, *crowd.write(window - first))


def run(crowd: Crowd, sessions: int, measured_s: float) -> Found:
    """What was found in so many seconds, after the sessions had caught up."""
    ticks, settled = _ticks(crowd), 0
    for seen in islice(ticks, _MOST_SETTLING_WINDOWS):
        settled = 0 if seen.late else settled + 1
        if settled == _SETTLED_WINDOWS:
            break
    print(MEASURING, flush=True)
    began_ns, before = time.time_ns(), sum(crowd.committed())
    measured = list(islice(ticks, int(measured_s * FRAME_RATE_HZ)))
    return Found(
        sessions,
        [seen.late for seen in measured],
        sum(crowd.committed()) - before,
        [seen.delay_ns / NS_PER_MS for seen in measured],
        sum(seen.entries for seen in measured),
        sum(seen.written_bytes for seen in measured),
        (time.time_ns() - began_ns) / NS_PER_S,
    )


def main() -> None:
    url, measured_s = sys.argv[1], float(sys.argv[2])
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=list[Told])
    found = run(Crowd(url, told), len(told), measured_s)
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main()
