"""`council replay`: a recording as a session of a council, drawn in a terminal or written as JSON lines.

file --Player, in this process--> session --frames--> here, the page, every frontend
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console

from council.command.ask_summary import AskSummary, print_end
from council.command.asking import EXIT_CANCELLED, EXIT_OK, close_quietly
from council.command.replay_view import draw_replay, write_replay
from council.ensemble import TurboEnsemble
from producers.replay.player import Player, PlayReport
from producers.replay.source import last_window_of
from producers.replay.timeline import FASTEST, SLOWEST
from recordings.opening import replay_opening
from recordings.plain import plain
from runtime.log import log_to_stderr
from runtime.presence import RedisPresence
from schemas.errors import CouncilError, Refused
from schemas.grid import FRAME_RATE_HZ, NS_PER_S
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import cancel_session, new_session_id, open_session

# The final frame follows a cancel within some windows.
_FINAL_FRAME_S = 2.0
# No session is longer than a day.
_MOST_SECONDS = 86_400.0


class ReplayOrder(NamedTuple):
    """What to replay and how. `rate` 0 is as fast as possible; times are seconds since the opening."""

    path: Path
    rate: float
    from_s: float
    to_s: float | None
    paused: bool
    frames: bool
    loops: bool


def parse_rate(written: str) -> float:
    """The rate; 0 for max. Raises Refused."""
    if written == "max":
        return 0.0
    try:
        rate = float(written)
    except ValueError:
        rate = math.nan
    if not SLOWEST <= rate <= FASTEST:
        raise Refused("bad_rate", f"--rate is {written!r}: give a number from {SLOWEST:g} to {FASTEST:g}, or max.")
    return rate


def parse_seconds(flag: str, written: str | None) -> float:
    """Seconds since the opening; 0 without a value. Raises Refused."""
    try:
        seconds = float(written or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MOST_SECONDS:
        raise Refused("bad_time", f"{flag} is {written!r}: give seconds from 0 to {_MOST_SECONDS:g}.")
    return seconds


async def replay_file(ensemble: TurboEnsemble, order: ReplayOrder, *, as_json: bool) -> int:
    """Replays the file, with `loops` again and again; the exit code. Raises CouncilError. Ctrl-C ends the replay."""
    if order.to_s is not None and order.to_s <= order.from_s:
        raise Refused("bad_time", "--to is not after --from: give a later end.")
    # An invalid file is refused before a council is started.
    replay_opening(order.path, "", frames=order.frames)
    length_s = (last_window_of(order.path) + 1) / FRAME_RATE_HZ
    if order.from_s >= length_s:
        raise Refused(
            "bad_time", f"--from is {order.from_s:g} and the recording is {length_s:.1f} s long: begin earlier."
        )
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    pipe = await ensemble.meet_for_replay()
    while True:
        code = await _replay_once(pipe, order, interrupted, as_json=as_json)
        if code != EXIT_OK or not order.loops or interrupted.is_set():
            return code


async def _replay_once(pipe: AsyncPipe, order: ReplayOrder, interrupted: asyncio.Event, *, as_json: bool) -> int:
    opened, opening = replay_opening(order.path, new_session_id(), frames=order.frames)
    to_ns = None if order.to_s is None else int(order.to_s * NS_PER_S)
    player = Player(
        pipe, order.path, opening, RedisPresence(log_to_stderr("council")), rate=order.rate, paused=order.paused,
        from_ns=int(order.from_s * NS_PER_S), to_ns=to_ns,
    )  # fmt: skip
    await open_session(pipe, opening, opened)
    playing = asyncio.create_task(player.run())
    waiting = asyncio.create_task(interrupted.wait())
    summary = AskSummary(opening.session, opening.tier, opening.sync)
    reading = BlockingPipe(pipe.url)
    view = (write_replay if as_json else draw_replay)(reading, opening, player, summary, interrupted)
    showing = asyncio.create_task(view)
    try:
        await asyncio.wait({playing, showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done() and playing.exception() is None and not interrupted.is_set():
            await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
        if showing.done():
            showing.result()
        elif interrupted.is_set():
            await _cancel(pipe, opening.session, showing)
        # The player also reads the last frame.
        await asyncio.wait({playing}, timeout=_FINAL_FRAME_S)
    except BrokenPipeError:
        close_quietly(sys.stdout)
        await _cancel(pipe, opening.session, showing)
        return EXIT_OK
    except CouncilError:
        await _cancel(pipe, opening.session, showing)
        raise
    finally:
        for task in (playing, waiting, showing):
            task.cancel()
        await asyncio.gather(playing, waiting, showing, return_exceptions=True)
        await reading.close()
    _show_report(player.report, summary, order, as_json=as_json)
    return EXIT_CANCELLED if interrupted.is_set() else EXIT_OK


async def _cancel(pipe: AsyncPipe, session: str, showing: asyncio.Task[None]) -> None:
    """Ends the session, and its display soon after."""
    with contextlib.suppress(CouncilError, TimeoutError):
        async with asyncio.timeout(_FINAL_FRAME_S):
            await cancel_session(pipe, session, "the replay was stopped")
    await asyncio.wait({showing}, timeout=_FINAL_FRAME_S)


def _show_report(report: PlayReport, summary: AskSummary, order: ReplayOrder, *, as_json: bool) -> None:
    """Writes what was replayed: as the last JSON line, or as a sentence."""
    if as_json:
        with contextlib.suppress(BrokenPipeError):
            line = summary.as_object() | {"replay": msgspec.structs.asdict(report)}
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()
        return
    if summary.has_frames:
        print_end(Console(), summary)
    achieved = "" if report.achieved_rate is None else f" at {report.achieved_rate:.3g} times the recorded pace"
    late = f"; {report.late} of them later than 2 ms, by {report.largest_late_ms:.0f} ms at most" if report.late else ""
    print(f"council: Replayed {report.entries} entries of {plain(order.path.name)}{achieved}{late}.", file=sys.stderr)
