"""Folders in which Unix sockets are made, open to this user alone.

They lie in the temporary folder (TMPDIR). Where a socket's path would be too long there, they lie in /tmp, and their
names include a digest of the temporary folder's path: two temporary folders do not meet in /tmp either.

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
# What mkdtemp adds to a prefix, and a socket's file name: "/redis.sock" or "/llama.sock".
_ADDED_BYTES = 8 + len("/redis.sock")
# Every Linux and macOS has it, and no name is shorter.
_SHORT_FOLDER = "/tmp"


def new_socket_folder(name: str) -> Path:
    """A new folder. `name` is what the folders of one purpose have in common. Raises OSError."""
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
    """True for the path of a folder of this purpose, whether or not it exists."""
    return path.name.startswith(_prefix(name).name)


def _prefix(name: str) -> Path:
    """What the paths of all folders of this purpose begin with."""
    temporary = tempfile.gettempdir()
    prefix = Path(temporary, f"council-{name}-")
    if len(os.fsencode(prefix)) + _ADDED_BYTES <= MOST_SOCKET_PATH_BYTES:
        return prefix
    digest = hashlib.blake2b(os.fsencode(temporary), digest_size=4).hexdigest()
    return Path(_SHORT_FOLDER, f"council.{digest}-{name}-")
