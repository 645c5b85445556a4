"""Who watches what: one feed for each session that is watched, shared by all of its clients.

    /frames --Watched[FramePacket].join--> a viewer behind the window ten seconds ago, or where `from` says
    /ws     --Watched[EventPacket].join--> a viewer behind the window up to which it was told the session's text
    curl    --Watched[EventPacket].join--> a viewer behind the last event that it has

Whoever joins behind a window gets all that comes after it, each once, whatever is read meanwhile.
"""

from __future__ import annotations

from typing import Generic

from consumers.web.live.feeds import STOPPING, Feed, Source
from consumers.web.live.viewers import TAKES_NOTHING, P, Viewer
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.errors import Refused

# Each watched session is a connection to Redis, and ten seconds of packets: 3 MB.
MOST_FEEDS = 64


class Watched(Generic[P]):
    """The feeds of one kind by their sessions. `skipped` counts frames that slow clients got merged into others,
    `too_slow` the clients that were sent away."""

    def __init__(self, url: str, source: Source[P], presence: RedisPresence, log: Log) -> None:
        self._url, self._source, self._presence, self._log = url, source, presence, log
        self._feeds: dict[str, Feed[P]] = {}
        self._is_stopping = False
        self.skipped = self.too_slow = 0

    @property
    def viewer_count(self) -> int:
        return sum(len(feed.viewers) for feed in self._feeds.values())

    def join(
        self, session: str, after: int, *, replays_to: int | None = None, begin: int | None = None
    ) -> Viewer[P] | None:
        """A viewer of what comes after the window `after`, who waits to be started and shall leave; None where that is
        no longer here. With `replays_to` it begins with what is here, and gets it one by one up to that window. A feed
        that is new begins after `begin`, whatever this viewer wants: those who join later may want more.

        Raises Refused where too many sessions are watched.
        """
        feed = self._feeds.get(session)
        if feed is None:
            if len(self._feeds) >= MOST_FEEDS:
                raise Refused(
                    "too_many_sessions", f"{MOST_FEEDS} sessions are watched already: close one of them.", status=503
                )
            feed = self._feeds[session] = Feed(
                self._url, session, self._source, after if begin is None else begin, self._presence, self._log
            )
        if feed.forgotten_window > after and replays_to is None:
            return None
        viewer = Viewer(feed, after, -1 if replays_to is None else replays_to)
        feed.viewers.add(viewer)
        if self._is_stopping:
            viewer.dismiss(STOPPING)
        return viewer

    def leave(self, session: str, viewer: Viewer[P]) -> None:
        """Ends its watching. The last one to leave ends the feed."""
        viewer.dismiss(STOPPING)
        self.skipped += viewer.skipped
        self.too_slow += viewer.done.result() is TAKES_NOTHING
        feed = self._feeds[session]
        feed.viewers.discard(viewer)
        if not feed.viewers:
            feed.stop()
            del self._feeds[session]

    def stop(self) -> None:
        """Dismisses everybody, now and from now on."""
        self._is_stopping = True
        for feed in self._feeds.values():
            for viewer in feed.viewers:
                viewer.dismiss(STOPPING)
