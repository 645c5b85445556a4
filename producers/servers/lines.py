"""From the bytes of a stream, cut anywhere, to whole lines of bounded length. Pure: no clock, no I/O.

b"one\\ntw" b"o\\nthr" b"ee"   -->   b"one"  b"two"        rest(): b"three"
"""

from __future__ import annotations

from collections.abc import Iterator

from producers.servers.faults import ServerFault

# A token with the longest list of alternatives takes some 20 KiB; a longer line is not a model server's.
MAX_LINE_BYTES = 1 << 20


class Lines:
    """The lines of one stream. Where the bytes were cut changes no line."""

    def __init__(self) -> None:
        # Of the line that has no end yet.
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their ends. Raises ServerFault where one is too long, after the
        lines before it. A caller that stops early has no use for the rest of the stream."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            yield self.rest()
        self._keep(rest)

    def rest(self) -> bytes:
        """The line that has no end yet; then that line is over."""
        line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        return line

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_LINE_BYTES:
            raise ServerFault(f"sent a line of more than {MAX_LINE_BYTES >> 20} MiB")
        self._parts.append(part)
