"""Reading a streamed answer: its chunks, with a limit on the server's silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Protocol

import httpx

from producers.backend import Chunk, Ending
from producers.servers.faults import ServerFault

# After the reason why it ended, a server sends only its usage and its last line, at once.
TAIL_S = 1.0


class AnswerStream(Protocol):
    """The pure half of a streamed answer: bytes to chunks."""

    # Rises with everything that the model produced; pings do not count.
    events: int

    @property
    def finished(self) -> bool:
        """True once the model has ended by itself; the rest of the stream changes nothing."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""

    def end(self) -> Ending:
        """How the answer ended, when no more bytes come. Raises ServerFault where it is not complete."""


async def read_answer(
    response: httpx.Response, stream: AnswerStream, silence_s: float
) -> AsyncGenerator[Chunk | Ending, None]:
    """The chunks of the answer and its Ending; the caller closes the response. A model that has begun may be silent for
    `silence_s`; before that the session's first-token timeout applies. Raises ServerFault, httpx.TransportError."""
    clock = asyncio.get_running_loop().time
    events, silent_at = 0, None
    reads = response.aiter_raw()
    while data := await _next_bytes(reads, silent_at, silence_s, stream):
        for chunk in stream.feed(data):
            yield chunk
        if stream.events > events:
            events = stream.events
            silent_at = clock() + (TAIL_S if stream.finished else silence_s)
    yield stream.end()


async def _next_bytes(
    reads: AsyncIterator[bytes], silent_at: float | None, silence_s: float, stream: AnswerStream
) -> bytes:
    """What the network brings next; empty at the end. After the model has finished, a break of the connection is an end
    as well."""
    try:
        async with asyncio.timeout_at(silent_at):
            return await anext(reads)
    except StopAsyncIteration:
        return b""
    except (TimeoutError, httpx.TransportError) as error:
        if stream.finished:
            return b""
        if isinstance(error, TimeoutError):
            raise ServerFault(f"sent nothing for {silence_s:g} s") from error
        raise
