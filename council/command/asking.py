"""`council ask`: one session to its end, with a summary.

step, free    drawn in a terminal, a lane for each member; JSON lines where the output is not a terminal
consensus     the council's text alone on standard output, as it is agreed; all else on standard error
--json        JSON lines
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TextIO

import msgspec
from rich.console import Console
from rich.live import Live

from council.command.agreed_text import AgreedText
from council.command.ask_summary import AskSummary, print_end
from council.command.awaited import Awaited
from council.command.lanes import Lanes
from council.command.terminal_keys import pressed_keys
from council.ensemble import TurboEnsemble
from council.ensemble_session import EnsembleSession
from council.recording.keep import RecordingOrder, size_for_a_person
from recordings.plain import plain
from schemas.errors import CouncilError, SetBack, Unavailable
from schemas.frame_json import frame_json

EXIT_OK, EXIT_FAILED, EXIT_CANCELLED = 0, 1, 130
_DRAWN_HZ = 15
# A final frame follows a cancel within some windows.
_FINAL_FRAME_S = 2.0
# After this time a message explains the wait.
_EXPLAINED_AFTER_S = 0.5


async def ask(
    ensemble: TurboEnsemble,
    opening: asyncio.Task[EnsembleSession],
    *,
    as_json: bool,
    record: RecordingOrder | None = None,
) -> int:
    """Runs the session that `opening` opens to its end, and records it if `record` is given; returns the exit code.
    `as_json`: the user has requested JSON. Raises CouncilError. Ctrl-C and SIGTERM cancel the session, not the
    council."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupted.set)
    waiting = asyncio.create_task(interrupted.wait())
    await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=_EXPLAINED_AFTER_S)
    if not opening.done() and ensemble.is_private and not as_json and sys.stdout.isatty():
        print("council: No council runs on this machine; starting a private one for this call.", file=sys.stderr)
    await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, CouncilError):
            await opening
        return EXIT_CANCELLED
    session = await opening
    for warning in session.warnings:
        _say(warning)
    shown = _Shown(session, as_json=as_json)
    showing = asyncio.create_task(_show(session, shown))
    recording = asyncio.create_task(_record(session, record)) if record else None
    try:
        await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            await _cancel(session, showing)
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        _finish(shown)
        if recording is not None:
            await recording
    except BrokenPipeError:
        # The reader of the lines has closed its end.
        await session.cancel()
        close_quietly(sys.stdout)
        if recording is not None:
            await recording
        return EXIT_OK
    except OSError as error:
        # Standard output takes no more, as on a full disk.
        with contextlib.suppress(CouncilError):
            await session.cancel()
        close_quietly(sys.stdout)
        reason = error.strerror or error
        raise Unavailable(
            f"The output cannot be written ({reason}): make room for it, or write it elsewhere."
        ) from None
    except CouncilError:
        with contextlib.suppress(CouncilError):
            await session.cancel()
        if shown.summary.has_frames:
            _finish(shown)
        if interrupted.is_set():
            return EXIT_CANCELLED
        raise
    finally:
        waiting.cancel()
        if recording is not None:
            recording.cancel()
            # Its file is closed before the command ends. If it has failed too, only the first error is shown.
            await asyncio.gather(recording, return_exceptions=True)
    if interrupted.is_set():
        return EXIT_CANCELLED
    for warning in shown.summary.warnings:
        _say(warning)
    if shown.summary.all_dropped:
        _say(shown.summary.why_all_dropped)
    return EXIT_FAILED if shown.summary.all_dropped or shown.summary.none_answered else EXIT_OK


class _Shown:
    """What was shown of a session so far, and how."""

    def __init__(self, session: EnsembleSession, *, as_json: bool) -> None:
        self._session = session
        self.text = AgreedText(sys.stdout) if session.opening.sync == "consensus" and not as_json else None
        self.as_json = as_json or not (self.text or sys.stdout.isatty())
        self.begin()

    @property
    def is_drawn(self) -> bool:
        """True for lanes in a terminal."""
        return not self.as_json and self.text is None

    def begin(self) -> None:
        """Forgets everything but what cannot be taken back."""
        self.summary = AskSummary(self._session.session, self._session.opening.tier, self._session.opening.sync)
        self.awaited = Awaited()
        if self.text:
            self.text.begin()


async def _show(session: EnsembleSession, shown: _Shown) -> None:
    """Shows the session to its end, and from its beginning again where Redis lost what was shown. Raises
    CouncilError."""
    while True:
        try:
            return await (_draw(session, shown) if shown.is_drawn else _write(session, shown))
        except SetBack:
            shown.begin()
            print(
                "council: Redis lost the newest part of this session. The session goes on; it is shown again from its "
                "beginning.",
                file=sys.stderr,
            )


async def _record(session: EnsembleSession, record: RecordingOrder) -> None:
    """Records the session to its end. Raises CouncilError."""
    summary = await session.record(record.path, text=record.text)
    size = size_for_a_person(record.path.stat().st_size)
    _say(f"Recorded {summary.frames} frames into {record.path} ({size}).")


async def _cancel(session: EnsembleSession, showing: asyncio.Task[None]) -> None:
    """Stops the session, and its display after the final frame, or after two seconds."""
    with contextlib.suppress(CouncilError, TimeoutError):
        async with asyncio.timeout(_FINAL_FRAME_S):
            await session.cancel()
    await asyncio.wait({showing}, timeout=_FINAL_FRAME_S)
    showing.cancel()


async def _write(session: EnsembleSession, shown: _Shown) -> None:
    """Writes each frame as a line of JSON, or the text that the council has agreed on in it."""
    said = ""
    with _enter_key() if shown.text else contextlib.nullcontext() as enter:
        async for frame in session.frames():
            shown.summary.add(frame)
            shown.awaited.add(frame)
            if shown.awaited.sentence != said:
                said = shown.awaited.sentence
                hint = "; Enter continues without" if enter and shown.awaited.can_go_on else ""
                if said:
                    _say(f"{said[0].upper()}{said[1:]}{hint}.")
            await _go_on(session, shown.awaited, enter)
            if shown.text:
                shown.text.add(frame)
            else:
                sys.stdout.write(frame_json(frame).decode() + "\n")
                sys.stdout.flush()


async def _draw(session: EnsembleSession, shown: _Shown) -> None:
    console = Console()
    with _enter_key() as enter, Live(console=console, auto_refresh=False, transient=True) as live:
        lanes = Lanes(shown.awaited, "Enter continues without" if enter else "")
        drawn_at = 0.0
        async for frame in session.frames():
            shown.summary.add(frame)
            shown.awaited.add(frame)
            await _go_on(session, shown.awaited, enter)
            lanes.add(frame)
            if frame.final or frame.end_ns / 1e9 - drawn_at >= 1 / _DRAWN_HZ:
                drawn_at = frame.end_ns / 1e9
                live.update(lanes.drawn(*console.size), refresh=True)


async def _go_on(session: EnsembleSession, awaited: Awaited, enter: asyncio.Event | None) -> None:
    """Stops the members that the others wait for, if the user has pressed Enter."""
    if enter and enter.is_set():
        enter.clear()
        if awaited.can_go_on:
            await session.cancel(members=awaited.members)


@contextlib.contextmanager
def _enter_key() -> Iterator[asyncio.Event | None]:
    """An event that is set when the user presses Enter; None without a terminal."""
    pressed = asyncio.Event()
    with pressed_keys(lambda typed: pressed.set() if b"\n" in typed else None) as has_terminal:
        yield pressed if has_terminal else None


def _finish(shown: _Shown) -> None:
    """Writes the summary of the session."""
    if shown.as_json:
        sys.stdout.write(msgspec.json.encode(shown.summary.as_object()).decode() + "\n")
        sys.stdout.flush()
    elif shown.text:
        shown.text.end()
        partings, *others = shown.summary.consensus_lines
        for line in (f"{shown.summary.length_sentence} {partings}", *others):
            _say(line)
    else:
        print_end(Console(), shown.summary)


def _say(sentence: str) -> None:
    """Writes to standard error. Names and reasons of models and servers may contain control characters."""
    print(f"council: {plain(sentence)}", file=sys.stderr)


def close_quietly(out: TextIO) -> None:
    with contextlib.suppress(OSError):
        out.close()
