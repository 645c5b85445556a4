"""The law, as a function: the frames that a token stream has, whoever computes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aggregator.intake import StreamEntry
from aggregator.session import Closed, Session
from schemas.entries import decode_entry
from schemas.errors import Malformed
from schemas.grid import window_of_entry
from schemas.keys import entry_ms
from schemas.sessions import Opening


def replayed(stream: Iterable[StreamEntry], windows: int = 0) -> Iterator[Closed]:
    """Every window of the session, from its opening to its final frame or else to its last entry, but at least
    `windows`.

    The first entry is the opening. Raises Malformed where it is not.
    """
    entries = iter(stream)
    opened, raw = next(entries)
    opening = decode_entry(raw)
    if not isinstance(opening, Opening):
        raise Malformed("a token stream begins with its opening")
    session = Session(opening, opened)
    gathered: list[StreamEntry] = []
    for entry in entries:
        window = window_of_entry(session.origin_ns, entry_ms(entry[0]))
        while session.record.window < window and not session.record.ended:
            yield session.close(gathered)
            gathered = []
        gathered.append(entry)
    while not session.record.ended and (gathered or session.record.window < windows):
        yield session.close(gathered)
        gathered = []
