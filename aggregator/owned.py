"""A session that this process owns: the core, and the entries that were read and belong to windows that are still open.

    Redis --read_commands--> add_replies --> unclosed --> close_due --> commit commands --> Redis
                                                             |
                                                           Session (the core)

After any failed commit the owner drops this object and loads the session again: a commit is never retried with other
content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aggregator.core.checkpoint import dump, load
from aggregator.core.intake import StreamEntry
from aggregator.core.session import Session
from schemas.entries import Beat
from schemas.errors import Malformed
from schemas.grid import NS_PER_MS, due_ms, is_due, last_ms_of_window
from schemas.keys import entry_ms, id_before, tokens
from transport.commit import Taken, commit_frame
from transport.following import new_nonce, nonce_again
from transport.leases import Lease
from transport.redis.cluster import SessionNode
from transport.redis.connection import Command, Pipe, ReplyError, accepted
from transport.replays import clock_read, read_clock
from transport.tokens import MOST_ENTRIES, entries_read, read_entries

# The whole state is written once a second; a new owner computes the windows since then again.
_WINDOWS_PER_CHECKPOINT = 60
# The silence of producers is counted in beats of this length.
BEAT_S = 1.0


class OwnedSession:
    """One session under one epoch."""

    def __init__(
        self, lease: Lease, session: Session, taken: Taken, session_node: SessionNode, beat_due_s: float
    ) -> None:
        """`beat_due_s`: when it beats for the first time, by its owner's monotonic clock."""
        self.lease = lease
        self.beat_due_s = beat_due_s
        # One of its keys: all of them are at one node of a cluster.
        self.key = tokens(lease.session)
        self.session_node = session_node
        self.core = session
        self.epoch = taken.epoch
        self.read_to = taken.cut
        self.unclosed: list[StreamEntry] = []
        self.is_replay = session.opening.replay is not None
        # After a full or refused reply: every entry before this millisecond has been read. None: all of them have.
        self._read_before_ms: int | None = None
        # A replay's own time, and when its process last wrote, in milliseconds.
        self._clock_ms, self.played_ms = 0, 0
        # Windows that were committed under this epoch.
        self.committed = 0
        # Windows up to this millisecond may have been committed by another Redis server, which this one does not know.
        # A replay's frames are the same each time.
        self._served_ms = 0 if self.is_replay else taken.served_ms
        self._nonce = new_nonce()
        self._nonce_again = nonce_again(self._nonce)

    @property
    def name(self) -> str:
        return self.lease.session

    @property
    def due_ns(self) -> int:
        """When the next window is due, in nanoseconds of Redis's clock."""
        return due_ms(self.core.origin_ns, self.core.record.window) * NS_PER_MS

    def read_commands(self) -> list[Command]:
        """Reads the entries since the last read; of a replay first its time, so that the second reply has all entries
        before that time."""
        reading = read_entries(self.name, self.read_to)
        return [read_clock(self.name), reading] if self.is_replay else [reading]

    def add_replies(self, replies: Sequence[Any]) -> ReplyError | None:
        """Takes in the replies to read_commands; returns the error, if one of them is an error. After an error no
        window is closed; after a full reply only those that end before its last entry, since the rest is not read
        yet."""
        if refusal := next((reply for reply in replies if isinstance(reply, ReplyError)), None):
            self._read_before_ms = 0
            return refusal
        if self.is_replay:
            self._clock_ms, self.played_ms = clock_read(replies[0])
        entries = entries_read(replies[-1])
        if entries:
            self.unclosed += entries
            self.read_to = entries[-1][0]
        self._read_before_ms = entry_ms(self.read_to) if len(entries) == MOST_ENTRIES else None
        return None

    def time_ns(self, redis_now_ns: int) -> int:
        """The session's time: Redis's, or a replay's own."""
        return self._clock_ms * NS_PER_MS if self.is_replay else redis_now_ns

    def close_due(self, now_ms: int, most: int, beat: bool) -> list[Command]:
        """Closes up to `most` windows that no later entry can belong to; one commit command for each. With `beat` the
        last of them writes a beat."""
        core, commands = self.core, list[Command]()
        if self._read_before_ms is not None:
            now_ms = min(now_ms, self._read_before_ms)
        while len(commands) < most and not core.record.ended:
            window = core.record.window
            if not is_due(core.origin_ns, window, now_ms):
                break
            is_last = len(commands) + 1 == most or not is_due(core.origin_ns, window + 1, now_ms)
            commands.append(self._close(window, beat and is_last))
        return commands

    def _close(self, window: int, beat: bool) -> Command:
        core = self.core
        closed = core.close(_split_off(self.unclosed, core.origin_ns, window))
        beats = [Beat()] if beat and not closed.frame.final else []
        last_ms = last_ms_of_window(core.origin_ns, window)
        return commit_frame(
            closed.frame,
            self.epoch,
            last_ms,
            progress=core.progress,
            stops=closed.stops,
            dead=closed.dead,
            checkpoint=dump(core) if window % _WINDOWS_PER_CHECKPOINT == _WINDOWS_PER_CHECKPOINT - 1 else b"",
            marks=() if self.is_replay else (*closed.steered, *beats),
            end_reason=core.end_reason if closed.frame.final else "",
            nonce=self._nonce_again if last_ms < self._served_ms else self._nonce,
        )


def load_session(pipe: Pipe, taken: Taken) -> Session:
    """The core as it was when the window `taken.window` was committed. Raises RedisAway, RedisRefuses."""
    core = _from_checkpoint(pipe, taken) or Session(taken.opening, taken.opened)
    entries = _all_entries(pipe, taken, core.record.cut, taken.cut)
    while core.record.window <= taken.window:
        core.close(_split_off(entries, core.origin_ns, core.record.window))
    return core


def _from_checkpoint(pipe: Pipe, taken: Taken) -> Session | None:
    """The core as of the last checkpoint; None without a checkpoint of this version: then all windows are computed."""
    try:
        core, need_from = load(taken.opening, taken.opened, taken.checkpoint)
    except Malformed:
        return None
    if need_from is not None:
        for entry_id, raw in _all_entries(pipe, taken, id_before(need_from), core.record.cut):
            core.restore(entry_id, raw)
    return core


def _all_entries(pipe: Pipe, taken: Taken, after: str, last: str) -> list[StreamEntry]:
    """The entries in (after, last], page by page."""
    found: list[StreamEntry] = []
    while True:
        (reply,) = pipe.run([read_entries(taken.opening.session, after, last)])
        page = entries_read(accepted(reply))
        found += page
        if len(page) < MOST_ENTRIES:
            return found
        after = page[-1][0]


def _split_off(entries: list[StreamEntry], origin_ns: int, window: int) -> list[StreamEntry]:
    """Removes the entries of windows up to `window` from the list and returns them."""
    count, last_ms = 0, last_ms_of_window(origin_ns, window)
    while count < len(entries) and entry_ms(entries[count][0]) <= last_ms:
        count += 1
    taken, entries[:count] = entries[:count], []
    return taken
