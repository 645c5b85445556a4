"""`council ask`: one session, drawn in a terminal or written as JSON lines, with a summary at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from council.command.answers import AnswerComparison
from council.command.awaited import Awaited
from council.command.lanes import Lanes
from council.command.terminal_keys import pressed_keys
from council.ensemble import TurboEnsemble
from council.ensemble_session import EnsembleSession
from council.recording.keep import RecordingOrder, size_for_a_person
from schemas.errors import CouncilError, SetBack
from schemas.frames import Frame, every_drop, frame_json
from schemas.grid import FRAME_RATE_HZ
from schemas.sessions import Sync

EXIT_OK, EXIT_FAILED, EXIT_CANCELLED = 0, 1, 130
_DRAWN_HZ = 15
# A final frame follows a cancel within some windows.
_FINAL_FRAME_S = 2.0
# After this time a message explains the wait.
_EXPLAINED_AFTER_S = 0.5


class AskSummary:
    """A session as one object, computed from its frames."""

    def __init__(self, session: str, tier: str, sync: Sync = "step") -> None:
        self.session, self._opened_tier, self._sync = session, tier, sync
        self._frames = 0
        self._late = 0
        self._resonant_windows = 0
        self._sync_lag_ms: float | None = None
        self._arrival_skew_ms: float | None = None
        self._parting = AnswerComparison()
        self._mode = ""
        self._last: Frame | None = None
        self._texts: list[str] = []
        self._tokens: list[int] = []

    def add(self, frame: Frame) -> None:
        if self._last is None:
            self._mode = frame.mode
            self._texts = [""] * len(frame.members)
            self._tokens = [0] * len(frame.members)
        for index, member in enumerate(frame.members):
            self._texts[index] += member.text
        for token in frame.tokens:
            self._tokens[token.member] += 1
        self._frames += 1
        self._late += frame.counts.late
        self._resonant_windows += frame.interference.resonance
        self._sync_lag_ms = _larger(self._sync_lag_ms, frame.alignment.sync_lag_ms)
        self._arrival_skew_ms = _larger(self._arrival_skew_ms, frame.alignment.arrival_skew_ms)
        self._parting.add(frame)
        self._last = frame

    @property
    def has_frames(self) -> bool:
        return self._last is not None

    @property
    def all_dropped(self) -> bool:
        return self._last is not None and all(member.state == "dropped" for member in self._last.members)

    @property
    def none_answered(self) -> bool:
        """True where every member ended, and none with a text."""
        members = self._last.members if self._last else ()
        return bool(members) and all(member.ended for member in members) and not any(map(str.strip, self._texts))

    @property
    def warnings(self) -> list[str]:
        """A sentence for each member that finished in a way that needs attention."""
        members = self._last.members if self._last else ()
        return [f"{member.display_name}: {member.warning}." for member in members if member.warning]

    @property
    def why_all_dropped(self) -> str:
        """A sentence for a session whose members were all dropped."""
        return every_drop(
            [(member.display_name, member.reason or "") for member in self._last.members] if self._last else []
        )

    @property
    def parting_sentence(self) -> str:
        """A sentence; empty where the members were not compared."""
        if self._parting.at_bytes is not None:
            return f"The members parted at byte {self._parting.at_bytes}."
        return "The members never parted." if self._parting.never_parted else ""

    def as_object(self) -> dict[str, Any]:
        """session, frames, duration_s (window time), late (entries), sync (of the request), mode (of the first frame),
        largest_sync_lag_ms and largest_arrival_skew_ms (of all frames, or None), tier (of the last frame), fell_from
        (the tier at the opening, if the session fell to a lower one), diverged_at_bytes (where the members parted, from
        the last frame that has it), resonance_ms (window time with resonance), members."""
        members = self._last.members if self._last else ()
        tier = self._last.tier if self._last else self._opened_tier
        return {
            "session": self.session,
            "frames": self._frames,
            "duration_s": round(self._last.end_ns / 1e9, 3) if self._last else 0.0,
            "late": self._late,
            "sync": self._sync,
            "mode": self._mode,
            "largest_sync_lag_ms": self._sync_lag_ms,
            "largest_arrival_skew_ms": self._arrival_skew_ms,
            "tier": tier,
            "fell_from": self._opened_tier if tier != self._opened_tier else None,
            "diverged_at_bytes": self._parting.at_bytes,
            "resonance_ms": round(self._resonant_windows * 1000 / FRAME_RATE_HZ),
            "members": [
                {
                    "model": member.model,
                    "name": member.display_name,
                    "text": self._texts[index],
                    "tokens": self._tokens[index],
                    "state": member.state,
                    "reason": member.reason,
                    "remote": member.remote,
                }
                for index, member in enumerate(members)
            ],
        }


def _larger(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


async def ask(
    ensemble: TurboEnsemble,
    opening: asyncio.Task[EnsembleSession],
    *,
    as_json: bool,
    record: RecordingOrder | None = None,
) -> int:
    """Runs the session that `opening` opens to its end, and records it if `record` is given; returns the exit code.
    Raises CouncilError. Ctrl-C and SIGTERM cancel the session, not the council."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupted.set)
    waiting = asyncio.create_task(interrupted.wait())
    await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=_EXPLAINED_AFTER_S)
    if not opening.done() and ensemble.is_private and not as_json:
        print("council: No council runs on this machine; starting a private one for this call.", file=sys.stderr)
    await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, CouncilError):
            await opening
        return EXIT_CANCELLED
    session = await opening
    for warning in session.warnings:
        print(f"council: {warning}", file=sys.stderr)
    shown = _Shown(session)
    showing = asyncio.create_task(_show(session, shown, as_json=as_json))
    recording = asyncio.create_task(_record(session, record)) if record else None
    try:
        await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            await _cancel(session, showing)
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        _finish(shown.summary, as_json=as_json)
        if recording is not None:
            await recording
    except BrokenPipeError:
        # The reader of the lines has closed its end.
        await session.cancel()
        close_quietly(sys.stdout)
        if recording is not None:
            await recording
        return EXIT_OK
    except CouncilError:
        with contextlib.suppress(CouncilError):
            await session.cancel()
        if shown.summary.has_frames:
            _finish(shown.summary, as_json=as_json)
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
        print(f"council: {warning}", file=sys.stderr)
    if shown.summary.all_dropped:
        print(f"council: {shown.summary.why_all_dropped}", file=sys.stderr)
    return EXIT_FAILED if shown.summary.all_dropped or shown.summary.none_answered else EXIT_OK


class _Shown:
    """What was shown of a session so far."""

    def __init__(self, session: EnsembleSession) -> None:
        self._session = session
        self.begin()

    def begin(self) -> None:
        """Forgets everything."""
        self.summary = AskSummary(self._session.session, self._session.opening.tier, self._session.opening.sync)
        self.awaited = Awaited()


async def _show(session: EnsembleSession, shown: _Shown, *, as_json: bool) -> None:
    """Shows the session to its end, and from its beginning again where Redis lost what was shown. Raises
    CouncilError."""
    show = _write_lines if as_json else _draw
    while True:
        try:
            return await show(session, shown.summary, shown.awaited)
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
    print(f"council: Recorded {summary.frames} frames into {record.path} ({size}).", file=sys.stderr)


async def _cancel(session: EnsembleSession, showing: asyncio.Task[None]) -> None:
    """Stops the session, and its display after the final frame, or after two seconds."""
    with contextlib.suppress(CouncilError, TimeoutError):
        async with asyncio.timeout(_FINAL_FRAME_S):
            await session.cancel()
    await asyncio.wait({showing}, timeout=_FINAL_FRAME_S)
    showing.cancel()


async def _write_lines(session: EnsembleSession, summary: AskSummary, awaited: Awaited) -> None:
    shown = ""
    async for frame in session.frames():
        summary.add(frame)
        awaited.add(frame)
        if awaited.sentence != shown:
            shown = awaited.sentence
            if shown:
                print(f"council: {shown[0].upper()}{shown[1:]}.", file=sys.stderr)
        sys.stdout.write(frame_json(frame).decode() + "\n")
        sys.stdout.flush()


async def _draw(session: EnsembleSession, summary: AskSummary, awaited: Awaited) -> None:
    console = Console()
    with _enter_key() as enter, Live(console=console, auto_refresh=False, transient=True) as live:
        lanes = Lanes(awaited, "Enter continues without" if enter else "")
        drawn_at = 0.0
        async for frame in session.frames():
            summary.add(frame)
            awaited.add(frame)
            if enter and enter.is_set():
                enter.clear()
                if awaited.can_go_on:
                    await session.cancel(members=awaited.members)
            lanes.add(frame)
            if frame.final or frame.end_ns / 1e9 - drawn_at >= 1 / _DRAWN_HZ:
                drawn_at = frame.end_ns / 1e9
                live.update(lanes.drawn(*console.size), refresh=True)


@contextlib.contextmanager
def _enter_key() -> Iterator[asyncio.Event | None]:
    """An event that is set when the user presses Enter; None without a terminal."""
    pressed = asyncio.Event()
    with pressed_keys(lambda typed: pressed.set() if b"\n" in typed else None) as has_terminal:
        yield pressed if has_terminal else None


def _finish(summary: AskSummary, *, as_json: bool) -> None:
    """Writes the summary of the session."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary.as_object()).decode() + "\n")
        sys.stdout.flush()
    else:
        print_end(Console(), summary)


def print_end(console: Console, session: AskSummary) -> None:
    """Prints every answer in full, and a summary."""
    summary = session.as_object()
    for member in summary["members"]:
        reason = f" ({member['reason']})" if member["reason"] else ""
        remote = " (remote)" if member["remote"] else ""
        # A Text is printed as it is: no part of a name is formatted as a number or as markup.
        title = Text(f"{member['name']}{remote}: {member['state']}{reason}, {member['tokens']} tokens")
        console.rule(title, align="left")
        console.print(member["text"].strip(), markup=False, highlight=False)
    if summary["fell_from"]:
        console.print(
            f"Memory ran out: the session fell from the {summary['fell_from']} to the {summary['tier']} tier.",
            highlight=False,
        )
    line = f"session {summary['session']}: {summary['duration_s']:.1f} s, {summary['frames']} frames, {summary['mode']}"
    console.rule(Text(line), align="left")
    if session.parting_sentence:
        console.print(session.parting_sentence, highlight=False)


def close_quietly(out: TextIO) -> None:
    with contextlib.suppress(BrokenPipeError):
        out.close()
