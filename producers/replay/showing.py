"""A replay that shows recorded frames as they are: the player commits them instead of an aggregator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from producers.replay.source import RecordedSource
from schemas.sessions import Opening
from transport.redis.connection import Command, accepted
from transport.replays import show


class FrameShow:
    """The frames of one replay. `last_window` is the last one that was shown (-1: none)."""

    def __init__(self, opening: Opening, source: RecordedSource) -> None:
        self._opening, self._source = opening, source
        self._windows: list[int] = []
        self.last_window = -1

    def commands(self, to_ns: int, most: int) -> list[Command]:
        """The commands that show the next frames, `most` at most, of windows that end by `to_ns` since the origin.
        Raises Malformed."""
        replay = self._opening.replay
        assert replay is not None
        taken = self._source.take_frames(to_ns, most)
        self._windows = [frame.window_index for frame, _ in taken]
        before = [self.last_window, *self._windows]
        shown = [
            (msgspec.structs.replace(frame, session=self._opening.session, replay_of=replay.of), progress)
            for frame, progress in taken
        ]
        return [show(frame, progress, after) for (frame, progress), after in zip(shown, before, strict=False)]

    def take(self, replies: Sequence[Any]) -> bool:
        """Takes the replies to the commands; False where a frame was not shown, because Redis has lost entries. Raises
        RedisRefuses."""
        for reply, window in zip(replies, self._windows, strict=True):
            if int(accepted(reply)) != window:
                return False
            self.last_window = window
        return True
