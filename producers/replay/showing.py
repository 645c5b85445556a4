"""A replay of recorded frames as they are: the player commits them in the aggregator's place."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec

from producers.replay.source import RecordedSource
from schemas.control import Progress
from schemas.entries import Claim, Token, decode_entry
from schemas.errors import Malformed
from schemas.frames import Frame
from schemas.rules.claims import ClaimLedger
from schemas.sessions import Opening
from transport.redis.connection import Command, accepted
from transport.replays import show


class FrameShow:
    """The frames of one replay. `last_window` is the one that was shown last (-1: none)."""

    def __init__(self, opening: Opening, source: RecordedSource) -> None:
        self._opening, self._source = opening, source
        self._ledgers = [ClaimLedger() for _ in opening.members]
        self._windows: list[int] = []
        self.last_window = -1

    def commands(self, entries: Sequence[tuple[str, bytes]], to_ns: int, most: int) -> list[Command]:
        """What shows the next frames, of windows that end by `to_ns` since the origin, at most so many; `entries` are
        written before. Raises Malformed."""
        for entry_id, raw in entries:
            self._accept(entry_id, raw)
        replay = self._opening.replay
        assert replay is not None
        progress = tuple([Progress(ledger.claim, ledger.next_seq, False) for ledger in self._ledgers])
        frames: list[Frame] = [
            msgspec.structs.replace(frame, session=self._opening.session, replay_of=replay.of)
            for frame in self._source.take_frames(to_ns, most)
        ]
        self._windows = [frame.window_index for frame in frames]
        before = [self.last_window, *self._windows]
        return [show(frame, progress, after) for frame, after in zip(frames, before, strict=False)]

    def take(self, replies: Sequence[Any]) -> bool:
        """Takes in the replies to the commands; False where a frame was not shown: Redis was set back. Raises
        RedisRefuses."""
        for reply, window in zip(replies, self._windows, strict=True):
            if int(accepted(reply)) != window:
                return False
            self.last_window = window
        return True

    def _accept(self, entry_id: str, raw: bytes) -> None:
        """Which claim writes a member, and how much of it: what the web reads answers by."""
        with contextlib.suppress(Malformed):
            entry = decode_entry(raw)
            if isinstance(entry, Claim | Token) and 0 <= entry.member < len(self._ledgers):
                ledger = self._ledgers[entry.member]
                if isinstance(entry, Claim):
                    ledger.add_claim(entry_id)
                else:
                    ledger.judge_token(entry.claim, entry.seq)
