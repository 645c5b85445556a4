"""One session's composing: frames that were read become batches of events to write, as many as there is time for.

frames read --take, tell--> batch (at most MOST_FRAMES) --write--> what is still to be read: its lag --> Overload
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from consumers.decipher.composer import Composer
from consumers.decipher.overload import Overload
from schemas.events import Event, encode_event
from schemas.frames import Frame, decode_frame
from schemas.grid import window_start_ns
from transport.events import EventBatch, Written

# A second of frames, 2 ms: so long nobody else of this process has a turn.
MOST_FRAMES = 60
# What is kept for clients that come: the last of each.
_STANDING = ("energy_update", "energy_field", "interference_event", "resonance_event")


class Work(msgspec.Struct):
    """What a DECIPHER has done, and what it had no time for: frames told, those told without analysis, those told
    together with later ones, and those that took longer to compose than they last."""

    frames: int = 0
    frames_without_analysis: int = 0
    frames_batched: int = 0
    frames_overrun: int = 0


class Composing:
    """From the cursor on, where `standing` was what stood."""

    def __init__(self, composer: Composer, cursor: str, standing: dict[str, bytes], work: Work) -> None:
        self._composer, self._standing, self._work = composer, standing, work
        self._overload = Overload()
        self.cursor = cursor

    def note(self, written: Written) -> None:
        """A batch was written."""
        self.cursor = written.cursor
        self._overload.note(written.committed + 1 - _window_part(written.cursor))

    def batches(self, frames: Sequence[tuple[str, bytes]]) -> Iterator[EventBatch]:
        """What the frames, as (entry id, packed frame), come to. Each batch is to be written before the next is asked
        for. Raises Malformed."""
        at = 0
        while at < len(frames):
            is_one = self._overload.level == 2
            part = frames[at:] if is_one else frames[at : at + MOST_FRAMES]
            yield self._told_as_one(part) if is_one else self._told_each(part)
            at += len(part)

    def failure(self, window: int, reason: str) -> EventBatch:
        """The last word on a session that ended after `window` without a final frame."""
        entry_id = f"{window + 2}-0"
        event = self._composer.fail(window_start_ns(window + 1), reason)
        return self._batch(entry_id, [(entry_id, encode_event(event))], final=True)

    def _told_each(self, part: Sequence[tuple[str, bytes]]) -> EventBatch:
        events, with_analysis = list[tuple[str, bytes]](), self._overload.level == 0
        for entry_id, raw in part:
            began = time.perf_counter()
            frame = decode_frame(raw)
            self._composer.take(frame)
            events += self._tell(entry_id, frame, began, with_analysis=with_analysis)
        self._work.frames_without_analysis += 0 if with_analysis else len(part)
        return self._done(part, frame, events)

    def _told_as_one(self, part: Sequence[tuple[str, bytes]]) -> EventBatch:
        began = time.perf_counter()
        for _, raw in part:
            frame = decode_frame(raw)
            self._composer.take(frame)
        self._work.frames_batched += len(part) - 1
        self._work.frames_without_analysis += 1
        return self._done(part, frame, self._tell(part[-1][0], frame, began, with_analysis=False))

    def _tell(self, entry_id: str, frame: Frame, began: float, *, with_analysis: bool) -> list[tuple[str, bytes]]:
        events = self._composer.tell(frame, lambda: (time.perf_counter() - began) * 1000, with_analysis=with_analysis)
        window = _window_part(entry_id)
        return [(f"{window}-{n}", self._encoded(event)) for n, event in enumerate(events)]

    def _encoded(self, event: Event) -> bytes:
        raw, kind = encode_event(event), str(event.__struct_config__.tag)
        self._work.frames_overrun += b'"FRAME_OVERRUN"' in raw if kind == "error_event" else 0
        if kind in _STANDING:
            self._standing[kind] = raw
        return raw

    def _done(self, part: Sequence[tuple[str, bytes]], frame: Frame, events: list[tuple[str, bytes]]) -> EventBatch:
        self._work.frames += len(part)
        return self._batch(part[-1][0], events, final=frame.final)

    def _batch(self, after: str, events: list[tuple[str, bytes]], *, final: bool) -> EventBatch:
        for kind in self._composer.over:
            self._standing.pop(kind, None)
        return EventBatch(
            self.cursor, after, events, final, self._composer.dump(), dict(self._standing), self._composer.phase
        )


def _window_part(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
