"""What a replay writes, from its recording: read ahead a little, never all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from recordings.reading import RecordingReader
from recordings.records import Item
from schemas.errors import Malformed
from schemas.frames import Frame, frame_of_json
from schemas.grid import NS_PER_MS
from schemas.keys import entry_ms, entry_order

# Six members at 100 tokens a second, for three seconds.
_MOST_AHEAD = 2_000
# So many items take half a millisecond to read, but for the first of a chunk, which takes two.
_SLICE = 100


class RecordedSource:
    """The entries of one recording in order, and its frames where they are shown as they are.

    Raises Refused where the file is not a recording; Malformed, once it comes to what is not sound.
    """

    def __init__(self, path: Path, *, with_frames: bool) -> None:
        self._path, self._with_frames = path, with_frames
        with RecordingReader(path) as reader:
            self.about = reader.about
        self.origin_ns = int(self.about.origin_ns)
        self._reader: RecordingReader | None = None
        self._items: Iterator[Item] = iter(())
        self._entries: deque[tuple[str, bytes]] = deque()
        self._frames: deque[Frame] = deque()
        self._last_order = (0, 0)
        self.is_read = False

    def begin_after(self, entry_id: str, window: int) -> None:
        """Begins behind the entry, and behind the frame of the window."""
        self.close()
        self._reader = RecordingReader(self._path)
        self._items = self._reader.items()
        self._entries.clear()
        self._frames.clear()
        self._last_order, self._last_window, self.is_read = entry_order(entry_id), window, False

    def close(self) -> None:
        if self._reader is not None:
            self._reader.__exit__(None, None, None)
            self._reader = None

    @property
    def is_short(self) -> bool:
        """True where it is time to read on."""
        return not self.is_read and len(self._entries) + len(self._frames) < _MOST_AHEAD

    def read_on(self) -> None:
        """Reads some more."""
        for _ in range(_SLICE):
            item = next(self._items, None)
            if item is None:
                self.is_read = True
                return
            if item.kind == "entry" and item.raw:
                order = entry_order(item.id)
                if order > self._last_order:
                    self._entries.append((item.id, item.raw))
                    self._last_order = order
            elif item.kind == "frame" and self._with_frames:
                frame = frame_of_json(item.raw)
                if frame.window_index > self._last_window:
                    self._frames.append(frame)
                    self._last_window = frame.window_index

    @property
    def next_entry_ms(self) -> int | None:
        """The millisecond of the next entry; None where there is none (yet)."""
        return entry_ms(self._entries[0][0]) if self._entries else None

    def take_entries(self, to_ms: int, most: int) -> list[tuple[str, bytes]]:
        """The next entries up to the millisecond `to_ms`, at most so many. Raises Malformed."""
        taken = list[tuple[str, bytes]]()
        while len(taken) < most:
            if not self._entries and not self.is_read:
                self.read_on()
                continue
            if not self._entries or entry_ms(self._entries[0][0]) > to_ms:
                break
            taken.append(self._entries.popleft())
        return taken

    def take_frames(self, to_ns: int, most: int) -> list[Frame]:
        """The next frames of windows that end by `to_ns` since the origin, at most so many. Raises Malformed."""
        taken = list[Frame]()
        while self._with_frames and len(taken) < most:
            if not self._frames and not self.is_read:
                self.read_on()
                continue
            if not self._frames or self._frames[0].end_ns > to_ns:
                break
            taken.append(self._frames.popleft())
        return taken

    def ms_at(self, at_ns: int) -> int:
        """The millisecond of Unix time, floored, of a place since the origin."""
        return (self.origin_ns + at_ns) // NS_PER_MS


def last_window_of(path: Path) -> int:
    """The window of the recording's last frame. Raises Refused, Malformed where it contains none."""
    from recordings.reading import read_metadata

    _, summary = read_metadata(path)
    if summary.last_window < 0:
        raise Malformed(f"{path} contains no frame: there is nothing to replay.")
    return summary.last_window
