"""The file of a recording that is being written, from its first message to its final name.

    .NAME.recording     chunks, one a second; a killed process loses what is not in a chunk yet
    NAME                the same, complete

Another process that continues it reads what is valid, writes that into a new file in its place, and appends to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from recordings.contents import About, Health, RecordingSummary
from recordings.folder import UNFINISHED
from recordings.reading import RecordingReader
from recordings.writing import RecordingWriter
from schemas.errors import Malformed, Refused
from schemas.frame_json import frame_of_json
from schemas.frames import Frame
from schemas.grid import window_index_at
from schemas.keys import entry_order

# Larger than the second part of any entry id.
_LAST = 2**64 - 1


class RecordingFile:
    """Writes one recording. `after_entry` and `after_event` are the ids of what was written last, `last_frame` is the
    last frame. Each method raises OSError where the file cannot be written."""

    def __init__(self, path: Path) -> None:
        """`path` is the final name. Raises Refused where that file exists, or is being written by another process."""
        self.path = path
        self._part = path.with_name(f".{path.name}{UNFINISHED}")
        if path.exists():
            raise Refused("file_exists", f"{path} exists already: name another file, or delete this one.")
        self._file = _open_locked(self._part, path)
        self._writer: RecordingWriter | None = None
        self.after_entry = self.after_event = "0-0"
        self.last_frame: Frame | None = None

    def begin(self, about: About) -> None:
        """Continues what another process has written of this session, or starts from the beginning."""
        if not self._resume(about):
            self.restart(about)

    def restart(self, about: About) -> None:
        """Starts from the beginning; what was written is lost."""
        self._writer = None
        self._file.seek(0)
        self._file.truncate()
        self._writer = RecordingWriter(self._file, about)
        self.after_entry = self.after_event = "0-0"
        self.last_frame = None

    def _resume(self, about: About) -> bool:
        """False where the file contains nothing valid of this session."""
        try:
            reader = RecordingReader(self._part)
        except (Refused, Malformed):
            return False
        with reader:
            found = reader.about
            if (found.session, found.opened, found.text) != (about.session, about.opened, about.text):
                return False
            fresh = self._part.with_name(f"{self._part.name}.new")
            file = _open_locked(fresh, self.path)
            file.truncate()
            self._writer = RecordingWriter(file, about)
            self._copy(reader, self._writer, int(about.origin_ns))
            self._writer.flush()
            os.replace(fresh, self._part)
            self._file.close()
            self._file = file
        return True

    def _copy(self, reader: RecordingReader, writer: RecordingWriter, origin_ns: int) -> None:
        """Copies what is valid. The events of the last window are left out, since some of them may be missing."""
        held, held_window = list[tuple[int, bytes]](), -1
        with contextlib.suppress(Malformed):
            for item in reader.items():
                if item.kind == "event":
                    window = window_index_at(item.log_ns - origin_ns) - 1
                    if window != held_window:
                        for one in held:
                            writer.add_event(*one)
                        held, held_window = [], window
                    held.append((window, item.raw))
                    continue
                writer.add_recorded(item)
                if item.kind == "entry":
                    self.after_entry = max(self.after_entry, item.id, key=entry_order)
                elif item.kind == "frame":
                    self.last_frame = frame_of_json(item.raw)
        self.after_event = f"{max(0, held_window)}-{_LAST}"

    def add_entries(self, entries: list[tuple[str, bytes]]) -> None:
        """The next entries of the token stream."""
        for entry_id, raw in entries:
            self._begun.add_entry(entry_id, raw)
            self.after_entry = entry_id

    def add_frames(self, frames: list[Frame]) -> None:
        """The next frames, after all entries that they depend on."""
        for frame in frames:
            self._begun.add_frame(frame)
            self.last_frame = frame

    def add_events(self, events: list[tuple[str, bytes]]) -> None:
        """The next events of the real-time protocol."""
        for entry_id, raw in events:
            self._begun.add_event(entry_order(entry_id)[0] - 1, raw)
            self.after_event = entry_id

    def add_health(self, at_ns: int, health: Health) -> None:
        """The progress of the council's processes at a time, in nanoseconds of Unix time."""
        self._begun.add_health(at_ns, health)

    @property
    def _begun(self) -> RecordingWriter:
        assert self._writer is not None, "begin() was called"
        return self._writer

    def flush(self) -> None:
        """Ends the chunk in progress: what was added survives the end of this process."""
        self._begun.flush()

    def finish(self, reason: str) -> RecordingSummary:
        """Completes the file and gives it its final name. Raises Refused where another file has that name meanwhile."""
        summary = self._begun.finish(reason)
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            # A link, unlike a rename, replaces nothing.
            os.link(self._part, self.path)
        except FileExistsError:
            raise Refused("file_exists", f"{self.path} exists already: name another file.") from None
        except OSError:
            # A file system without links.
            os.replace(self._part, self.path)
        self._part.unlink(missing_ok=True)
        self.close()
        return summary

    def discard(self) -> None:
        """Deletes what was written."""
        self._part.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves what was written for the next process."""
        # The content of its buffer may not fit on the disk.
        with contextlib.suppress(OSError):
            self._file.close()


def _open_locked(path: Path, final: Path) -> IO[bytes]:
    """The file, open for writing and locked for this process. Raises Refused where another process has it; OSError."""
    while True:
        file = open(path, "ab", opener=lambda name, flags: os.open(name, flags & ~os.O_APPEND, 0o600))  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its former owner may have renamed or replaced it before it was locked.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise Refused(
                "recorded_already", f"Another process is recording into {final}: wait until it is done.", status=409
            ) from None
        file.close()
