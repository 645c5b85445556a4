"""Folders for Unix sockets, which only this user may open.

They are in the temporary folder (TMPDIR). Where the path of a socket would be too long there, they are in /tmp, and
their names include a digest of the temporary folder's path, so that those of two temporary folders differ.

    TMPDIR=/run/user/1000             /run/user/1000/council-1000-x2h4k8qz/redis.sock
    TMPDIR=/srv/…90 bytes…/tmp        /tmp/council.5f0c21aa-1000-x2h4k8qz/redis.sock
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

# The path of a Unix socket has at most 103 bytes on macOS and 107 on Linux.
MOST_SOCKET_PATH_BYTES = 103
# The bytes that mkdtemp adds to a prefix, and those of a socket's file name: "/redis.sock" or "/llama.sock".
_ADDED_BYTES = 8 + len("/redis.sock")
# Every Linux and macOS has it.
_SHORT_FOLDER = "/tmp"


def new_socket_folder(name: str) -> Path:
    """Creates a folder. `name` is the same for all folders of one purpose. Raises OSError."""
    prefix = _prefix(name)
    return Path(tempfile.mkdtemp(prefix=prefix.name, dir=prefix.parent))


def socket_folders(name: str) -> list[Path]:
    """The private folders of this purpose, newest first."""
    prefix, found = _prefix(name), []
    for path in prefix.parent.glob(f"{prefix.name}*"):
        with contextlib.suppress(OSError):
            if is_private(path):
                found.append((path.lstat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def is_private(path: Path) -> bool:
    """True for a folder of this user that no other user can open. Raises OSError."""
    info = path.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077


def is_socket_folder(path: Path, name: str) -> bool:
    """True for the path of a folder of this purpose, which need not exist."""
    return path.name.startswith(_prefix(name).name)


def _prefix(name: str) -> Path:
    """The common prefix of the paths of all folders of this purpose."""
    temporary = tempfile.gettempdir()
    prefix = Path(temporary, f"council-{name}-")
    if len(os.fsencode(prefix)) + _ADDED_BYTES <= MOST_SOCKET_PATH_BYTES:
        return prefix
    digest = hashlib.blake2b(os.fsencode(temporary), digest_size=4).hexdigest()
    return Path(_SHORT_FOLDER, f"council.{digest}-{name}-")
