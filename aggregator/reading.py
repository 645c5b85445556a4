"""Reading the owned sessions: one round trip a tick, with each session's time.

In a cluster a session's windows are due by the clock of its own node: one TIME for each node that has such sessions.
"""

from __future__ import annotations

import time
from itertools import islice

from aggregator.owned import OwnedSession
from aggregator.tenure import Tenure
from schemas.errors import RedisAway
from schemas.grid import NS_PER_MS
from transport.redis.address import Node
from transport.redis.cluster import KeyedCommand, is_moved
from transport.redis.connection import Pipe, ReplyError, redis_ns
from transport.replays import SILENT_MS


class SessionReader:
    """Reads the sessions of one loop. Raises RedisAway."""

    def __init__(self, pipe: Pipe, tenure: Tenure) -> None:
        self._pipe, self._tenure = pipe, tenure

    def read(self, owned: list[OwnedSession]) -> tuple[list[tuple[OwnedSession, int]], int]:
        """Adds the new entries to each session. Returns the sessions, each with its time in ns, and when that was read,
        by the monotonic clock."""
        nodes = self._drop_moved(owned)
        clocks = [KeyedCommand(one.key, ("TIME",)) for one in dict(zip(nodes, owned, strict=True)).values()]
        reads = [session.read_commands() for session in owned]
        replies = self._pipe.run([*(command for read in reads for command in read), *clocks], follows=False)
        times, read_at_ns = replies[len(replies) - len(clocks) :], time.monotonic_ns()
        if refusal := next((reply for reply in times if isinstance(reply, ReplyError)), None):
            raise RedisAway(f"Redis does not return its time: {refusal}") from refusal
        now_ns = dict(zip(dict.fromkeys(nodes), map(redis_ns, times), strict=True))
        rest = iter(replies)
        for session, read in zip(owned, reads, strict=True):
            refusal = session.add_replies(list(islice(rest, len(read))))
            if refusal is not None and not is_moved(refusal):
                self._tenure.rest(session.name, refusal)
        if any(map(is_moved, replies)):
            self._drop_moved(owned)
        located = [(session, now_ns[node]) for session, node in zip(owned, nodes, strict=True)]
        self._end_silent_replays(located)
        return [(session, session.time_ns(at_ns)) for session, at_ns in located], read_at_ns

    def _drop_moved(self, owned: list[OwnedSession]) -> list[Node | None]:
        """The node of each session. A session that another node serves now is loaded again: that node may lack the end
        of what was read."""
        nodes = self._pipe.nodes_of([session.key for session in owned])
        for session, node in zip(owned, nodes, strict=True):
            if session.session_node.has_changed(node):
                self._tenure.owned.pop(session.name, None)
        return nodes

    def _end_silent_replays(self, located: list[tuple[OwnedSession, int]]) -> None:
        """Ends the replays whose process has ended without a hand-over; another replay process would have taken them
        over by now."""
        for session, now_ns in located:
            is_silent = session.is_replay and now_ns // NS_PER_MS - session.played_ms > SILENT_MS
            if is_silent and self._tenure.owns(session):
                self._tenure.end(session.lease, session.epoch, "The process that played this replay has ended.")
