"""Feeds: the frames of a session, read from Redis once and turned into JSON once, however many clients watch.

    Redis --one XREAD--> Feed: History  <-- Viewer at 0      (replays)
                                        <-- Viewer at 812    (live)
                                        <-- Viewer at 210    (slow: its own place, nobody else's)

Nothing is queued for a client: it has a place in the history and moves on as its socket takes frames. One that is more
than MOST_BEHIND frames behind and comes no nearer for PATIENCE_S is cut off, told why, and may come back. No frame is
ever left out between two others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from structlog.stdlib import BoundLogger

from consumers.web.history import History
from schemas.errors import Malformed, RedisAway, RedisRefuses, Refused, SessionGone
from schemas.frames import decode_frame, frame_json
from schemas.keys import FRAMES_MAXLEN
from transport.connection import AsyncPipe
from transport.frames import read_frames
from transport.presence import RedisPresence
from transport.sessions import find_session

# Ten seconds: a page that was busy for so long redraws faster from the beginning than from where it was.
MOST_BEHIND = 600
# Whoever replays, or is hit by what Redis held back, is far behind too, but comes nearer.
PATIENCE_S = 3.0
# Each viewer is a socket with up to 0.4 MB of buffers: 100 MB.
MOST_VIEWERS = 256
# Each watched session is a connection to Redis and up to 30 MB of history.
MOST_FEEDS = 32

_BLOCK_MS = 1_000
_RETRY_S = 0.25
# Between slices of a replay the live clients of other sessions have their turn: 64 frames take a millisecond.
_SLICE = 64


class Goodbye(msgspec.Struct, frozen=True):
    """How a client's socket is closed: a WebSocket close code, and a sentence for whoever watches."""

    code: int
    reason: str


ENDED = Goodbye(1000, "The session has ended.")
TOO_SLOW = Goodbye(1013, f"This client is more than {MOST_BEHIND} frames behind: connect again to go on.")
STOPPING = Goodbye(1001, "The web server stops: connect again in a moment.")


class Viewer:
    """One client's place in a feed: `at` is the next frame that it gets."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.at = max(0, len(feed.history) - FRAMES_MAXLEN)
        self._nearest = 0
        self._nearest_at_s = 0.0
        self._news = asyncio.Event()
        self.cut_off: asyncio.Future[Goodbye] = asyncio.get_running_loop().create_future()

    async def send_all(self, send: Callable[[bytes], Awaitable[None]]) -> Goodbye:
        """Sends every frame from `at` on as fast as `send` takes them, until there are no more or it is dismissed."""
        history = self._feed.history
        while not self.cut_off.done():
            self._news.clear()
            while self.at < len(history):
                for line in history.lines_from(self.at):
                    await send(line)
                    self.at += 1
            if self._feed.goodbye:
                return self._feed.goodbye
            await self._news.wait()
        return self.cut_off.result()

    def hear(self, now_s: float) -> None:
        """The feed has something new at `now_s` of the loop's time."""
        behind = len(self._feed.history) - self.at
        if behind <= MOST_BEHIND:
            self._nearest = 0
        elif not 0 < self._nearest <= behind:
            self._nearest, self._nearest_at_s = behind, now_s
        elif now_s - self._nearest_at_s > PATIENCE_S:
            self.dismiss(TOO_SLOW)
        self._news.set()

    def dismiss(self, goodbye: Goodbye) -> None:
        """Ends its watching, wherever it stands."""
        if not self.cut_off.done():
            self.cut_off.set_result(goodbye)
            self._news.set()


class Feed:
    """One session's frames and those who watch them. `goodbye` is set when no frame will follow."""

    def __init__(self, url: str, session: str, presence: RedisPresence, log: BoundLogger) -> None:
        self._url, self._session, self._presence = url, session, presence
        self._log = log.bind(session=session)
        self.history = History()
        self.viewers: set[Viewer] = set()
        self.goodbye: Goodbye | None = None
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        pipe, after = AsyncPipe(self._url), "0"
        try:
            while self.goodbye is None:
                try:
                    frames = await read_frames(pipe, self._session, after, _BLOCK_MS)
                    self._presence.come_back()
                    if not frames:
                        self.goodbye = await self._end_without_frame(pipe, after)
                    for start in range(0, len(frames), _SLICE):
                        for _, raw in frames[start : start + _SLICE]:
                            self._add(raw)
                        self._tell()
                        await asyncio.sleep(0)
                    after = frames[-1][0] if frames else after
                except (RedisAway, RedisRefuses) as error:
                    self._presence.lose(error)
                    await asyncio.sleep(_RETRY_S)
        except (SessionGone, Malformed) as error:
            self.goodbye = Goodbye(1011, str(error))
        except Exception:  # noqa: BLE001  # a bug of ours must end the sockets with a reason, not with silence
            self._log.exception("a feed broke")
            self.goodbye = Goodbye(1011, "The web server failed to read this session; its log says why.")
        finally:
            self._tell()
            await pipe.close()

    def _add(self, raw: bytes) -> None:
        frame = decode_frame(raw)
        self.history.append(frame_json(frame))
        if frame.final:
            self.goodbye = ENDED

    async def _end_without_frame(self, pipe: AsyncPipe, after: str) -> Goodbye | None:
        """A session that could not be computed ends in its state only. Raises SessionGone."""
        state = await find_session(pipe, self._session)
        if state.status == "open" or await read_frames(pipe, self._session, after, 1):
            # What came between the first read and the state is read once more by the next.
            return None
        return Goodbye(1011, state.reason or "The session has ended.")

    def _tell(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for viewer in self.viewers:
            viewer.hear(now_s)


class Feeds:
    """The feeds of the sessions that somebody watches. `too_slow` counts the clients that were cut off."""

    def __init__(self, url: str, pipe: AsyncPipe, presence: RedisPresence, log: BoundLogger) -> None:
        self._url, self._pipe, self._presence, self._log = url, pipe, presence, log
        self._feeds: dict[str, Feed] = {}
        self._is_stopping = False
        self.too_slow = 0

    @property
    def viewer_count(self) -> int:
        return sum(len(feed.viewers) for feed in self._feeds.values())

    async def join(self, session: str) -> Viewer:
        """A new viewer of the session, who shall leave. Raises SessionGone, RedisAway; Refused: too many."""
        if session not in self._feeds:
            await find_session(self._pipe, session)
        if self.viewer_count >= MOST_VIEWERS:
            raise Refused("too_many_clients", f"{MOST_VIEWERS} clients watch already: close one of them.", status=503)
        if session not in self._feeds:
            if len(self._feeds) >= MOST_FEEDS:
                raise Refused(
                    "too_many_sessions", f"{MOST_FEEDS} sessions are watched already: close one of them.", status=503
                )
            self._feeds[session] = Feed(self._url, session, self._presence, self._log)
        feed = self._feeds[session]
        viewer = Viewer(feed)
        feed.viewers.add(viewer)
        if self._is_stopping:
            viewer.dismiss(STOPPING)
        return viewer

    def leave(self, session: str, viewer: Viewer) -> None:
        """Ends its watching. The last one to leave ends the feed."""
        viewer.dismiss(STOPPING)
        feed = self._feeds[session]
        feed.viewers.discard(viewer)
        if not feed.viewers:
            feed.reading.cancel()
            del self._feeds[session]

    def stop(self) -> None:
        """Dismisses everybody, now and from now on."""
        self._is_stopping = True
        for feed in self._feeds.values():
            for viewer in feed.viewers:
                viewer.dismiss(STOPPING)
