"""From a committed frame to many clients: the cost and the delay of each delivered message, beside bare writes.

this process --XADD a frame, 60/s--> Redis --> web --/frames--> N clients        CPU of the web process per message
                                       +-----> DECIPHER --> Redis --> web --/ws--> N clients
a bare process --send(), 60/s--> N clients of the same kind                      the limit, in the same run
"""

from __future__ import annotations

import contextlib
import threading
import time

import msgspec

from bench.clients import BARE, Arrivals, arrivals_of, connected_clients, median_and_p99
from bench.members import models_of
from bench.module_process import module_process
from bench.private_roles import PrivateRoles
from bench.report import Aim, BenchReport, table_of
from bench.usage import UsageMeter
from bench.waiting import sleep_until
from schemas import keys
from schemas.frame_json import frame_json
from schemas.frames import (
    FRAME_VERSION,
    AlignmentFrame,
    Frame,
    InterferenceFrame,
    Measures,
    MemberFrame,
    TokenFrame,
    encode_frame,
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
# A member writes in every third window: 20 tokens a second.
_WINDOWS_A_TOKEN = 3
_AIMED_RATIO = 1.6
_AIMED_MS = 5.0
_PATHS = ("/frames", "/ws")
_COLUMNS = ("clients", "messages/s", "CPU %", "µs/message", "/ bare", "p50 ms", "p99 ms")
_CAPTION = (
    "Frames of four members (about {size} bytes of JSON), committed 60 times a second. CPU: the whole web process, in "
    "% of one core, from /proc/<pid>/stat, and per message that a client received. The protocol events of one frame "
    "are several messages in one write. Bare: one send() per client and frame, of as many bytes as a frame has. "
    "Delays: from before the frame's XADD (bare: before the first send()) until each client has the message. All "
    "clients run in one process on the same machine."
)


class _Row(msgspec.Struct, frozen=True):
    """Messages a second, CPU as a share of one core, and the delays of all messages in ms."""

    messages_per_s: float
    cpu: float
    delays_ms: list[float]

    @property
    def us_a_message(self) -> float:
        return self.cpu / self.messages_per_s * 1e6


class FrameWriter:
    """Commits frames of a session 60 times a second, on a thread of its own."""

    def __init__(self, url: str, opening: Opening, opened: str) -> None:
        self._url, self._opening = url, opening
        self.origin_ns = origin_ns(opened)
        # By window. A list: the thread appends to it while another one reads it.
        self._sent_ns: list[int] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sent_ns(self, first_window: int) -> dict[int, int]:
        """When each frame was sent so far, by its window, where the session's first one counts as `first_window`."""
        return dict(enumerate(self._sent_ns, first_window))

    def _run(self) -> None:
        pipe, session, window = Pipe(self._url), self._opening.session, 0
        while not self._stopping.is_set():
            raw = encode_frame(frame_of(self._opening, window))
            sleep_until(self.origin_ns + window_start_ns(window + 1))
            self._sent_ns.append(time.time_ns())
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
    """A frame as in a session of four: all energies change in each frame, one or two members write in each."""
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
    """Three rows for each number of clients, each of min(seconds, 6) s. Raises RuntimeError where a process dies."""
    seconds = min(seconds, _MOST_S)
    aims: list[Aim] = []
    with PrivateRoles() as roles:
        roles.start("decipher", "consumers.decipher")
        roles.start("web", "consumers.web", "--port", "0")
        roles.wait_until_ready()
        opening, opened = roles.open_session(models_of(_MEMBERS))
        size = len(frame_json(frame_of(opening, 10_000)))
        table = table_of("Fan-out: from a committed frame to every client", _CAPTION.format(size=size), ("", *_COLUMNS))
        with contextlib.closing(FrameWriter(roles.url, opening, opened)) as writer:
            for count in _COUNTS:
                bare = _bare_row(count, size, seconds)
                rows = {path: _served_row(roles, writer, path, opening.session, count, seconds) for path in _PATHS}
                for name, row in {"bare writes": bare, **rows}.items():
                    table.add_row(name, *_cells(count, row, bare))
                table.add_section()
                for path, row in rows.items():
                    aims += _aims(f"{path}, {count} clients", row, bare)
                roles.check()
    return BenchReport((table,), tuple(aims))


def _bare_row(count: int, size: int, seconds: float) -> _Row:
    """The limit: a process that only calls send()."""
    with (
        module_process("bench.bare_sender", str(count), str(size)) as sender,
        connected_clients("127.0.0.1", int(sender.line()), count, BARE) as clients,
    ):
        began_ns, ended_ns, cpu_s = _cpu_of(sender.pid, seconds)
        sent_ns = msgspec.msgpack.decode(sender.end(), type=dict[int, int])
        return _row(arrivals_of(clients), sent_ns, began_ns, ended_ns, cpu_s)


def _served_row(roles: PrivateRoles, writer: FrameWriter, path: str, session: str, count: int, seconds: float) -> _Row:
    """The web process, with this many clients at one of its paths."""
    web = next(record for record in read_processes(roles.pipe) if record.role == "web")
    with connected_clients("127.0.0.1", int(web.detail["port"]), count, f"{path}?session={session}") as clients:
        time.sleep(_SETTLE_S)
        began_ns, ended_ns, cpu_s = _cpu_of(web.pid, seconds)
        arrivals = arrivals_of(clients)
    # Frames count windows from the session's origin, the protocol counts them on the global grid.
    first_window = 0 if path == "/frames" else window_index_at(writer.origin_ns)
    return _row(arrivals, writer.sent_ns(first_window), began_ns, ended_ns, cpu_s)


def _cpu_of(pid: int, seconds: float) -> tuple[int, int, float]:
    """(start, end, CPU seconds of the process between them)."""
    meter, began_ns = UsageMeter({"process": pid}), time.time_ns()
    time.sleep(seconds)
    return began_ns, time.time_ns(), meter.cpu_s()["process"]


def _row(arrivals: Arrivals, sent_ns: dict[int, int], began_ns: int, ended_ns: int, cpu_s: float) -> _Row:
    seconds = (ended_ns - began_ns) / NS_PER_S
    delays_ms = arrivals.delays_ms(sent_ns, began_ns)
    return _Row(arrivals.between(began_ns, ended_ns) / seconds, cpu_s / seconds, delays_ms)


def _cells(count: int, row: _Row, bare: _Row) -> list[str]:
    median, p99 = median_and_p99(row.delays_ms)
    return [
        str(count), f"{row.messages_per_s:.0f}", f"{100 * row.cpu:.1f}", f"{row.us_a_message:.1f}",
        f"{row.us_a_message / bare.us_a_message:.2f}", f"{median:.2f}", f"{p99:.2f}",
    ]  # fmt: skip


def _aims(what: str, row: _Row, bare: _Row) -> tuple[Aim, Aim]:
    ratio, (median, _) = row.us_a_message / bare.us_a_message, median_and_p99(row.delays_ms)
    return (
        Aim(
            f"{what}: a message costs at most {_AIMED_RATIO:g} times a bare write",
            f"{ratio:.2f} times",
            ratio <= _AIMED_RATIO,
        ),
        Aim(f"{what}: p50 under {_AIMED_MS:g} ms", f"{median:.2f} ms", median < _AIMED_MS),
    )
