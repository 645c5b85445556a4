"""Digests of what the core computes from token streams. Other Pythons run this file: it needs msgspec alone."""

from __future__ import annotations

import hashlib
import sys

import msgspec

from aggregator.core.checkpoint import dump
from aggregator.core.intake import StreamEntry
from aggregator.core.replay import StreamReplay
from schemas.frame_json import recorded_frame_json
from schemas.frames import encode_frame

Streams = dict[str, list[StreamEntry]]


def digests(streams: Streams) -> dict[str, str]:
    """The digest of each token stream's frames, packed and as JSON, and of a checkpoint after each frame with tokens: a
    checkpoint's numbers are not rounded."""
    return {name: _digest(stream) for name, stream in streams.items()}


def _digest(stream: list[StreamEntry]) -> str:
    found, replay = hashlib.sha256(), StreamReplay(stream[0])
    for entry in stream[1:]:
        for closed in replay.add(entry):
            found.update(encode_frame(closed.frame))
            found.update(recorded_frame_json(closed.frame))
            if closed.frame.tokens:
                found.update(dump(replay.session))
    for closed in replay.close_gathered():
        found.update(encode_frame(closed.frame))
    return found.hexdigest()


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(digests(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Streams))))
