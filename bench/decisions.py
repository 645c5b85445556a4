"""How long a decision of a consensus delays a member, from the session's token stream.

entries of a window    a   b   c      |end           |commit: the steer's mark      |the steered member's first entry
                           ^ with it the decision is made
                           |-- rest --|--- commit ---|-- state, request, a token ---|
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from aggregator.core.intake import StreamEntry
from aggregator.core.session import Session
from schemas.entries import Finished, Steered, Token, decode_entry
from schemas.grid import NS_PER_MS, window_of_entry, window_start_ns
from schemas.keys import entry_ms
from schemas.sessions import Opening


class Delay(msgspec.Struct, frozen=True):
    """Of one steer, in milliseconds: from the entry that completed the decision, or the leader's word, to the window's
    end; from there to the commit; from there to the member's first entry in its new branch."""

    rest: float
    commit: float
    member: float

    @property
    def total(self) -> float:
        return self.rest + self.commit + self.member


def decision_delays(stream: Sequence[StreamEntry]) -> list[Delay]:
    """That of each steer of a session that has ended, where the member wrote something in the new branch."""
    opening = decode_entry(stream[0][1])
    assert isinstance(opening, Opening)
    session = Session(opening, stream[0][0])
    windows: defaultdict[int, list[StreamEntry]] = defaultdict(list)
    marked_ms: dict[tuple[int, int], int] = {}
    began_ms: dict[tuple[int, int], int] = {}
    for entry_id, raw in stream[1:]:
        ms = entry_ms(entry_id)
        windows[window_of_entry(session.origin_ns, ms)].append((entry_id, raw))
        entry = decode_entry(raw)
        if isinstance(entry, Token | Finished):
            began_ms.setdefault((entry.member, entry.branch), ms)
        elif isinstance(entry, Steered):
            marked_ms[entry.member, entry.branch] = ms
    delays = []
    while not session.record.ended and session.record.window <= max(windows):
        window = session.record.window
        before = copy.deepcopy(session) if windows[window] else None
        steered = session.close(windows[window]).steered
        if before is None or not steered:
            continue
        completed_ms = _completed_ms(before, windows[window])
        end_ms = (session.origin_ns + window_start_ns(window + 1)) / NS_PER_MS
        for branch in [(mark.member, mark.branch) for mark in steered]:
            if branch in began_ms:
                committed_ms = marked_ms[branch]
                delays.append(Delay(end_ms - completed_ms, committed_ms - end_ms, began_ms[branch] - committed_ms))
    return delays


def _completed_ms(before: Session, entries: Sequence[StreamEntry]) -> int:
    """The time of the first entry with which the window has a steer, of a session before that window."""
    counts = range(1, len(entries))
    completing = next((n for n in counts if copy.deepcopy(before).close(entries[:n]).steered), len(entries))
    return entry_ms(entries[completing - 1][0])
