"""Reading a streamed answer: its chunks, with a limit on the server's silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Protocol

import httpx

from producers.backend import Chunk, Ending
from producers.servers.encoding import decoded_parts
from producers.servers.faults import ServerFault

# After the reason why it ended, a server sends only its usage and its last line, at once. A slow model whose server
# sends a reason with each chunk needs this time for its second token; from there on the reason is not believed.
TAIL_S = 2.0
# After its last line a server only closes the stream, so that its connection can be used again.
CLOSING_S = 0.5


class AnswerStream(Protocol):
    """The pure half of a streamed answer: bytes to chunks."""

    # Rises with everything that the model produced; pings do not count.
    events: int

    @property
    def may_have_ended(self) -> bool:
        """True once the server has sent a reason for the end, after text: a silence is an end."""

    @property
    def has_ended(self) -> bool:
        """True where nothing but the end is expected: a break of the connection is an end, and so is a short
        silence."""

    @property
    def is_over(self) -> bool:
        """True after the server's last line; the rest of the stream changes nothing."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ServerFault after the last good one; then the stream is over."""

    def rest(self) -> Chunk | None:
        """The text that was kept back, where the stream breaks."""

    def end(self) -> Iterator[Chunk | Ending]:
        """The last chunks and how the answer ended, when no more bytes come. Raises ServerFault where it is not
        complete, or where the model failed."""


async def read_answer(
    response: httpx.Response, stream: AnswerStream, silence_s: float
) -> AsyncGenerator[Chunk | Ending, None]:
    """The chunks of the answer and its Ending; the caller closes the response. A model that has begun may be silent for
    `silence_s`; before that the session's first-token timeout applies. Raises ServerFault, httpx.TransportError."""
    clock = asyncio.get_running_loop().time
    events, silent_at = 0, None
    reads = decoded_parts(response)
    try:
        while data := await _next_bytes(reads, silent_at, silence_s, stream):
            for chunk in stream.feed(data):
                yield chunk
            if stream.events > events:
                events = stream.events
                tail_s = min(CLOSING_S, TAIL_S) if stream.is_over else TAIL_S
                silent_at = clock() + (tail_s if stream.has_ended else silence_s)
    except (ServerFault, httpx.TransportError):
        if rest := stream.rest():
            yield rest
        raise
    for item in stream.end():
        yield item


async def _next_bytes(
    reads: AsyncIterator[bytes], silent_at: float | None, silence_s: float, stream: AnswerStream
) -> bytes:
    """What the network brings next; empty at the end. After the model has ended, a break of the connection is an end
    as well."""
    try:
        async with asyncio.timeout_at(silent_at):
            return await anext(reads)
    except StopAsyncIteration:
        return b""
    except TimeoutError as error:
        if stream.may_have_ended:
            return b""
        raise ServerFault(f"sent nothing for {silence_s:g} s (limits.silence_ms)") from error
    except httpx.TransportError:
        if stream.has_ended:
            return b""
        raise
