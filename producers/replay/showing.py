"""A replay that shows recorded frames as they are: the player commits them instead of an aggregator."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec

from producers.replay.source import RecordedSource
from schemas.control import Progress, Steer
from schemas.entries import Claim, Steered, Token, decode_entry
from schemas.errors import Malformed
from schemas.frames import Frame
from schemas.grid import last_ms_of_window
from schemas.keys import entry_ms
from schemas.rules.claims import ClaimLedger
from schemas.sessions import Opening
from transport.redis.connection import Command, accepted
from transport.replays import show


class FrameShow:
    """The frames of one replay. `last_window` is the last one that was shown (-1: none)."""

    def __init__(self, opening: Opening, source: RecordedSource) -> None:
        self._opening, self._source = opening, source
        self._ledgers = [ClaimLedger() for _ in opening.members]
        self._steers: list[Steer | None] = [None] * len(opening.members)
        # Of a council that writes one answer: its text, when each member's last mark came, and what those members
        # continue whose marks are not written yet.
        self._agreed = ""
        self._marked_ms = [0] * len(opening.members)
        self._unmarked: dict[int, Steer] = {}
        self._windows: list[int] = []
        self.last_window = -1

    def commands(self, entries: Sequence[tuple[str, bytes]], to_ns: int, most: int) -> list[Command]:
        """The commands that show the next frames, `most` at most, of windows that end by `to_ns` since the origin;
        `entries` are written before. Raises Malformed."""
        for entry_id, raw in entries:
            self._accept(entry_id, raw)
        replay = self._opening.replay
        assert replay is not None
        frames: list[Frame] = [
            msgspec.structs.replace(frame, session=self._opening.session, replay_of=replay.of)
            for frame in self._source.take_frames(to_ns, most)
        ]
        self._windows = [frame.window_index for frame in frames]
        before = [self.last_window, *self._windows]
        return [show(frame, self._progress(frame), after) for frame, after in zip(frames, before, strict=False)]

    def _progress(self, frame: Frame) -> tuple[Progress, ...]:
        """What was accepted up to the frame. A member that lost a parting in it continues the agreed text in its next
        branch."""
        self._agreed += frame.consensus.agreed or ""
        for decision in frame.consensus.decisions or ():
            steer = Steer(0, len(self._agreed.encode()), self._agreed)
            last_ms = last_ms_of_window(self._source.origin_ns, frame.window_index)
            self._unmarked |= {m: steer for m in decision.against if self._marked_ms[m] <= last_ms}
        return tuple([self._progress_of(member, now) for member, now in enumerate(self._ledgers)])

    def _progress_of(self, member: int, now: ClaimLedger) -> Progress:
        steer = self._unmarked.get(member)
        if steer is None:
            return Progress(now.claim, now.next_seq, False, None, now.branch, self._steers[member])
        return Progress(now.claim, 0, False, None, now.branch + 1, steer)

    def take(self, replies: Sequence[Any]) -> bool:
        """Takes the replies to the commands; False where a frame was not shown, because Redis has lost entries. Raises
        RedisRefuses."""
        for reply, window in zip(replies, self._windows, strict=True):
            if int(accepted(reply)) != window:
                return False
            self.last_window = window
        return True

    def _accept(self, entry_id: str, raw: bytes) -> None:
        """Notes which claim writes a member, how much of it, and to what it was steered: the web process reads answers
        by that."""
        with contextlib.suppress(Malformed):
            entry = decode_entry(raw)
            if not isinstance(entry, Claim | Token | Steered) or not 0 <= entry.member < len(self._ledgers):
                return
            ledger = self._ledgers[entry.member]
            if isinstance(entry, Claim):
                ledger.add_claim(entry_id)
            elif isinstance(entry, Steered):
                ledger.steer(entry.branch)
                self._marked_ms[entry.member] = entry_ms(entry_id)
                self._unmarked.pop(entry.member, None)
                end = entry.start + len(entry.text.encode())
                self._steers[entry.member] = Steer(entry.start, end, entry.text)
            else:
                ledger.judge_token(entry.claim, entry.seq, entry.branch)
