"""The output of a replay: frames up to its position, drawn in the terminal with keys to control it, or JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from council.command.ask_summary import AskSummary
from council.command.lanes import Lanes
from council.command.terminal_keys import pressed_keys
from producers.replay.player import Player
from producers.replay.timeline import FASTEST, SLOWEST
from schemas.control import Play, Playback
from schemas.errors import CouncilError, RedisAway, RedisRefuses, SessionGone, SetBack
from schemas.frame_json import frame_json
from schemas.frames import Frame, decode_frame
from schemas.grid import FRAME_RATE_HZ
from schemas.keys import FRAMES_MAXLEN
from schemas.sessions import Opening
from transport.frames import frames_after
from transport.redis.connection import BlockingPipe
from transport.sessions import find_session

_BLOCK_MS = 50
_RETRY_S = 0.25
_DRAWN_S = 1 / 15
_SEEK_WINDOWS = 5 * FRAME_RATE_HZ
_KEYS = "space pauses · ←→ 5 s, a window while paused · ↑↓ rate · 0-9 tenths · q ends"


async def write_replay(
    pipe: BlockingPipe, opening: Opening, player: Player, summary: AskSummary, _interrupted: asyncio.Event
) -> None:
    """Writes each frame as a line of JSON, up to the final one. Raises CouncilError, BrokenPipeError."""
    async for raws in _frames(pipe, opening):
        for raw in raws:
            frame = decode_frame(raw)
            summary.add(frame)
            sys.stdout.write(frame_json(frame).decode() + "\n")
            if frame.final:
                sys.stdout.flush()
                return
        sys.stdout.flush()


async def draw_replay(
    pipe: BlockingPipe, opening: Opening, player: Player, summary: AskSummary, interrupted: asyncio.Event
) -> None:
    """Draws the frame at the replay's position, until the last frame is drawn or the user ends the replay. Raises
    CouncilError."""
    console, scene = Console(), _Scene()
    with _keys(player, interrupted), Live(console=console, auto_refresh=False, transient=True) as live:
        drawn_at = 0.0
        loop = asyncio.get_running_loop()
        async for raws in _frames(pipe, opening):
            for raw in raws:
                frame = decode_frame(raw)
                summary.add(frame)
                scene.add(frame.window_index, raw)
            timeline = player.timeline
            playback = timeline.playback(loop.time()) if timeline else None
            if playback is not None:
                scene.go_to(playback.window)
            now = loop.time()
            if now - drawn_at >= _DRAWN_S:
                drawn_at = now
                status = Text(_status(playback), style="dim", no_wrap=True, overflow="ellipsis")
                width, height = console.size
                live.update(Group(status, scene.lanes.drawn(width, height - 1)), refresh=True)
            if playback is not None and playback.is_over and scene.is_at_end:
                return


class _Scene:
    """The lanes at one window. As many encoded frames are kept as Redis keeps, so that the user can seek back."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self._raws: deque[tuple[int, bytes]] = deque(maxlen=FRAMES_MAXLEN)
        # The number of kept frames that are in the lanes, and the window of the last of these.
        self._taken, self._shown = 0, -1
        self._has_final = False

    def add(self, window: int, raw: bytes) -> None:
        if len(self._raws) == self._raws.maxlen:
            self._taken = max(0, self._taken - 1)
        self._raws.append((window, raw))

    @property
    def is_at_end(self) -> bool:
        """True where the final frame is shown."""
        return self._has_final and self._taken == len(self._raws)

    def go_to(self, window: int) -> None:
        """Shows the newest kept frame up to the window."""
        if window < self._shown:
            self.lanes, self._taken, self._shown, self._has_final = Lanes(), 0, -1, False
        while self._taken < len(self._raws) and self._raws[self._taken][0] <= window:
            frame: Frame = decode_frame(self._raws[self._taken][1])
            self.lanes.add(frame)
            self._taken, self._shown, self._has_final = self._taken + 1, frame.window_index, frame.final


def _status(playback: Playback | None) -> str:
    if playback is None:
        return f"replay · {_KEYS}"
    at_s, end_s = (playback.window + 1) / FRAME_RATE_HZ, (playback.last_window + 1) / FRAME_RATE_HZ
    pace = "paused" if playback.paused else f"× {playback.rate:g}" if playback.rate else "as fast as possible"
    return f"replay {at_s:.1f} of {end_s:.1f} s · {pace} · {_KEYS}"


async def _frames(pipe: BlockingPipe, opening: Opening) -> AsyncIterator[list[bytes]]:
    """The new frames, many times per second; the list may be empty. Raises CouncilError."""
    reader = frames_after(pipe, opening.session)
    while True:
        try:
            found = await reader.read(_BLOCK_MS)
            if not found:
                state = await find_session(pipe, opening.session)
                if state.status != "open" and state.reason and "replay" in state.reason:
                    raise CouncilError(state.reason)
        except SetBack:
            # A replay's frames are the same when they are computed again, because its entries are recorded ones.
            reader = frames_after(pipe, opening.session, reader.after)
            continue
        except SessionGone:
            raise SessionGone("Redis has lost this replay: it was restarted without its data.") from None
        except (RedisAway, RedisRefuses):
            await asyncio.sleep(_RETRY_S)
            continue
        yield [entry.raw for entry in found]


@contextlib.contextmanager
def _keys(player: Player, interrupted: asyncio.Event) -> Iterator[None]:
    """Keys that are pressed in the terminal control the replay."""

    def take(typed: bytes) -> None:
        for key in _split(typed):
            if key == b"q":
                interrupted.set()
            elif (order := _order(key, player)) is not None:
                player.order(order)

    with pressed_keys(take):
        yield


def _split(typed: bytes) -> Iterator[bytes]:
    """The keys in the bytes of one read: an arrow has three bytes."""
    at = 0
    while at < len(typed):
        size = 3 if typed[at : at + 2] in (b"\x1b[", b"\x1bO") else 1
        yield typed[at : at + size]
        at += size


def _order(key: bytes, player: Player) -> Play | None:
    """The order of a key at this moment; None for a key without a meaning."""
    timeline = player.timeline
    if timeline is None:
        return None
    now = asyncio.get_running_loop().time()
    playback = timeline.playback(now)
    if key == b" ":
        return Play(paused=not playback.paused)
    if key.isdigit():
        return Play(window=playback.last_window * int(key) // 10)
    match key[-1:] if len(key) == 3 else b"":
        case b"C":
            return Play(step=1 if playback.paused else _SEEK_WINDOWS)
        case b"D":
            return Play(step=-1 if playback.paused else -_SEEK_WINDOWS)
        case b"A":
            return Play(rate=min(FASTEST, (playback.rate or FASTEST) * 2))
        case b"B":
            return Play(rate=max(SLOWEST, (playback.rate or FASTEST) / 2))
    return None
