"""From the bytes of a stream, cut anywhere, to whole lines of bounded length. Pure: no clock, no I/O.

b"one\\ntw" b"o\\nthr" b"ee"   -->   b"one"  b"two"        rest(): b"three"
"""

from __future__ import annotations

from collections.abc import Iterator

from producers.servers.faults import ServerFault

# A token with the longest list of alternatives takes some 20 KiB; a longer line is not a model server's.
MAX_LINE_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Lines:
    """The lines of one stream, without a byte order mark before the first. Where the bytes were cut changes no line.

    A line ends with LF. `ends_at_cr`: also with CR LF and CR, as in a stream of events; JSON may contain a raw CR.
    """

    def __init__(self, *, ends_at_cr: bool = False) -> None:
        self._ends_at_cr = ends_at_cr
        # Of the line that has no end yet.
        self._parts: list[bytes] = []
        self._size = 0
        # The bytes before it is known whether the stream begins with a byte order mark; None afterwards.
        self._start: bytes | None = b""
        self._is_after_cr = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their ends. Raises ServerFault where one is too long, after the
        lines before it. A caller that stops early has no use for the rest of the stream."""
        if self._start is not None:
            data = self._start + data
            if len(data) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(data):
                self._start = data
                return
            self._start, data = None, data.removeprefix(_BYTE_ORDER_MARK)
        if self._ends_at_cr:
            data = self._with_lf(data)
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            yield self._line()
        self._keep(rest)

    def rest(self) -> bytes:
        """The line that has no end yet; then that line is over."""
        if self._start:
            self._keep(self._start)
            self._start = None
        return self._line()

    def _line(self) -> bytes:
        line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        return line

    def _with_lf(self, data: bytes) -> bytes:
        """The data with one LF for each end of a line; the two bytes of CR LF may come in two parts."""
        if self._is_after_cr and data:
            data, self._is_after_cr = data.removeprefix(b"\n"), False
        if b"\r" not in data:
            return data
        self._is_after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_LINE_BYTES:
            raise ServerFault(f"sent a line of more than {MAX_LINE_BYTES >> 20} MiB")
        self._parts.append(part)
