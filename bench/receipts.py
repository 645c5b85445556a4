"""`python -m bench.receipts URL SESSION [BARE_KEY]`: a blocking reader in its own process; it notes what came when.

It reads frames as every consumer does (transport.frames.wait_for_frames under uvloop) and, on a second connection, the
entries of a bare stream. The clock is read before anything is decoded. At the final frame it hands its notes to whoever
started it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import msgspec
import uvloop

from schemas.frames import decode_frame
from transport.frames import entries_of, wait_for_frames
from transport.redis.connection import BlockingPipe, accepted

_BLOCK_MS = 1_000
_FINAL_S = 10.0
# The last bare entry was written before the final frame, but comes by another connection.
_LAST_BARE_S = 0.2
_READY = b"ready\n"


class Receipt(msgspec.Struct, array_like=True, frozen=True):
    """A frame as the reader had it at `read_ns` (wall clock). `tokens` are (member, seq)."""

    window_index: int
    read_ns: int
    frame_bytes: int
    tokens: list[tuple[int, int]]


class Notes(msgspec.Struct, array_like=True):
    """All receipts of a session; `bare` maps the ids of bare entries to when the reader had them."""

    frames: list[Receipt] = []
    bare: dict[str, int] = {}


class Reader:
    """The reader's process, from the side of whoever started it. It reads from `session`'s first frame on."""

    def __init__(self, url: str, session: str, bare_key: str = "") -> None:
        command = [sys.executable, "-m", "bench.receipts", url, session, *([bare_key] if bare_key else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _READY:
            raise RuntimeError("the reader did not start")

    def notes(self) -> Notes:
        """Waits for the final frame; what was read until then. Raises subprocess.TimeoutExpired where none comes."""
        try:
            output, _ = self._process.communicate(timeout=_FINAL_S)
        finally:
            self._process.kill()
        return msgspec.msgpack.decode(output, type=Notes)


async def _read_bare(pipe: BlockingPipe, key: str, notes: Notes) -> None:
    after = "0"
    while True:
        reply = accepted(await pipe.wait(("XREAD", "STREAMS", key, after), _BLOCK_MS))
        read_ns = time.time_ns()
        for after, _ in entries_of(reply):
            notes.bare[after] = read_ns


async def _read_frames(pipe: BlockingPipe, session: str, notes: Notes) -> None:
    after, is_final = "0", False
    while not is_final:
        found = await wait_for_frames(pipe, session, after, _BLOCK_MS)
        read_ns = time.time_ns()
        for after, raw in found:  # noqa: B007
            frame = decode_frame(raw)
            is_final = frame.final
            tokens = [(token.member, token.seq) for token in frame.tokens]
            notes.frames.append(Receipt(frame.window_index, read_ns, len(raw), tokens))


async def _note(url: str, session: str, bare_key: str) -> Notes:
    notes, pipe, bare_pipe = Notes(), BlockingPipe(url), BlockingPipe(url)
    await asyncio.gather(pipe.one("PING"), bare_pipe.one("PING"))
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    reading = asyncio.create_task(_read_bare(bare_pipe, bare_key, notes)) if bare_key else None
    await _read_frames(pipe, session, notes)
    if reading:
        await asyncio.sleep(_LAST_BARE_S)
        reading.cancel()
    await pipe.close()
    await bare_pipe.close()
    return notes


def main() -> None:
    url, session, *bare_key = sys.argv[1:]
    notes = uvloop.run(_note(url, session, bare_key[0] if bare_key else ""))
    sys.stdout.buffer.write(msgspec.msgpack.encode(notes))


if __name__ == "__main__":
    main()
