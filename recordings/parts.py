"""Writing a file completely or not at all.

.NAME.XXXXXXXX.part   hidden, in the folder of the file, until it is complete; deleted after an error
NAME                  complete
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import Refused, Unavailable

# File systems allow names of 255 bytes; the hidden name needs only the beginning of a longer one.
_MOST_STEM_CHARACTERS = 40


def check_free(path: Path) -> None:
    """Raises Refused where a file with this name exists."""
    if os.path.lexists(path):
        raise Refused("file_exists", f"{path} exists already: name another file, or delete it first.")


@contextlib.contextmanager
def part_of(path: Path, *, replaces: bool = False, is_private: bool = False) -> Iterator[Path]:
    """The path of a new, empty file, which gets the name `path` when the block ends without an error.

    With `is_private` only this user may read it. Raises Refused where the file exists (unless `replaces`) or the folder
    cannot be written to, Unavailable where the disk is full or fails.
    """
    if not replaces:
        check_free(path)
    elif path.is_dir():
        raise Refused("unwritable", f"{path} is a folder: name a file.")
    try:
        number, name = tempfile.mkstemp(".part", f".{path.name[:_MOST_STEM_CHARACTERS]}.", path.parent)
        os.close(number)
    except (OSError, ValueError) as error:
        raise Refused("unwritable", f"{path} cannot be written: {_reason(error)}.") from None
    part = Path(name)
    try:
        yield part
        if not is_private:
            part.chmod(0o666 & ~_umask())
        with part.open("rb") as file:
            os.fsync(file.fileno())
        _give_name(part, path, replaces=replaces)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {_reason(error)}. No part of it is kept.") from None
    finally:
        part.unlink(missing_ok=True)


def _give_name(part: Path, path: Path, *, replaces: bool) -> None:
    if replaces:
        part.replace(path)
        return
    try:
        # Unlike a rename, a link never replaces a file that another process has created meanwhile.
        os.link(part, path)
    except FileExistsError:
        check_free(path)
    except OSError:
        # The file system has no links.
        check_free(path)
        part.rename(path)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
