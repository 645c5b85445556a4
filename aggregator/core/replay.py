"""The law as a function: the frames of a token stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aggregator.core.intake import StreamEntry
from aggregator.core.session import Closed, Session
from schemas.entries import decode_entry
from schemas.errors import Malformed
from schemas.grid import window_of_entry
from schemas.keys import entry_ms
from schemas.sessions import Opening


class StreamReplay:
    """A session that is computed from its token stream, entry by entry. `session` is its core.

    A window is closed once an entry of a later one is added, or when the caller closes it.
    """

    def __init__(self, first: StreamEntry) -> None:
        """`first` is the opening. Raises Malformed where it is not."""
        opening = decode_entry(first[1])
        if not isinstance(opening, Opening):
            raise Malformed("a token stream begins with its opening")
        self.session = Session(opening, first[0])
        # The entries of the next window to be closed.
        self._gathered: list[StreamEntry] = []

    def add(self, entry: StreamEntry) -> Iterator[Closed]:
        """Takes the next entry of the stream; closes the windows before its own. Entries after the final frame change
        nothing. Raises Malformed where the entry's window was closed before."""
        record = self.session.record
        window = window_of_entry(self.session.origin_ns, entry_ms(entry[0]))
        if record.window < window:
            yield from self.close_to(window - 1)
        if record.ended:
            return
        if window < record.window:
            raise Malformed(f"the entry {entry[0]} belongs to window {window}, which was closed before")
        self._gathered.append(entry)

    def close_to(self, window: int) -> Iterator[Closed]:
        """Closes the windows up to `window`, or up to the final frame."""
        record = self.session.record
        while record.window <= window and not record.ended:
            gathered, self._gathered = self._gathered, []
            yield self.session.close(gathered)

    def close_gathered(self) -> Iterator[Closed]:
        """Closes the window of the last entry, if it is still open."""
        return self.close_to(self.session.record.window if self._gathered else -1)


def replayed(stream: Iterable[StreamEntry], windows: int = 0) -> Iterator[Closed]:
    """Every window of the session, from its opening to its final frame or else to its last entry, but at least
    `windows`.

    The first entry is the opening. Raises Malformed where it is not.
    """
    entries = iter(stream)
    replay = StreamReplay(next(entries))
    for entry in entries:
        yield from replay.add(entry)
    yield from replay.close_gathered()
    yield from replay.close_to(windows - 1)
