"""One replay: it writes the entries that are due and follows orders, until the end.

    recording --RecordedSource--> due by the Timeline? --play--> tokens and clock --> aggregator --> frames
                                        ^                                              |
                                        +----------- how far it has computed ----------+

The player's lead over the aggregator is bounded, so a replay as fast as the council computes does not fill the memory.
Entries keep their recorded ids, so writing one twice is harmless: after a break of Redis, or in another process, the
player continues after the last entry that is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from producers.replay.showing import FrameShow
from producers.replay.source import RecordedSource, last_window_of
from producers.replay.timeline import Timeline
from runtime.presence import RedisPresence
from schemas.control import Play, Stop
from schemas.errors import RedisAway, RedisRefuses, SessionGone
from schemas.grid import NS_PER_MS, window_index_at, window_start_ns
from schemas.keys import entry_ms
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe, Command
from transport.replays import Played, end_replay, find_playback, play, played, seconds_to_live
from transport.sessions import find_session
from transport.tokens import control_read, read_control

# One round trip's worth of entries: 200 KB.
_MOST_AT_ONCE = 256
# How far written entries may be ahead of computed frames, in windows: ten seconds.
_LEAD_WINDOWS = 600
# The position waits while the frames are more than this behind it: half a second.
_MOST_BEHIND_WINDOWS = 30
# How often orders are read, while the replay runs, is paused, and is over.
_RUNNING_S, _PAUSED_S, _OVER_S = 0.05, 0.1, 0.25
# How often the player looks at the aggregator while it waits for it.
_COMPUTING_S = 0.002
# The file is read ahead only in pauses that are at least this long.
_READ_AHEAD_S = 0.003
_RENEW_S = 60.0
_RETRY_S = 0.25
# An entry that is written later than this after its time counts as late.
_LATE_S = 0.002
_LOST = "Redis has lost this replay: it was restarted without its data. Replay the file again."


class PlayReport(msgspec.Struct):
    """The measurements of a replay. `achieved_rate` is recorded time per second, without pauses (None: it did not run).
    `late` counts the entries that were written more than 2 ms after their time, `largest_late_ms` is the maximum."""

    entries: int = 0
    late: int = 0
    largest_late_ms: float = 0.0
    achieved_rate: float | None = None


class Player:
    """Plays the session of `opening`, which was opened as the replay of the recording in the file `path`."""

    def __init__(
        self,
        pipe: AsyncPipe,
        path: Path,
        opening: Opening,
        presence: RedisPresence,
        *,
        rate: float = 1.0,
        paused: bool = False,
        from_ns: int = 0,
        to_ns: int | None = None,
        lingers_s: float = 0.0,
    ) -> None:
        """Begins at `from_ns` since the session's origin and ends at `to_ns`. Orders are followed until `lingers_s`
        after the end, or after the last order. Raises Refused where the file is not a recording, Malformed."""
        assert opening.replay is not None
        self._pipe, self._opening, self._presence = pipe, opening, presence
        self._session = opening.session
        self._source = RecordedSource(path, opening if opening.replay.frames else None)
        self._show = FrameShow(opening, self._source) if opening.replay.frames else None
        last = last_window_of(path)
        if to_ns is not None:
            last = min(last, max(0, window_index_at(to_ns)))
        self._recorded_last = last
        self._start = Play(rate=rate, paused=paused, window=window_index_at(from_ns) - 1 if from_ns > 0 else None)
        self._timeline: Timeline | None = None
        self._lingers_s = lingers_s
        self._loop = asyncio.get_running_loop()
        self._orders: list[Play] = []
        self._ordered = asyncio.Event()
        self._control_seen = "0"
        self._committed, self._status = -1, "open"
        self._renew_at = self._ordered_at = 0.0
        self._over_at: float | None = None
        self._is_cancelled = False
        self._last_written = "0-0"
        self._stopped: str | None = None
        self.report = PlayReport()

    @property
    def timeline(self) -> Timeline | None:
        """The position and pace of the replay; None before it has begun."""
        return self._timeline

    def order(self, play: Play) -> None:
        """Follows this order at once."""
        self._orders.append(play)
        self._ordered.set()

    async def run(self) -> PlayReport:
        """Plays to the end. Raises SessionGone, Malformed where the recording is damaged, RedisRefuses."""
        is_begun = False
        try:
            while True:
                try:
                    if not is_begun:
                        await self._begin()
                        is_begun = True
                    if await self._step():
                        return self.report
                    self._presence.come_back()
                except SessionGone:
                    raise SessionGone(_LOST) from None
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    is_begun = False
                    if self._timeline:
                        self._timeline.hold(True, self._loop.time())
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._source.close()

    async def _begin(self) -> None:
        """Continues with the session as it is in Redis. Raises SessionGone."""
        state = await find_session(self._pipe, self._session)
        before = await find_playback(self._pipe, self._session)
        start_ns = min(0, entry_ms(state.opened) * NS_PER_MS - self._source.origin_ns)
        now = self._loop.time()
        if self._timeline is None:
            timeline = Timeline(start_ns, self._recorded_last, rate=1.0, paused=False, now_s=now)
            # Another process may have played it up to here.
            start = Play(before.rate, before.paused, before.window) if before else self._start
            timeline.order(start, now)
            self._timeline = timeline
        (reply,) = await self._pipe.run([play(self._session, None, self._timeline.playback(now), [])])
        there = played(reply)
        # Redis may have lost windows.
        self._committed = there.window
        self._take(there)
        self._last_written = there.last_id or state.opened
        if self._show:
            self._show.last_window = there.window
        self._source.begin_after(self._last_written, there.window)
        if state.clock_ms is not None:
            self._timeline.reach(state.clock_ms * NS_PER_MS - self._source.origin_ns)
        self._renew_at = 0.0

    async def _step(self) -> bool:
        """Writes what is due, and waits for the next entry or order; True at the end."""
        timeline = self._timeline
        assert timeline is not None
        now = self._loop.time()
        self._follow_orders(now)
        is_all = await self._write_due(timeline, now)
        if is_all is None:
            # The break may have happened during another caller's commands.
            await self._begin()
            return False
        now = self._loop.time()
        behind = window_index_at(timeline.position_ns(now)) - 1 - self._committed
        timeline.hold(timeline.rate > 0 and (not is_all or behind > _MOST_BEHIND_WINDOWS), now)
        if self._is_at_end(timeline) and await self._end(timeline, now):
            return True
        if is_all or self._committed + _LEAD_WINDOWS <= window_index_at(timeline.reached_ns):
            await self._wait(timeline)
        return False

    async def _write_due(self, timeline: Timeline, now: float) -> bool | None:
        """One round trip: writes due entries and frames, and reads orders. True where no due entry is left, None where
        Redis has lost entries."""
        target_ns = self._target_ns(timeline, now)
        to_ms = self._source.ms_at(target_ns)
        entries = self._source.take_entries(to_ms, _MOST_AT_ONCE)
        is_all = len(entries) < _MOST_AT_ONCE
        clock_ms = to_ms + 1 if is_all else entry_ms(entries[-1][0])
        self._note_lateness(timeline, entries)
        playback, ttl_s = timeline.playback(now), self._ttl_s(now)
        commands: list[Command] = [
            play(self._session, clock_ms, playback, entries, after=self._last_written, ttl_s=ttl_s),
            read_control(self._session, self._control_seen),
        ]
        reached_ns = target_ns if is_all else clock_ms * NS_PER_MS - self._source.origin_ns
        shown = self._show.commands(reached_ns, _MOST_AT_ONCE) if self._show else []
        replies = await self._pipe.run([*commands, *shown])
        there = played(replies[0])
        is_shown = self._show is None or self._show.take(replies[2:])
        if there.status == "LOST" or (there.status == "open" and not is_shown):
            return None
        self._take(there)
        self._last_written = there.last_id
        self._take_orders(replies[1])
        if self._show:
            self._committed = max(self._committed, self._show.last_window)
            if not self._source.has_frame(reached_ns):
                # The file has lost the frames of these windows.
                self._committed = max(self._committed, window_index_at(reached_ns) - 1)
        timeline.reach(reached_ns)
        timeline.computed_ns = window_start_ns(self._committed + 1)
        return is_all

    def _target_ns(self, timeline: Timeline, now: float) -> int:
        """The time up to which entries are to be written now."""
        lead_ns = window_start_ns(self._committed + 1 + _LEAD_WINDOWS)
        wanted_ns = timeline.position_ns(now)
        if not timeline.paused and not timeline.rate:
            wanted_ns = timeline.end_ns
        return max(timeline.reached_ns, min(wanted_ns, lead_ns, timeline.end_ns))

    def _note_lateness(self, timeline: Timeline, entries: list[tuple[str, bytes]]) -> None:
        report, now = self.report, self._loop.time()
        report.entries += len(entries)
        for entry_id, _ in entries:
            late_s = timeline.late_s(entry_ms(entry_id) * NS_PER_MS - self._source.origin_ns, now)
            if late_s is not None:
                report.late += late_s > _LATE_S
                report.largest_late_ms = max(report.largest_late_ms, round(late_s * 1_000, 3))

    def _ttl_s(self, now: float) -> int:
        if now < self._renew_at or self._status != "open":
            return 0
        self._renew_at = now + _RENEW_S
        return seconds_to_live(self._opening)

    def _take(self, there: Played) -> None:
        if there.status == "GONE":
            raise SessionGone(_LOST)
        self._committed, self._status = max(self._committed, there.window), there.status

    def _take_orders(self, reply: object) -> None:
        entries, last = control_read(reply)
        self._control_seen = last or self._control_seen
        self._orders += [entry for entry in entries if isinstance(entry, Play)]
        if self._show and self._status == "open":
            # Where an aggregator computes the frames, it stops the members itself.
            self._stopped = next((entry.reason for entry in entries if isinstance(entry, Stop)), self._stopped)

    def _follow_orders(self, now: float) -> None:
        timeline, orders = self._timeline, self._orders
        assert timeline is not None
        if orders:
            self._orders, self._ordered_at = [], now
            for order in orders:
                timeline.order(order, now)

    def _is_at_end(self, timeline: Timeline) -> bool:
        is_written = timeline.reached_ns >= timeline.end_ns
        is_shown = is_written and self._committed >= timeline.last_window
        return self._status != "open" or self._stopped is not None or is_shown

    async def _end(self, timeline: Timeline, now: float) -> bool:
        """Ends a session whose recording has no end; True where nothing is left to do."""
        if self._status == "open":
            if not self._is_cancelled:
                await end_replay(self._pipe, self._opening, self._stopped or "the replay ends here")
                self._is_cancelled = True
            return False
        if timeline.last_window != self._committed:
            timeline.cut(self._committed, now)
        self.report.achieved_rate = timeline.achieved_rate(now)
        if self._over_at is None:
            self._over_at = now
        return now - max(self._over_at, self._ordered_at) >= self._lingers_s

    async def _wait(self, timeline: Timeline) -> None:
        """Waits until something is due, or an order may have come."""
        now = self._loop.time()
        is_over = self._status != "open"
        wake_s = now + (_OVER_S if is_over else _RUNNING_S if timeline.is_running else _PAUSED_S)
        if not is_over:
            if (not timeline.is_running and not timeline.paused) or (timeline.is_running and not timeline.rate):
                wake_s = now + _COMPUTING_S
            position = timeline.position_ns(now)
            next_window_ns = window_start_ns(window_index_at(position) + 1)
            dues = [next_window_ns]
            if self._source.next_entry_ms is not None:
                dues.append(self._source.next_entry_ms * NS_PER_MS - self._source.origin_ns)
            wake_s = min(wake_s, *(timeline.due_s(max(due, position)) for due in dues))
        while self._source.is_short and wake_s - self._loop.time() > _READ_AHEAD_S:
            self._source.read_on()
        if (pause_s := wake_s - self._loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ordered.wait()
        self._ordered.clear()
