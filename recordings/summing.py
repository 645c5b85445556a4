"""The summary of a recording, computed while its messages are written. Pure."""

from __future__ import annotations

import math

from recordings.contents import RecordingSummary
from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ
from schemas.rules.partings import Partings

# The points of agreement that a list shows of a session: enough for a sparkline.
_POINTS = 64
# A day, the longest session: a wrong window index in a file must not make a long list.
_MOST_SECONDS = 86_400


class Summing:
    """Computes a summary from the frames in order."""

    def __init__(self, members: int) -> None:
        self._tokens = [0] * members
        self._first, self._frames = -1, 0
        self._last: Frame | None = None
        # (the sum of agreement, the number of frames with one) of each second.
        self._seconds: list[tuple[float, int]] = []
        self._parted: tuple[int, int] | None = None
        self._late = self._duplicates = self._dead_letters = self._superseded = 0
        # None in a session whose members write answers of their own.
        self._partings: Partings | None = None
        self.entries = self.events = 0
        self.bytes_of: dict[str, int] = {}

    @property
    def last_window(self) -> int:
        """The window of the newest frame; -1 where there is none."""
        return -1 if self._last is None else self._last.window_index

    def add_frame(self, frame: Frame) -> None:
        """Adds the next frame."""
        if self._last is None:
            self._first = frame.window_index
        self._last = frame
        self._frames += 1
        for token in frame.tokens:
            if 0 <= token.member < len(self._tokens):
                self._tokens[token.member] += 1
        self._late += frame.counts.late
        self._duplicates += frame.counts.duplicates
        self._dead_letters += frame.counts.dead_letters
        self._superseded += frame.counts.superseded
        if frame.consensus.decisions is not None:
            self._partings = self._partings or Partings()
            self._partings.add(frame.consensus.decisions)
        # After a member has ended, frames may contain a later byte at which the others parted; the first one counts.
        if frame.alignment.diverged_at_bytes is not None and self._parted is None:
            self._parted = frame.alignment.diverged_at_bytes, frame.window_index
        self._add_agreement(frame)

    def _add_agreement(self, frame: Frame) -> None:
        second = min(max(0, frame.window_index - self._first) // FRAME_RATE_HZ, _MOST_SECONDS - 1)
        if second >= len(self._seconds):
            self._seconds += [(0.0, 0)] * (second + 1 - len(self._seconds))
        if frame.measures.agreement is not None:
            total, count = self._seconds[second]
            self._seconds[second] = total + frame.measures.agreement, count + 1

    def summary(self, reason: str) -> RecordingSummary:
        """The summary; `reason` is why the session ended, if not by itself."""
        last = self._last
        total, count = math.fsum(part[0] for part in self._seconds), sum(part[1] for part in self._seconds)
        return RecordingSummary(
            first_window=self._first,
            last_window=self.last_window,
            frames=self._frames,
            final=last is not None and last.final,
            reason=reason,
            entries=self.entries,
            events=self.events,
            tokens=tuple(self._tokens),
            states=tuple(member.state for member in last.members) if last else (),
            agreement=self._sparkline(),
            mean_agreement=round(total / count, 9) if count else None,
            diverged_at_bytes=self._parted[0] if self._parted else None,
            diverged_window=self._parted[1] if self._parted else None,
            late=self._late,
            duplicates=self._duplicates,
            dead_letters=self._dead_letters,
            tier=last.tier if last else "",
            bytes_of=dict(self.bytes_of),
            superseded=self._superseded,
            partings=self._partings.count if self._partings else None,
            estimates=self._partings.estimates if self._partings else 0,
        )

    def _sparkline(self) -> tuple[float | None, ...]:
        seconds = self._seconds
        size = max(1, -(-len(seconds) // _POINTS))
        points = list[float | None]()
        for start in range(0, len(seconds), size):
            part = seconds[start : start + size]
            count = sum(one[1] for one in part)
            points.append(round(math.fsum(one[0] for one in part) / count, 4) if count else None)
        return tuple(points)
