"""One session's composing: frames that were read become batches of events to write, as many as there is time for.

frames read --add, compose--> batch (at most MOST_FRAMES) --write--> how many frames are not composed yet --> Overload
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from consumers.decipher.composer import Composer
from consumers.decipher.overload import Overload
from consumers.decipher.troubles import decipher_failed, session_failed
from schemas.events import ErrorPayload, Event, encode_event
from schemas.frames import Frame, decode_frame
from schemas.grid import window_start_ns
from schemas.keys import entry_order
from transport.events import EventBatch, WrittenBatch
from transport.following import new_nonce

# A second of frames, 2 ms: no other session of this process is served meanwhile.
MOST_FRAMES = 60
# The types of which the last event is kept for clients that connect later.
_STANDING = ("energy_update", "energy_field", "interference_event", "resonance_event")


class WorkCounts(msgspec.Struct):
    """Frames that a DECIPHER composed: all of them, those without analysis, those composed together with later ones,
    and those that took longer to compose than they last."""

    frames: int = 0
    frames_without_analysis: int = 0
    frames_batched: int = 0
    frames_overrun: int = 0


class BatchComposer:
    """Composes from the cursor on. `standing` are the events that are valid at the cursor, by their types. At most
    `most_frames` make a batch."""

    def __init__(
        self,
        composer: Composer,
        cursor: str,
        standing: dict[str, bytes],
        work: WorkCounts,
        most_frames: int = MOST_FRAMES,
    ) -> None:
        self._composer, self._standing, self._work, self._most_frames = composer, standing, work, most_frames
        self._overload = Overload()
        self.cursor = cursor
        self._nonce = new_nonce()

    @property
    def windows(self) -> int:
        """How many windows are composed."""
        return entry_order(self.cursor)[0]

    def note(self, written: WrittenBatch) -> None:
        """A batch was written."""
        self.cursor = written.cursor
        self._overload.note(written.committed + 1 - self.windows)

    def batches(self, frames: Sequence[tuple[str, bytes]]) -> Iterator[EventBatch]:
        """The events of the frames, given as (entry id, packed frame). Each batch must be written before the next is
        taken. Raises Malformed."""
        at = 0
        while at < len(frames):
            are_joined = self._overload.level == 2
            part = frames[at:] if are_joined else frames[at : at + self._most_frames]
            yield self._joined(part) if are_joined else self._one_by_one(part)
            at += len(part)

    def session_failed(self, window: int, reason: str) -> EventBatch:
        """The last event of a session that ended after `window` without a final frame."""
        return self._last(window + 1, session_failed(reason))

    def decipher_failed(self, reason: str) -> EventBatch:
        """The last event of a session whose frames after the cursor cannot be composed."""
        return self._last(self.windows, decipher_failed(reason))

    def _last(self, windows: int, payload: ErrorPayload) -> EventBatch:
        entry_id = f"{windows + 1}-0"
        event = self._composer.fail(window_start_ns(windows), payload)
        return self._batch(entry_id, [(entry_id, encode_event(event))], final=True)

    def _one_by_one(self, part: Sequence[tuple[str, bytes]]) -> EventBatch:
        events, with_analysis = list[tuple[str, bytes]](), self._overload.level == 0
        for entry_id, raw in part:
            began = time.perf_counter()
            frame = decode_frame(raw)
            self._composer.add(frame)
            events += self._events(entry_id, frame, began, with_analysis=with_analysis)
        self._work.frames_without_analysis += 0 if with_analysis else len(part)
        return self._done(part, frame, events)

    def _joined(self, part: Sequence[tuple[str, bytes]]) -> EventBatch:
        began = time.perf_counter()
        for _, raw in part:
            frame = decode_frame(raw)
            self._composer.add(frame)
        self._work.frames_batched += len(part) - 1
        self._work.frames_without_analysis += 1
        return self._done(part, frame, self._events(part[-1][0], frame, began, with_analysis=False))

    def _events(self, entry_id: str, frame: Frame, began: float, *, with_analysis: bool) -> list[tuple[str, bytes]]:
        events = self._composer.compose(
            frame, lambda: (time.perf_counter() - began) * 1000, with_analysis=with_analysis
        )
        return [(f"{entry_order(entry_id)[0]}-{n}", self._encoded(event)) for n, event in enumerate(events)]

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
            self.cursor, after, events, final, self._composer.dump(), dict(self._standing), self._composer.phase,
            self._nonce,
        )  # fmt: skip
