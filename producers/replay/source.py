"""The entries and frames of a replay, from its recording: read ahead a little, never all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from producers.replay.progress import RecordedProgress
from recordings.reading import RecordingReader
from recordings.records import Item
from schemas.control import Progress
from schemas.errors import Malformed
from schemas.frame_json import frame_of_json
from schemas.frames import Frame
from schemas.grid import NS_PER_MS, window_index_at
from schemas.keys import entry_ms, entry_order, is_entry_id
from schemas.sessions import LONGEST_MS, Opening

# Six members at 100 tokens a second, for three seconds.
_MOST_AHEAD = 2_000
# The same in bytes, and the most of one entry: a token with its list has some kilobytes.
_MOST_AHEAD_BYTES, _MOST_ENTRY_BYTES = 64 * 1024 * 1024, 256 * 1024
# Redis's ids have two numbers of 64 bits; a time in nanoseconds has 64 bits.
_MOST_MS, _MOST_SEQ = 2**64 // NS_PER_MS, 2**64
_LAST_WINDOW = window_index_at(LONGEST_MS * NS_PER_MS)
# So many items take half a millisecond to read; the first one of a chunk takes two.
_SLICE = 100


class RecordedSource:
    """The entries of one recording in order, and, for a replay `shown` that shows its frames as they are, the frames,
    each with what was accepted up to it.

    Raises Refused where the file is not a recording; Malformed when it reaches damage.
    """

    def __init__(self, path: Path, shown: Opening | None = None) -> None:
        self._path, self._shown = path, shown
        with RecordingReader(path) as reader:
            self.about = reader.about
        self.origin_ns = int(self.about.origin_ns)
        self._reader: RecordingReader | None = None
        self._items: Iterator[Item] = iter(())
        self._entries: deque[tuple[str, bytes]] = deque()
        # Each with its size in the file, in bytes.
        self._frames: deque[tuple[Frame, tuple[Progress, ...], int]] = deque()
        self._ahead_bytes = 0
        self._progress: RecordedProgress | None = None
        # The place after which entries and frames are returned, and how far the file is read.
        self._after, self._after_window = (0, 0), -1
        self._last_order, self._last_window = (0, 0), -1
        self.is_read = False

    def begin_after(self, entry_id: str, window: int) -> None:
        """Begins after the entry, and after the frame of the window."""
        self.close()
        self._reader = RecordingReader(self._path)
        self._items = self._reader.items()
        self._entries.clear()
        self._frames.clear()
        self._ahead_bytes = 0
        # What was accepted depends on all that came before.
        self._progress = RecordedProgress(self._shown) if self._shown else None
        self._after, self._after_window = entry_order(entry_id), window
        self._last_order, self._last_window, self.is_read = (0, 0), -1, False

    def close(self) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
            self._reader = None

    @property
    def is_short(self) -> bool:
        """True while more should be read ahead."""
        is_little = len(self._entries) + len(self._frames) < _MOST_AHEAD and self._ahead_bytes < _MOST_AHEAD_BYTES
        return not self.is_read and is_little

    def read_on(self) -> None:
        """Reads some more."""
        for _ in range(_SLICE):
            item = next(self._items, None)
            if item is None:
                self.is_read = True
                return
            if item.kind == "entry" and item.raw:
                self._read_entry(item.id, item.raw)
            elif item.kind == "frame" and self._progress:
                self._read_frame(frame_of_json(item.raw), len(item.raw), self._progress)

    def _read_entry(self, entry_id: str, raw: bytes) -> None:
        order = entry_order(entry_id)
        if order <= self._last_order:
            return
        self._last_order = order
        if order > self._after:
            self._check(order[0] < _MOST_MS and order[1] < _MOST_SEQ, "an entry has an id that Redis refuses")
            self._check(len(raw) <= _MOST_ENTRY_BYTES, f"an entry has {len(raw)} bytes")
            self._entries.append((entry_id, raw))
            self._ahead_bytes += len(raw)
        if self._progress:
            self._progress.add(entry_id, raw)

    def _read_frame(self, frame: Frame, size: int, progress: RecordedProgress) -> None:
        if frame.window_index <= self._last_window:
            return
        self._check_frame(frame)
        self._last_window = frame.window_index
        accepted = progress.at(frame)
        if frame.window_index > self._after_window:
            self._frames.append((frame, accepted, size))
            self._ahead_bytes += size
            self._check(self._ahead_bytes < 2 * _MOST_AHEAD_BYTES, "its frames come long before their entries")

    def _check_frame(self, frame: Frame) -> None:
        """A frame that is shown must have the session's members. Raises Malformed."""
        count, window = len(self.about.members), frame.window_index
        self._check(window <= _LAST_WINDOW, f"it has a frame of window {window}")
        self._check(len(frame.members) == count, f"the frame of window {window} has {len(frame.members)} members")
        is_whole = is_entry_id(frame.cut) and len(frame.cut) <= len(f"{_MOST_SEQ}-{_MOST_SEQ}")
        is_whole = is_whole and all(0 <= token.member < count for token in frame.tokens)
        self._check(is_whole, f"the frame of window {window} is not one of its session")

    def _check(self, is_right: bool, problem: str) -> None:
        if not is_right:
            raise Malformed(f"{self._path} is not the recording of a council's session: {problem}.")

    @property
    def next_entry_ms(self) -> int | None:
        """The millisecond of the next entry; None where it is not read yet, or there is none."""
        return entry_ms(self._entries[0][0]) if self._entries else None

    def take_entries(self, to_ms: int, most: int) -> list[tuple[str, bytes]]:
        """The next entries up to the millisecond `to_ms`, `most` at most. Raises Malformed."""
        taken = list[tuple[str, bytes]]()
        while len(taken) < most:
            if not self._entries and not self.is_read:
                self.read_on()
                continue
            if not self._entries or entry_ms(self._entries[0][0]) > to_ms:
                break
            taken.append(self._entries.popleft())
            self._ahead_bytes -= len(taken[-1][1])
        return taken

    def has_frame(self, to_ns: int) -> bool:
        """True while a frame of a window that ends by `to_ns` is left. Raises Malformed."""
        while not self._frames and not self.is_read:
            self.read_on()
        return bool(self._frames) and self._frames[0][0].end_ns <= to_ns

    def take_frames(self, to_ns: int, most: int) -> list[tuple[Frame, tuple[Progress, ...]]]:
        """The next frames of windows that end by `to_ns` since the origin, `most` at most, each with what was accepted
        up to it. Raises Malformed."""
        taken = list[tuple[Frame, tuple[Progress, ...]]]()
        while len(taken) < most and self.has_frame(to_ns):
            frame, accepted, size = self._frames.popleft()
            taken.append((frame, accepted))
            self._ahead_bytes -= size
        return taken

    def ms_at(self, at_ns: int) -> int:
        """The millisecond of Unix time, rounded down, at `at_ns` since the origin."""
        return (self.origin_ns + at_ns) // NS_PER_MS


def last_window_of(path: Path) -> int:
    """The window of the recording's last frame. Raises Refused, and Malformed where it has no frame."""
    from recordings.reading import read_metadata

    _, summary = read_metadata(path)
    if summary.last_window < 0:
        raise Malformed(f"{path} contains no frame: there is nothing to replay.")
    if summary.last_window > _LAST_WINDOW:
        raise Malformed(f"{path} ends with window {summary.last_window}, which no session reaches.")
    return summary.last_window
