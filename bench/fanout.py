"""From a committed frame to many clients: what each delivered message costs, and how late it is, beside bare writes.

this process --XADD a frame, 60/s--> Redis --> web --/frames--> N clients        CPU of the web process a message
                                       +-----> DECIPHER --> Redis --> web --/ws--> N clients
a bare process --send(), 60/s--> N clients of the same kind                      the limit, in the same run
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time

import msgspec

from bench.audience import BARE, Audience, Heard, middle_and_tail
from bench.pacing import sleep_until
from bench.report import Aim, BenchReport, table_of
from bench.stage import Stage
from bench.usage import UsageMeter
from schemas import keys
from schemas.frames import (
    FRAME_VERSION,
    AlignmentFrame,
    Frame,
    InterferenceFrame,
    Measures,
    MemberFrame,
    TokenFrame,
    encode_frame,
    frame_json,
)
from schemas.grid import NS_PER_S, window_index_at, window_start_ns
from schemas.sessions import Opening
from transport.redis.connection import Pipe
from transport.register import read_processes
from transport.sessions import origin_ns

_COUNTS = (50, 200, 500)
_MOST_S = 6.0
_SETTLE_S = 2.0
_MEMBERS = 4
# A member says something in every third window: 20 tokens a second.
_WINDOWS_A_TOKEN = 3
_AIMED_RATIO = 1.6
_AIMED_MS = 5.0
_END_S = 10.0
_COLUMNS = ("clients", "messages/s", "CPU %", "us a message", "/ bare", "p50 ms", "p99 ms")
_CAPTION = (
    "Frames of four members (about {size} bytes of JSON) committed 60 times a second. CPU of the web process, "
    "all that it does included, from /proc/<pid>/stat, for each message that a client received; a frame's protocol "
    "events are several "
    "messages in one write. Bare: one send() a client and frame, of as many bytes as our frame has. Times: "
    "from before the frame's XADD (bare: before the first send()) until each client has it; all clients read in one "
    "process beside them."
)


class _Measured(msgspec.Struct, frozen=True):
    """One row: messages a second, CPU as a share of a core, and the delays of all messages in ms."""

    messages_per_s: float
    cpu: float
    delays_ms: list[float]

    @property
    def us_a_message(self) -> float:
        return self.cpu / self.messages_per_s * 1e6


class _Writer:
    """Commits frames of a session 60 times a second, on a thread of its own; `sent_ns` says when, by window."""

    def __init__(self, url: str, opening: Opening, opened: str) -> None:
        self._url, self._opening = url, opening
        self.origin_ns = origin_ns(opened)
        self.sent_ns: dict[int, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pipe, session, window = Pipe(self._url), self._opening.session, 0
        while not self._stopping.is_set():
            raw = encode_frame(frame_of(self._opening, window))
            sleep_until(self.origin_ns + window_start_ns(window + 1))
            self.sent_ns[window] = time.time_ns()
            pipe.run(
                [
                    ("XADD", keys.frames(session), "MAXLEN", "~", keys.FRAMES_MAXLEN, keys.frame_id(window), "e", raw),
                    ("HSET", keys.state(session), "window", window),
                ]
            )
            window += 1
        pipe.close()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()


def frame_of(opening: Opening, window: int) -> Frame:
    """A frame as a session of four has it: their energies move in each, somebody writes in most."""
    members, tokens = [], []
    for index, member in enumerate(opening.members):
        text = f" word{window}" if window % _WINDOWS_A_TOKEN == index % _WINDOWS_A_TOKEN else ""
        position = 8 * window
        energy = round(0.5 + 0.3 * ((window * 7 + index * 13) % 100) / 100, 9)
        members.append(MemberFrame(member.model, "answering", energy, 20.0, 0.7, position, 0, text, "", None))
        if text:
            tokens.append(TokenFrame(index, "answer", window, position - len(text), position, -0.25, "real"))
    energy = round(sum(member.energy for member in members) / len(members), 9)
    return Frame(
        FRAME_VERSION, opening.session, window, window_start_ns(window), window_start_ns(window + 1), "step", False,
        "1-0", energy, tuple(members), tuple(tokens),
        Measures(0.25, "logprobs", 0.2, 0.25, 1.0, 0.2, 4, 0.3, 1.2, 0.8, 0.97, 0.8, "logprobs"),
        AlignmentFrame(8 * window, False, 12, "place", 0.0, 16.0), InterferenceFrame(energy), tier="high",
    )  # fmt: skip


def measure(seconds: float) -> BenchReport:
    """Three rows for each number of clients, each of min(seconds, 6) s. Raises RuntimeError where something dies."""
    seconds = min(seconds, _MOST_S)
    table, aims, size = None, list[Aim](), 0
    with Stage() as stage:
        stage.start("decipher", "consumers.decipher")
        stage.start("web", "consumers.web", "--port", "0")
        stage.wait_until_ready()
        opening, opened = stage.open_session(tuple(f"bench:member-{number}" for number in range(1, _MEMBERS + 1)))
        size = len(frame_json(frame_of(opening, 10_000)))
        table = table_of("Fan-out: from a committed frame to every client", _CAPTION.format(size=size), ("", *_COLUMNS))
        with contextlib.closing(_Writer(stage.url, opening, opened)) as writer:
            for count in _COUNTS:
                bare = _bare(count, size, seconds)
                rows = {"bare writes": bare}
                for path in ("/frames", "/ws"):
                    rows[path] = _served(stage, writer, f"{path}?session={opening.session}", count, seconds)
                for name, row in rows.items():
                    table.add_row(name, *_cells(count, row, bare))
                table.add_section()
                aims += _aims(count, rows, bare)
                stage.check_roles()
    return BenchReport((table,), tuple(aims))


def _bare(count: int, size: int, seconds: float) -> _Measured:
    """The limit: a process that does nothing but send()."""
    caster = subprocess.Popen(
        [sys.executable, "-m", "bench.bare_caster", str(count), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert caster.stdout is not None
    audience = Audience("127.0.0.1", int(caster.stdout.readline()), count, BARE)
    audience.wait_until_ready()
    began_ns, ended_ns, cpu = _measured(caster.pid, seconds)
    output, _ = caster.communicate(timeout=_END_S)
    heard = audience.end()
    sent_ns = msgspec.msgpack.decode(output, type=dict[int, int])
    return _row(heard, sent_ns, began_ns, ended_ns, cpu)


def _served(stage: Stage, writer: _Writer, path: str, count: int, seconds: float) -> _Measured:
    """The web process, with so many clients at one of its addresses."""
    web = next(record for record in read_processes(stage.pipe) if record.role == "web")
    audience = Audience("127.0.0.1", int(web.detail["port"]), count, path)
    audience.wait_until_ready()
    time.sleep(_SETTLE_S)
    began_ns, ended_ns, cpu = _measured(web.pid, seconds)
    heard = audience.end()
    origin = window_index_at(writer.origin_ns)
    # Our frames count from the session's beginning, the protocol's from the grid's.
    sent_ns = {window + (0 if path.startswith("/frames") else origin): at for window, at in writer.sent_ns.items()}
    return _row(heard, sent_ns, began_ns, ended_ns, cpu)


def _measured(pid: int, seconds: float) -> tuple[int, int, float]:
    """From when to when was measured, and the process's CPU seconds in it."""
    meter, began_ns = UsageMeter({"it": pid}), time.time_ns()
    time.sleep(seconds)
    return began_ns, time.time_ns(), meter.cpu_s()["it"]


def _row(heard: Heard, sent_ns: dict[int, int], began_ns: int, ended_ns: int, cpu_s: float) -> _Measured:
    seconds = (ended_ns - began_ns) / NS_PER_S
    return _Measured(heard.between(began_ns, ended_ns) / seconds, cpu_s / seconds, heard.delays_ms(sent_ns, began_ns))


def _cells(count: int, row: _Measured, bare: _Measured) -> list[str]:
    middle, tail = middle_and_tail(row.delays_ms)
    return [
        str(count), f"{row.messages_per_s:.0f}", f"{100 * row.cpu:.1f}", f"{row.us_a_message:.1f}",
        f"{row.us_a_message / bare.us_a_message:.2f}", f"{middle:.2f}", f"{tail:.2f}",
    ]  # fmt: skip


def _aims(count: int, rows: dict[str, _Measured], bare: _Measured) -> list[Aim]:
    aims = []
    for path in ("/frames", "/ws"):
        ratio, (middle, _) = rows[path].us_a_message / bare.us_a_message, middle_and_tail(rows[path].delays_ms)
        measured = f"{ratio:.2f} times"
        aims.append(
            Aim(
                f"{path}, {count} clients: at most {_AIMED_RATIO:g} bare writes a message",
                measured,
                ratio <= _AIMED_RATIO,
            )
        )
        aims.append(Aim(f"{path}, {count} clients: p50 under {_AIMED_MS:g} ms", f"{middle:.2f} ms", middle < _AIMED_MS))
    return aims
