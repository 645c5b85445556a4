"""The events of a stream of Server-Sent Events, by the standard, and as servers really write them. Pure.

    data: {"a": 1}      an event at once: a whole JSON value is not continued by a further line
    data: {"a":         several data lines of one event are joined by a newline, up to the empty line
    data: 2}
    event: error        the data of this event is an error
    id: 7               ignored, as are comments, `retry` and unknown fields
    {"error": ...}      JSON without a field, from a proxy or another server: an event as well

Other text is not an event. Its beginning is kept, for the sentence about a stream that has none.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from producers.servers.faults import NOT_JSON, ServerFault
from producers.servers.lines import MAX_LINE_BYTES, Lines
from producers.servers.loose import loose_json

DONE = b"[DONE]"
# Enough for a whole answer of a server that does not stream.
_MOST_OTHER_BYTES = MAX_LINE_BYTES
_IGNORED = (b"", b"id", b"retry")
_skim = msgspec.json.Decoder(msgspec.Raw)


class Event(msgspec.Struct, frozen=True):
    """What one event contains. `is_error`: its kind is `error`."""

    data: bytes
    is_error: bool = False


class Events:
    """The events of one stream. Where the bytes were cut changes no event."""

    def __init__(self) -> None:
        self._lines = Lines(ends_at_cr=True)
        # The data lines of the event that has no end yet, and all its lines: a raw line end in JSON is no line end.
        self._data: list[bytes] = []
        self._all: list[bytes] = []
        self._size = 0
        self._is_error = False
        self._other = bytearray()

    @property
    def other(self) -> bytes:
        """The text outside of events, up to 1 MiB of it."""
        return bytes(self._other)

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes. Raises ServerFault where a line or an event is too long."""
        for line in self._lines.feed(data):
            yield from self._read(line)

    def end(self) -> Iterator[Event]:
        """The event without an empty line after it, at the end of the stream."""
        if rest := self._lines.rest():
            yield from self._read(rest)
        yield from self._gathered()

    def _read(self, line: bytes) -> Iterator[Event]:
        if not line:
            if self._data:
                yield from self._gathered()
            self._is_error = False
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            if not self._data and (is_json(value) or value.strip() == DONE):
                yield Event(value, self._is_error)
            elif self._data or value:
                self._gather(value)
        elif field == b"event":
            self._is_error = value.strip() == b"error"
        elif field == b"error":  # an older llama-server
            yield Event(value.strip(), is_error=True)
        elif line.startswith(b"{") and not self._other and is_json(line):
            yield Event(line)
        elif line.strip() == DONE:
            yield Event(DONE)
        elif self._data and field not in _IGNORED:
            self._gather(line, is_data=False)
        elif field.strip() not in _IGNORED:
            self._other += (line + b"\n")[: _MOST_OTHER_BYTES - len(self._other)]

    def _gather(self, value: bytes, *, is_data: bool = True) -> None:
        self._size += len(value) + 1
        if self._size > MAX_LINE_BYTES:
            raise ServerFault(f"sent an event of more than {MAX_LINE_BYTES >> 20} MiB")
        self._all.append(value)
        if is_data:
            self._data.append(value)

    def _gathered(self) -> Iterator[Event]:
        """The event of the data lines so far. Lines that are JSON only one by one are events of their own."""
        lines, written, is_error = self._data, b"\n".join(self._all), self._is_error
        self._data, self._all, self._size = [], [], 0
        whole = b"\n".join(lines)
        if len(written) > len(whole) and not is_json(whole) and _is_loose_json(written):
            yield Event(written, is_error)
            return
        alone = [line for line in lines[1:] if line.strip() == DONE or (line.startswith(b"{") and is_json(line))]
        if alone and not is_json(whole):
            yield from (Event(line, is_error) for line in alone)
        elif lines:
            yield Event(whole, is_error)


def _is_loose_json(value: bytes) -> bool:
    try:
        loose_json(value)
    except NOT_JSON:
        return False
    return True


def is_json(value: bytes) -> bool:
    """True for one whole JSON value, by its structure."""
    try:
        _skim.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
