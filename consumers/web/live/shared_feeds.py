"""The feeds of all watched sessions: one for each session, shared by its clients.

    /frames --SharedFeeds[FramePacket].join--> a viewer behind the window ten seconds ago, or where `from` says
    /ws     --SharedFeeds[EventPacket].join--> a viewer behind the window up to which it was sent the session's text
    curl    --SharedFeeds[EventPacket].join--> a viewer behind the last event that it has

A viewer behind a window receives all that follows it, each window once, whatever the feed reads meanwhile.
"""

from __future__ import annotations

from typing import Generic

from consumers.web.live.feeds import SERVER_STOPPING, SET_BACK, Feed, Source
from consumers.web.live.viewers import CLIENT_STALLED, P, Viewer
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.errors import Refused
from transport.following import StreamEntry

# Each watched session costs a connection to Redis, and ten seconds of packets: 3 MB.
MOST_FEEDS = 64


class SharedFeeds(Generic[P]):
    """The feeds of one kind by their sessions. `frames_merged` counts frames that slow clients received merged into
    others, `clients_too_slow` the clients that were disconnected for it."""

    def __init__(self, url: str, source: Source[P], presence: RedisPresence, log: Log) -> None:
        self._url, self._source, self._presence, self._log = url, source, presence, log
        self._feeds: dict[str, Feed[P]] = {}
        self._is_stopping = False
        self.frames_merged = self.clients_too_slow = 0

    def join(
        self,
        session: str,
        after: int,
        *,
        replays_to: int | None = None,
        begin: int | None = None,
        last: StreamEntry | None = None,
    ) -> Viewer[P] | None:
        """A viewer of what follows the window `after`; the caller starts it, and calls leave() at the end. None where
        the feed no longer has that.

        With `replays_to` the viewer begins with what the feed has, and receives it unmerged up to that window. A new
        feed begins after `begin`, or else after `after`: later viewers may want more than the first. `last` is the
        entry that the caller has read up to there; a new feed ends where it does not stand any more.

        Raises Refused where too many sessions are watched.
        """
        feed = self._feeds.get(session)
        if feed is None or feed.close_reason is SET_BACK:
            if feed is None and len(self._feeds) >= MOST_FEEDS:
                raise Refused(
                    "too_many_sessions", f"{MOST_FEEDS} sessions are watched already: close one of them.", status=503
                )
            feed = self._feeds[session] = Feed(
                self._url, session, self._source, after if begin is None else begin, last, self._presence, self._log
            )
        if feed.dropped_window > after and replays_to is None:
            return None
        viewer = Viewer(feed, after, -1 if replays_to is None else replays_to)
        feed.viewers.add(viewer)
        if self._is_stopping:
            viewer.close(SERVER_STOPPING)
        return viewer

    def leave(self, session: str, viewer: Viewer[P]) -> None:
        """Removes the viewer. With its last viewer a feed stops."""
        viewer.close(SERVER_STOPPING)
        self.frames_merged += viewer.frames_merged
        self.clients_too_slow += viewer.done.result() is CLIENT_STALLED
        feed = self._feeds.get(session)
        if feed is None or viewer not in feed.viewers:
            # Its feed was set back, which has ended, and another one has taken its place.
            return
        feed.viewers.discard(viewer)
        if not feed.viewers:
            feed.stop()
            del self._feeds[session]

    def stop(self) -> None:
        """Closes all viewers, and those that join later."""
        self._is_stopping = True
        for feed in self._feeds.values():
            for viewer in feed.viewers:
                viewer.close(SERVER_STOPPING)
