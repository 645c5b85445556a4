"""Verifying a recording: its frames are computed again from its entries, and compared byte for byte.

    file --entries--> StreamReplay (the core) --computed frames--> waiting --+
      \\--frames---------------------------------recorded bytes--------------+--> equal, or the fields that differ

The file is read once. Computed frames are kept until the recorded frame of their window is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from aggregator.core.intake import StreamEntry
from aggregator.core.replay import StreamReplay
from aggregator.core.session import Closed
from recordings.contents import RecordingSummary
from recordings.difference import FRAME_SCHEMA, Difference, differences, frame_values, known_fields
from recordings.reading import RecordingReader, read_metadata
from recordings.writing import about_session, this_platform, this_python
from schemas.entries import decode_entry
from schemas.errors import Malformed
from schemas.frame_json import recorded_frame_json
from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ, last_ms_of_window
from schemas.keys import FRAMES_MAXLEN, entry_order
from schemas.sessions import LONGEST_MS, MAX_MEMBERS, Opening

# A recorder that was away reads entries and frames in turn. It is never behind by more frames than Redis keeps.
_MOST_WAITING = FRAMES_MAXLEN
# Measured: 20 frames at once take 5 % less time than one by one; with 60 it is the same.
_GATHERED_FRAMES, _MOST_GATHERED_ENTRIES = 20, 256
_LAST_WINDOW = LONGEST_MS * FRAME_RATE_HZ // 1_000
# The fields of the opening that the metadata repeats.
_OF_THE_OPENING = (
    "session", "opened", "origin_ns", "prompt", "system", "members", "temperature", "max_tokens", "seed", "sync",
    "weighting", "tier", "prefix", "parent",
)  # fmt: skip


class Verification(msgspec.Struct, frozen=True):
    """The result of verifying a recording.

    `is_right`: all that can be checked is right. `compared` frames were computed again and compared; `not_recorded`
    were computed, but the file begins after them; of `unproved` frames only the order was checked. `unproved_because`
    is the reason, a sentence. `difference` is the first one that is larger than the tolerance (`one` is recorded,
    `other` computed), `largest` the largest difference of two numbers, None where all are equal. `numbers_alone`: only
    measured numbers differ.
    """

    is_right: bool
    frames: int
    entries: int
    compared: int
    not_recorded: int
    unproved: int
    unproved_because: str
    difference: Difference | None
    largest: float | None
    numbers_alone: bool
    tolerance: float | None
    python: str
    platform: str
    is_same_machine: bool


def verified(path: Path, tolerance: float | None = None, progress: Callable[[int], None] | None = None) -> Verification:
    """Verifies the recording. Measured numbers may differ by `tolerance`. `progress` is called with the number of bytes
    that were read.

    Raises Refused where the file is not a recording, Damage where it is cut or damaged, Malformed where its content is
    not that of a session.
    """
    _, summary = read_metadata(path)
    with RecordingReader(path) as reader:
        checking = _Checking(reader, summary, tolerance)
        for kind, entry_id, raw, *_ in reader.items():
            if kind == "frame":
                checking.add_frame(raw)
                if progress:
                    progress(reader.at_bytes)
                if checking.is_decided:
                    break
            elif kind == "entry":
                checking.add_entry((entry_id, raw))
        return checking.verdict()


class _Checking:
    """The state of one verification. Entries and frames are gathered: the core, the decoder and the encoder are each
    faster with many items of one kind."""

    def __init__(self, reader: RecordingReader, summary: RecordingSummary, tolerance: float | None) -> None:
        about = reader.about
        self._reader, self._about, self._summary, self._tolerance = reader, about, summary, tolerance
        self._is_same_machine = (about.python, about.platform) == (this_python(), this_platform())
        self._origin_ns = int(about.origin_ns)
        self._new_entries, self._recorded = list[StreamEntry](), list[bytes]()
        # The last millisecond of the newest frame's window: no entry of that window may follow.
        self._sealed_ms = -1
        self._replay: StreamReplay | None = None
        self._waiting = deque[Frame]()
        # The window of the next frame in the file.
        self._next = max(0, summary.first_window)
        # From this window on, only the order of the frames is checked.
        self._unproved_from, self._because = self._limits()
        self._is_past_proof = not self._unproved_from
        self._last_entry = (-1, -1)
        self._difference: Difference | None = None
        self._largest: float | None = None
        self._numbers_alone = True
        self.is_decided = False
        self._frames = self._entries = self._compared = self._unproved = 0
        if summary.first_window > _LAST_WINDOW:
            raise self._wrong(f"it begins with window {summary.first_window}, which no session reaches")

    def _limits(self) -> tuple[int, str]:
        if not self._about.text:
            return 0, "It was recorded without text: its frames cannot be computed again."
        if gaps := self._about.gaps:
            first = min(gap[0] for gap in gaps)
            return first, f"Windows were lost, the first is {first}: frames from there on cannot be computed again."
        return _LAST_WINDOW + 1, ""

    def _wrong(self, what: str) -> Malformed:
        return Malformed(f"{self._reader.path} is not the recording of a session: {what}.")

    def add_entry(self, entry: StreamEntry) -> None:
        """The next entry of the file."""
        order = entry_order(entry[0])
        if order <= self._last_entry:
            raise self._wrong(f"the entry {entry[0]} comes after a later one")
        self._last_entry = order
        self._entries += 1
        if self._is_past_proof:
            return
        if self._replay is None:
            self._open(entry)
            return
        if order[0] <= self._sealed_ms:
            self._settle()
            # A frame that is twice in the file, or out of order, shifts the others: then that is the difference.
            if self.is_decided:
                return
            raise self._wrong(f"the entry {entry[0]} comes after the frame of its window")
        self._new_entries.append(entry)
        if len(self._new_entries) == _MOST_GATHERED_ENTRIES:
            self._feed(self._replay)

    def _feed(self, replay: StreamReplay) -> None:
        gathered, self._new_entries = self._new_entries, []
        for entry in gathered:
            if not self._is_past_proof:
                self._keep(replay.add(entry))

    def _open(self, first: StreamEntry) -> None:
        opening = _opening_in(first)
        if opening is None or first[0] != self._about.opened:
            raise self._wrong("it does not begin with the opening of a session")
        if len(opening.members) > MAX_MEMBERS:
            raise self._wrong(f"it has {len(opening.members)} members")
        expected = about_session(opening, first[0], self._about.council_version)
        for name in _OF_THE_OPENING:
            if getattr(expected, name) != getattr(self._about, name):
                raise self._wrong(f"the {name} of its metadata differs from that of its opening")
        if opening.replay is not None and opening.replay.frames:
            self._unproved_from, self._is_past_proof = 0, True
            self._because = "It is the recording of a replay of frames only: they cannot be computed again."
            return
        try:
            self._replay = StreamReplay(first)
        except Exception as error:  # noqa: BLE001
            raise self._wrong(f"the core cannot open it ({type(error).__name__})") from None

    def _keep(self, closed: Iterable[Closed]) -> None:
        """Keeps the computed frames for the comparison, except those before the file's first frame."""
        waiting = self._waiting
        try:
            for one in closed:
                window = one.frame.window_index
                if window >= self._unproved_from:
                    self._is_past_proof = True
                    return
                if window >= self._next:
                    waiting.append(one.frame)
                    if len(waiting) > _MOST_WAITING:
                        raise Malformed(f"more than {_MOST_WAITING} windows pass without a frame")
        except Malformed as error:
            raise self._wrong(str(error)) from None
        except Exception as error:  # noqa: BLE001
            # A fault of the core that this file shows is reported in a sentence, not with a traceback.
            window = self._replay.session.record.window if self._replay else 0
            raise self._wrong(f"the core fails on window {window} ({type(error).__name__})") from None

    def add_frame(self, raw: bytes) -> None:
        """The next frame of the file."""
        window = self._next + len(self._recorded)
        if window < self._unproved_from and self._replay is None:
            raise self._wrong("a frame comes before the opening of its session")
        self._frames += 1
        if window < self._unproved_from:
            self._recorded.append(raw)
            self._sealed_ms = last_ms_of_window(self._origin_ns, window)
            if len(self._recorded) == _GATHERED_FRAMES:
                self._settle()
            return
        self._settle()
        found = self._window_of(raw)
        is_lost = any(first <= window and found - 1 <= last for first, last in self._about.gaps)
        if found < window or (found > window and not is_lost):
            self._differs(Difference(window, "window_index", found, window))
        self._waiting.clear()
        self._unproved += 1
        self._next = found + 1

    def _settle(self) -> None:
        """Computes the windows of the gathered frames, and compares them."""
        replay, waiting = self._replay, self._waiting
        if replay is None or not self._recorded:
            return
        self._feed(replay)
        gathered, self._recorded = self._recorded, []
        self._keep(replay.close_to(self._next + len(gathered) - 1))
        for raw in gathered:
            computed = recorded_frame_json(waiting.popleft()) if waiting else b""
            self._compared += computed != b""
            if computed != raw:
                self._compare(self._next, raw, computed)
            self._next += 1
            if self.is_decided:
                return

    def _compare(self, window: int, raw: bytes, computed: bytes) -> None:
        """Notes the fields in which a recorded frame differs from the computed one, which is empty after the session's
        end."""
        if not computed:
            self._differs(Difference(window, "frame", self._window_of(raw), None))
            return
        try:
            recorded = frame_values(raw)
        except Malformed as error:
            raise self._wrong(f"window {window}: {error}") from None
        known = known_fields(self._reader.schemas.get(FRAME_SCHEMA))
        for difference in differences(window, recorded, msgspec.json.decode(computed), known):
            self._differs(difference)

    def _differs(self, difference: Difference) -> None:
        distance = difference.distance
        if distance is None or self._tolerance is None or distance > self._tolerance:
            self._difference = self._difference or difference
        if distance is None:
            self._numbers_alone = False
            self.is_decided = True
        else:
            self._largest = max(distance, self._largest or 0.0)
            # Numbers of another machine are compared to the end, to find the largest difference.
            self.is_decided = self.is_decided or (self._is_same_machine and self._tolerance is None)

    def _window_of(self, raw: bytes) -> int:
        try:
            return int(frame_values(raw)["window_index"])
        except Malformed as error:
            raise self._wrong(f"after window {self._next - 1}: {error}") from None

    def verdict(self) -> Verification:
        """The result, after all items or once it is decided. Raises Malformed where the file contains no frame, or its
        summary has other counts."""
        if not self._frames:
            raise self._wrong("it contains no frame")
        self._settle()
        summary = self._summary
        counted = (self._frames, self._entries, self._next - 1)
        if not self.is_decided and counted != (summary.frames, summary.entries, summary.last_window):
            raise self._wrong("the counts of its summary are not those of its content")
        return Verification(
            is_right=self._difference is None,
            frames=self._frames,
            entries=self._entries,
            compared=self._compared,
            not_recorded=max(0, summary.first_window) if self._compared else 0,
            unproved=self._unproved,
            unproved_because=self._because if self._unproved else "",
            difference=self._difference,
            largest=self._largest,
            numbers_alone=self._largest is not None and self._numbers_alone,
            tolerance=self._tolerance,
            python=self._about.python,
            platform=self._about.platform,
            is_same_machine=self._is_same_machine,
        )


def _opening_in(first: StreamEntry) -> Opening | None:
    try:
        opening = decode_entry(first[1])
    except Malformed:
        return None
    return opening if isinstance(opening, Opening) else None
