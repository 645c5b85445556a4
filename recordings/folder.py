"""The library: the folder of the recordings.

    2026-11-29_22-45-10_what-is-a-list_3f2a9c0b1d2e.mcap         a recording: time, first words, session
    2026-11-29_22-45-10_what-is-a-list_3f2a9c0b1d2e.mcap.star    the recording is starred
    .2026-11-29_22-45-10_what-is-a-list_3f2a9c0b1d2e.mcap.recording   it is being recorded; .part: it is being copied

A file has its final name only when it is complete. Users and several processes may change the folder: its content is
read each time, and a file that has changed is read again.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from recordings.contents import SUFFIX, About, RecordingSummary
from schemas.errors import CouncilError, Refused

STAR, PART = ".star", ".part"
# The recorder's: after a restart it continues such a file.
UNFINISHED = ".recording"
# The most recordings in a list: one every hour of half a year.
MOST_RECORDINGS = 5_000
# Some thousand sessions of a minute.
DEFAULT_GB = 2.0
# File systems allow names of 255 bytes; the words of the prompt take at most so many of them.
_MOST_WORDS_BYTES = 80
_SEPARATORS = re.compile(r"[\W_]+")
_MOST_NAME_BYTES = 200


class KeptRecording(msgspec.Struct, frozen=True):
    """One recording of the library. `problem` is a sentence where it cannot be read; then the rest is unknown."""

    name: str
    size_bytes: int
    modified_ms: int
    starred: bool
    about: About | None = None
    summary: RecordingSummary | None = None
    problem: str = ""

    def matches(self, words: str) -> bool:
        """True where each of the words is in the prompt, a member's name, or the file's name."""
        names = self.about.names if self.about else ()
        text = " ".join([self.name, self.about.prompt if self.about else "", *names]).casefold()
        return all(word in text for word in words.casefold().split())


def default_folder() -> Path | None:
    """The user's data folder for recordings; None where the user has no home folder.

    A relative XDG_DATA_HOME is ignored, as the XDG specification requires.
    """
    for data in (os.environ.get("XDG_DATA_HOME", ""), os.path.expanduser("~/.local/share")):
        if os.path.isabs(data):
            return Path(data, "council", "recordings")
    return None


def library_of_role(folder: Path | None) -> Library:
    """The library of a process: `folder`, or COUNCIL_RECORDINGS, or else the user's data folder. Raises Refused where
    all three are missing."""
    named = os.environ.get("COUNCIL_RECORDINGS")
    found = folder or (Path(named) if named else default_folder())
    if found is None:
        raise Refused(
            "no_recordings_folder", "There is no home folder for recordings: name a folder with --recordings DIR."
        )
    return Library(found)


def recording_name(session: str, prompt: str, opened_ms: int) -> str:
    """The file name of a session's recording: the time at which it was opened (local), first words of the prompt, its
    id."""
    # So many characters contain enough words in any case.
    words = _SEPARATORS.sub("-", prompt[: 4 * _MOST_WORDS_BYTES].casefold()).strip("-")
    short = words.encode("utf-8", "ignore")[:_MOST_WORDS_BYTES].decode("utf-8", "ignore").strip("-")
    when = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(opened_ms / 1000))
    return "_".join(filter(None, (when, short, session))) + SUFFIX


class Library:
    """The recordings in one folder. The methods raise Refused where the folder cannot be used, and for a name that is
    not that of a recording."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The metadata of each file, until its size or time changes.
        self._read: dict[str, tuple[tuple[int, int], About | None, RecordingSummary | None, str]] = {}

    def make(self) -> None:
        """Creates the folder, which only this user may open."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> Refused:
        return Refused(
            "no_recordings_folder",
            f"The folder for recordings, {self.folder}, cannot be used ({error.strerror or error}): name another one "
            "with --recordings.",
            status=503,
        )

    def names(self) -> list[str]:
        """The names of all recordings, the newest file first; empty where the folder does not exist."""
        return [name for name, _ in self._files()]

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):
                            if entry.is_file(follow_symlinks=False):
                                found.append((entry.name, entry.stat(follow_symlinks=False)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from None
        found.sort(key=lambda one: (-one[1].st_mtime_ns, one[0]))
        return found[:MOST_RECORDINGS]

    def listed(self) -> list[KeptRecording]:
        """All recordings, the newest first. Reads the beginning and the end of each new file."""
        files = self._files()
        self._read = {name: self._read[name] for name, _ in files if name in self._read}
        return [self._kept(name, status) for name, status in files]

    def find(self, name: str) -> KeptRecording:
        """One recording."""
        return self._kept(name, self.path(name).stat())

    def _kept(self, name: str, status: os.stat_result) -> KeptRecording:
        version = status.st_size, status.st_mtime_ns
        if name not in self._read or self._read[name][0] != version:
            from recordings.reading import (
                read_metadata,  # most processes read no recording, and do not need its library
            )

            try:
                self._read[name] = (version, *read_metadata(self.folder / name), "")
            except CouncilError as error:
                # A list is about one folder, so its path is left out.
                self._read[name] = version, None, None, str(error).replace(str(self.folder / name), name)
        _, about, summary, problem = self._read[name]
        starred = (self.folder / f"{name}{STAR}").exists()
        return KeptRecording(name, status.st_size, status.st_mtime_ns // 10**6, starred, about, summary, problem)

    def path(self, name: str) -> Path:
        """The file of an existing recording. Raises Refused where there is none; a name never leads out of the
        folder."""
        path = self.folder / name
        is_name = bool(name) and name == os.path.basename(name) and not name.startswith(".") and "\0" not in name
        is_there = False
        # A name that is too long or not valid for the file system raises an error, and does not exist.
        with contextlib.suppress(OSError, ValueError):
            is_there = is_name and name.endswith(SUFFIX) and path.is_file() and not path.is_symlink()
        if not is_there:
            raise Refused(
                "no_recording",
                f"There is no recording {name[:_MOST_NAME_BYTES]!r}: `council recordings` lists those that exist.",
                status=404,
            )
        return path

    def part_path(self, name: str) -> Path:
        """The path of a recording with this name until it is complete."""
        return self.folder / f".{name}{PART}"

    def unfinished(self) -> list[Path]:
        """The final paths of the recordings that a recorder has begun and not finished."""
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except OSError:
            return []
        return [
            self.folder / name[1:].removesuffix(UNFINISHED)
            for name in names
            if name.startswith(".") and name.endswith(UNFINISHED)
        ]

    def free_name(self, wanted: str) -> str:
        """A name for an imported file: its own, with a number where that is in use. Characters that are unusual in file
        names are replaced."""
        stem = re.sub(r"[^\w.()+ -]", "-", os.path.basename(wanted.replace("\\", "/"))).strip(". ")
        stem = stem.removesuffix(SUFFIX).encode("utf-8", "ignore")[:_MOST_NAME_BYTES].decode("utf-8", "ignore")
        stem = stem.strip(". ") or "recording"
        for number in range(1, MOST_RECORDINGS):
            name = f"{stem}{f'-{number}' if number > 1 else ''}{SUFFIX}"
            if not (self.folder / name).exists() and not self.part_path(name).exists():
                return name
        raise Refused("name_taken", f"There are too many recordings with the name {stem!r}: rename the file.")

    def star(self, name: str, *, is_starred: bool) -> None:
        """Stars a recording, which is then never deleted to save space, or removes its star."""
        mark = Path(f"{self.path(name)}{STAR}")
        try:
            mark.touch(mode=0o600) if is_starred else mark.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def delete(self, name: str) -> None:
        """Deletes a recording and its star."""
        path = self.path(name)
        try:
            path.unlink(missing_ok=True)
            Path(f"{path}{STAR}").unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def of_session(self, session: str) -> str | None:
        """The name of the recording of a session; None where there is none."""
        ending = f"_{session}{SUFFIX}"
        return next((name for name in self.names() if name.endswith(ending)), None)

    def trim(self, most_bytes: int, keep: Sequence[str] = ()) -> list[str]:
        """Deletes the oldest recordings until all together have at most so many bytes, but no starred one, and none of
        `keep`. Returns the names of the deleted ones."""
        files = self._files()
        total, deleted = sum(status.st_size for _, status in files), list[str]()
        for name, status in reversed(files):
            if total <= most_bytes:
                break
            if name in keep or (self.folder / f"{name}{STAR}").exists():
                continue
            with contextlib.suppress(Refused):
                self.delete(name)
                deleted.append(name)
                total -= status.st_size
        return deleted
