"""One session's composing: frames that were read become batches of events to write, as many as there is time for.

frames read --add, compose--> batch (at most MOST_FRAMES) --write--> how many frames are not composed yet --> Overload
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from consumers.decipher.composer import Composer
from consumers.decipher.overload import Overload
from consumers.decipher.troubles import decipher_failed, session_failed, with_error
from schemas.events import ErrorEvent, ErrorPayload, Event, SentError, encode_event
from schemas.frames import Frame, decode_frame
from schemas.keys import entry_order, frame_id
from transport.events import EventBatch, EventCheckpoint, WrittenBatch
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
    """Composes from the checkpoint's cursor on, with a composer that was loaded from it. At most `most_frames` make a
    batch."""

    def __init__(
        self, composer: Composer, checkpoint: EventCheckpoint, work: WorkCounts, most_frames: int = MOST_FRAMES
    ) -> None:
        self._composer, self._work, self._most_frames = composer, work, most_frames
        # What a client that connects later receives: events that are valid at the cursor, by their types, and errors.
        self._standing, self._errors = dict(checkpoint.standing), list(checkpoint.errors)
        self._has_new_errors = False
        self._overload = Overload()
        self.cursor = checkpoint.cursor
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
        """The last events of a session that ended after `window` without a final frame."""
        return self._last(window + 1, session_failed(reason))

    def decipher_failed(self, reason: str) -> EventBatch:
        """The last events of a session whose frames after the cursor cannot be composed."""
        return self._last(self.windows, decipher_failed(reason))

    def _last(self, window: int, error: ErrorPayload) -> EventBatch:
        return self._batch(frame_id(window), self._closing(window, error), final=True)

    def _closing(self, window: int, error: ErrorPayload | None = None) -> list[tuple[str, bytes]]:
        return self._with_ids(window, self._composer.close(window, error))

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
        return self._with_ids(entry_order(entry_id)[0] - 1, events)

    def _with_ids(self, window: int, events: Sequence[Event]) -> list[tuple[str, bytes]]:
        return [(f"{window + 1}-{n}", self._encoded(window, event)) for n, event in enumerate(events)]

    def _encoded(self, window: int, event: Event) -> bytes:
        raw, kind = encode_event(event), str(event.__struct_config__.tag)
        if kind in _STANDING:
            self._standing[kind] = raw
        if isinstance(event, ErrorEvent):
            code = event.payload.code
            self._work.frames_overrun += code == "FRAME_OVERRUN"
            self._errors = with_error(self._errors, SentError(window, code, raw))
            self._has_new_errors = True
        return raw

    def _done(self, part: Sequence[tuple[str, bytes]], frame: Frame, events: list[tuple[str, bytes]]) -> EventBatch:
        self._work.frames += len(part)
        closing = self._closing(frame.window_index + 1) if frame.final else []
        return self._batch(part[-1][0], [*events, *closing], final=frame.final)

    def _batch(self, after: str, events: list[tuple[str, bytes]], *, final: bool) -> EventBatch:
        for kind in self._composer.over:
            self._standing.pop(kind, None)
        errors, self._has_new_errors = self._errors if self._has_new_errors else None, False
        return EventBatch(
            self.cursor, after, events, final, self._composer.dump(), dict(self._standing), self._composer.phase,
            self._nonce, errors=errors,
        )  # fmt: skip
