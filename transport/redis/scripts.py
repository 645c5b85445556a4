"""The Lua scripts of transport/lua, one in each file. Redis runs a script without other commands in between; each
script uses the keys of one slot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "lua"


class Script:
    """A script, which Redis finds by the SHA-1 of its source."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def call(
        self, keys: Sequence[str], arguments: Sequence[str | bytes | int | float]
    ) -> tuple[str | bytes | int | float, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


# By name. Each module of transport/ uses those that it calls; every new connection loads them all.
SCRIPTS = {path.stem: Script(path) for path in sorted(_FOLDER.glob("*.lua"))}
