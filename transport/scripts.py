"""The Lua scripts, each in a file of its own beside this one. A script runs whole or not at all, and touches one
slot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"


class Script:
    """A script, known to Redis by the SHA-1 of its source."""

    def __init__(self, name: str) -> None:
        self.source = (_FOLDER / f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def call(
        self, keys: Sequence[str], arguments: Sequence[str | bytes | int | float]
    ) -> tuple[str | bytes | int | float, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


OPEN = Script("open")
LEASE = Script("lease")
SWEEP = Script("sweep")
TAKE_OVER = Script("take_over")
COMMIT = Script("commit")
CANCEL = Script("cancel")
DELETE = Script("delete")
EVENTS = Script("events")
END = Script("end")
USE = Script("use")
EVICT = Script("evict")
LOADER = Script("loader")
PLAY = Script("play")
SHOW = Script("show")

SCRIPTS = (OPEN, LEASE, SWEEP, TAKE_OVER, COMMIT, CANCEL, DELETE, EVENTS, END, USE, EVICT, LOADER, PLAY, SHOW)
