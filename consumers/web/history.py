"""The frames of one session as they were sent, from the first: what a client that comes later reads before it is live.

    sealed, 120 frames each, compressed            open: the newest 120 to 239, as they are
    [........] [........] [........]               | | | | | | | | | |

Frames differ little from one to the next: a sealed block is a twelfth of its JSON, so a session's longest life, one
hour, costs 30 MB at six members, and ten minutes 5 MB.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

# Two seconds: 0.4 ms to compress, so that nobody's frame waits for it.
_BLOCK = 120
_FASTEST = 1


class History:
    """A growing sequence of JSON lines. Indexes count from the first line ever added."""

    __slots__ = ("_open", "_sealed")

    def __init__(self) -> None:
        self._sealed: list[bytes] = []
        self._open: list[bytes] = []

    def __len__(self) -> int:
        return len(self._sealed) * _BLOCK + len(self._open)

    def append(self, line: bytes) -> None:
        """Adds a line, which holds no line break (JSON escapes them)."""
        self._open.append(line)
        if len(self._open) == 2 * _BLOCK:
            self._sealed.append(zlib.compress(b"\n".join(self._open[:_BLOCK]), _FASTEST))
            del self._open[:_BLOCK]

    def lines_from(self, index: int) -> Sequence[bytes]:
        """Some of the lines from `index` on, in order: at least one where there is one."""
        block, offset = divmod(index, _BLOCK)
        if block < len(self._sealed):
            return zlib.decompress(self._sealed[block]).split(b"\n")[offset:]
        return self._open[index - len(self._sealed) * _BLOCK :]
