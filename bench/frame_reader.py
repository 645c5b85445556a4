"""`python -m bench.frame_reader URL SESSION [BARE_KEY]`: a process that notes when each frame of a session arrives.

It reads frames as every consumer does (transport.following.StreamReader under uvloop), and on a second connection the
entries of a bare stream. It reads the clock before it decodes anything. After the final frame it writes its notes to
its standard output.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import uvloop

from bench.module_process import READY, ModuleProcess, module_process
from schemas.frames import decode_frame
from transport.following import entries_of
from transport.frames import frames_after
from transport.redis.connection import BlockingPipe, accepted

_BLOCK_MS = 1_000
# The last bare entry was written before the final frame, but arrives on another connection.
_LAST_BARE_S = 0.2


class Receipt(msgspec.Struct, array_like=True, frozen=True):
    """A frame, which the reader had at `read_ns` (wall clock). `tokens` are (member, seq)."""

    window_index: int
    read_ns: int
    frame_bytes: int
    tokens: list[tuple[int, int]]


class Receipts(msgspec.Struct, array_like=True):
    """All frames of a session. `bare`: when the reader had each bare entry, by its id."""

    frames: list[Receipt] = []
    bare: dict[str, int] = {}


@contextmanager
def frame_reader(url: str, session: str, bare_key: str = "") -> Iterator[ModuleProcess]:
    """The reader's process, which reads from the session's first frame on."""
    with module_process("bench.frame_reader", url, session, *([bare_key] if bare_key else [])) as reader:
        reader.line()
        yield reader


def receipts_of(reader: ModuleProcess) -> Receipts:
    """Waits for the final frame; the reader's notes. Raises subprocess.TimeoutExpired where there is no such frame."""
    return msgspec.msgpack.decode(reader.end(), type=Receipts)


async def _read_bare(pipe: BlockingPipe, key: str, receipts: Receipts) -> None:
    after = "0"
    while True:
        reply = accepted(await pipe.wait(("XREAD", "STREAMS", key, after), _BLOCK_MS))
        read_ns = time.time_ns()
        for after, *_ in entries_of(reply):
            receipts.bare[after] = read_ns


async def _read_frames(pipe: BlockingPipe, session: str, receipts: Receipts) -> None:
    reader, is_final = frames_after(pipe, session), False
    while not is_final:
        found = await reader.read(_BLOCK_MS)
        read_ns = time.time_ns()
        for _, raw, _ in found:
            frame = decode_frame(raw)
            is_final = frame.final
            tokens = [(token.member, token.seq) for token in frame.tokens]
            receipts.frames.append(Receipt(frame.window_index, read_ns, len(raw), tokens))


async def _read(url: str, session: str, bare_key: str) -> Receipts:
    receipts, pipe, bare_pipe = Receipts(), BlockingPipe(url), BlockingPipe(url)
    await asyncio.gather(pipe.one("PING"), bare_pipe.one("PING"))
    print(READY, flush=True)
    reading = asyncio.create_task(_read_bare(bare_pipe, bare_key, receipts)) if bare_key else None
    await _read_frames(pipe, session, receipts)
    if reading:
        await asyncio.sleep(_LAST_BARE_S)
        reading.cancel()
    await pipe.close()
    await bare_pipe.close()
    return receipts


def main() -> None:
    url, session, *bare_key = sys.argv[1:]
    receipts = uvloop.run(_read(url, session, bare_key[0] if bare_key else ""))
    sys.stdout.buffer.write(msgspec.msgpack.encode(receipts))


if __name__ == "__main__":
    main()
